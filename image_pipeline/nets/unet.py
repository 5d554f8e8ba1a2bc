"""The score U-Net of which DDPM's, DDPM++'s and NCSN++'s nets are settings (Song et al., 2021, appendix H)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from image_pipeline.nets.blocks import ResBlock, attention_block
from image_pipeline.nets.checks import check_fields, check_images, check_levels, check_no_condition, check_sizes
from image_pipeline.nets.embeddings import FourierFeatures, TimeMLP
from image_pipeline.nets.layers import conv, group_norm, start_resampling
from image_pipeline.nets.levels import (
    DownLevel,
    InputResidual,
    InputSkip,
    Middle,
    OutputResidual,
    OutputSkip,
    Step,
    UpLevel,
)
from pcdiff.diffusion import geometric_sigmas
from pcdiff.errors import InputError
from pcdiff.nets.activations import activation
from pcdiff.nets.attention import SelfAttention, differentiable_attention
from pcdiff.nets.resampling import Downsample, Upsample
from pcdiff.nets.time_embedding import sinusoidal
from pcdiff.runtime.memory_limit import check_depth


@dataclass(frozen=True)
class NCSNppConfig:
    """NCSN++ in score_sde's names; the defaults are its CIFAR-10 net of the continuous VE process."""

    image_size: int = 32
    """Size of the images that attention's sizes are counted from (pixels); other sizes can be fed."""
    num_channels: int = 3
    """Channels of the images."""
    centered: bool = False
    """The images come in [-1, 1]; otherwise in [0, 1], and the net stretches them."""
    nf: int = 128
    """Channels at the largest size."""
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    """Channels at each size, in units of nf; each size is half the one before."""
    num_res_blocks: int = 4
    """Residual blocks at each size on the way down; one more on the way up."""
    attn_resolutions: tuple[int, ...] = (16,)
    """Sizes that have attention (pixels)."""
    dropout: float = 0.1
    """Share of values dropped in each block, in training."""
    nonlinearity: Literal["elu", "relu", "lrelu", "swish"] = "swish"
    """The activation."""
    resblock_type: Literal["biggan", "ddpm"] = "biggan"
    """Whether residual blocks halve and double the images (`biggan`), or layers between them do (`ddpm`)."""
    resamp_with_conv: bool = True
    """With `ddpm` blocks: halve and double with a convolution."""
    fir: bool = True
    """Filter when halving and doubling."""
    fir_kernel: tuple[float, ...] = (1, 3, 3, 1)
    """Taps of that filter."""
    skip_rescale: bool = True
    """Divide every sum of two ways by sqrt(2)."""
    progressive: Literal["none", "output_skip", "residual"] = "none"
    """How the output grows through the sizes."""
    progressive_input: Literal["none", "input_skip", "residual"] = "residual"
    """How the image is fed to the smaller sizes."""
    progressive_combine: Literal["sum", "cat"] = "sum"
    """How `input_skip` joins it to the features."""
    embedding_type: Literal["fourier", "positional"] = "fourier"
    """Random frequencies of log(label), for labels that are noise levels, or sines and cosines of the label."""
    fourier_scale: float = 16.0
    """Standard deviation of the random frequencies."""
    init_scale: float = 0.0
    """Scale of the start of every block's last layer; 0 stands for 1e-10."""
    scale_by_sigma: bool = True
    """Divide the output by the noise level: the label itself (`fourier`), or the level that it is the index of."""
    sigma_min: float = 0.01
    """Smallest noise level of the table that an index looks up."""
    sigma_max: float = 50.0
    """Largest noise level of that table, whose index is 0."""
    num_scales: int = 1000
    """Levels in that table."""


class ScoreUNet(nn.Module):
    """A U-Net with a label for every image; see `NCSNppConfig` for what it can be.

    Args:
        config: what is built.
        groups: of all group norms of the trunk; None takes `min(channels // 4, 32)`.
        shortcut_scale: of the start of 1x1 shortcuts.

    Raises:
        InputError: a field is out of range, or the group norms cannot share out the channels.
    """

    def __init__(self, config: NCSNppConfig, groups: int | None = None, shortcut_scale: float = 1.0):
        super().__init__()
        _check(config)
        self.num_channels, self.centered = config.num_channels, config.centered
        self.nf, self.fourier = config.nf, config.embedding_type == "fourier"
        self.multiple = 2 ** (len(config.ch_mult) - 1)
        self.scale_by_sigma = config.scale_by_sigma
        self.act = activation(config.nonlinearity, "nonlinearity")
        if config.scale_by_sigma and not self.fourier:
            self.register_buffer("sigmas", geometric_sigmas(config.sigma_max, config.sigma_min, config.num_scales))
            self.num_levels = len(self.sigmas)
        parts = _Parts(config, groups, shortcut_scale)
        self.features = FourierFeatures(config.nf, config.fourier_scale) if self.fourier else None
        self.time = TimeMLP((2 if self.fourier else 1) * config.nf, 4 * config.nf, self.act)
        self.stem = conv(config.num_channels, config.nf)
        self.down, skips = parts.way_down()
        self.middle = Middle(skips[-1], parts.res_block, parts.attention)
        self.up, channels = parts.way_up(skips)
        has_head = config.progressive != "output_skip"  # otherwise the levels' images are the output
        self.norm = group_norm(channels, groups) if has_head else None
        self.head = conv(channels, config.num_channels, scale=config.init_scale) if has_head else None

    @property
    def label(self) -> str:
        """What its labels must be, one of `pcdiff.diffusion.denoisers.time_inputs.LABELS`."""
        if self.fourier:
            return "positive"
        return "levels" if self.scale_by_sigma else "numbers"

    def check_sizes(self, sizes: Sequence[int]) -> None:
        """Raise InputError unless the net can halve images of these sides (H, W)."""
        check_sizes(sizes, self.multiple, self.multiple)

    @differentiable_attention
    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Predict what the denoiser makes of it: noise, or with `scale_by_sigma` the score.

        Args:
            x: images `(B, C, H, W)`; H and W are multiples of `2^(levels - 1)`.
            t: labels `(B,)`: noise levels (`fourier`), steps, or indices into the table of levels.
            cond: None.

        Returns:
            A tensor like `x`.

        Raises:
            InputError: a shape does not fit, or labels are not what the net looks up.
        """
        check_no_condition(cond)
        check_images(x, t, self.num_channels, self.multiple, self.multiple)
        divisor = None
        if self.scale_by_sigma:
            divisor = t if self.fourier else self.sigmas[check_levels(t, len(self.sigmas))]
        if self.features is not None:
            features = self.features(t.to(self.features.dtype).log())
        else:
            features = sinusoidal(t, self.nf, sin_first=True, freq_shift=1, rounding="ddpm")
        emb = self.time(features)

        image = x if self.centered else 2 * x - 1
        skips = [self.stem(image)]
        for level in self.down:
            more, image = level(skips[-1], emb, image)
            skips += more
        h = self.middle(skips[-1], emb)
        image_out: Any = None
        for level in self.up:
            h, image_out = level(h, emb, skips, image_out)
        out = image_out if self.head is None or self.norm is None else self.head(self.act(self.norm(h)))
        out = out.to(x.dtype)
        return out if divisor is None else out / divisor.to(x.dtype)[:, None, None, None]


class _Parts:
    """Builds the levels of one net; what all their parts share is said once."""

    def __init__(self, config: NCSNppConfig, groups: int | None, shortcut_scale: float):
        self.config, self.shortcut_scale = config, shortcut_scale
        self.act = activation(config.nonlinearity, "nonlinearity")
        self.fir = config.fir_kernel if config.fir else None
        self.widths = [config.nf * mult for mult in config.ch_mult]
        self.shared = {"groups": groups, "rescale": config.skip_rescale, "init_scale": config.init_scale}

    def res_block(self, channels: int, out_channels: int, resample: nn.Module | None = None) -> ResBlock:
        return ResBlock(
            channels,
            out_channels,
            emb_channels=4 * self.config.nf,
            act=self.act,
            dropout=self.config.dropout,
            resample=resample,
            shortcut_scale=self.shortcut_scale,
            **self.shared,
        )

    def attention(self, channels: int) -> SelfAttention:
        return attention_block(channels, **self.shared)

    def attention_at(self, level: int) -> SelfAttention | None:
        attended = self.config.image_size // 2**level in self.config.attn_resolutions
        return self.attention(self.widths[level]) if attended else None

    def resampled(self, kind: type[Downsample] | type[Upsample], channels: int) -> nn.Module:
        if self.config.resblock_type == "biggan":
            return self.res_block(channels, channels, kind(channels, fir=self.fir))
        return start_resampling(kind(channels, channels if self.config.resamp_with_conv else None, self.fir))

    def way_down(self) -> tuple[nn.ModuleList, list[int]]:
        """Return the levels, and the channels of all that they leave for the way up."""
        config, levels = self.config, nn.ModuleList()
        channels, pyramid_channels, skips = config.nf, config.num_channels, [config.nf]
        for level, width in enumerate(self.widths):
            steps = []
            for _ in range(config.num_res_blocks):
                steps.append(Step(self.res_block(channels, width), self.attention_at(level)))
                channels = width
                skips.append(channels)
            down = pyramid = None
            if level < len(self.widths) - 1:
                down = self.resampled(Downsample, channels)
                if config.progressive_input == "input_skip":
                    pyramid = InputSkip(config.num_channels, channels, self.fir, config.progressive_combine)
                    channels *= 2 if config.progressive_combine == "cat" else 1
                elif config.progressive_input == "residual":
                    pyramid = InputResidual(pyramid_channels, channels, self.fir, config.skip_rescale)
                    pyramid_channels = channels
                skips.append(channels)
            levels.append(DownLevel(steps, down, pyramid))
        return levels, skips

    def way_up(self, skips: list[int]) -> tuple[nn.ModuleList, int]:
        """Return the levels and the channels of the last; `skips` is what `way_down` gave, and is used up."""
        config, levels = self.config, nn.ModuleList()
        channels, grown = skips[-1], None  # grown: channels of the output's residual path
        for level in reversed(range(len(self.widths))):
            blocks = []
            for _ in range(config.num_res_blocks + 1):
                blocks.append(self.res_block(channels + skips.pop(), self.widths[level]))
                channels = self.widths[level]
            pyramid = None
            if config.progressive == "output_skip":
                first = level == len(self.widths) - 1
                pyramid = OutputSkip(channels, config.num_channels, self.fir, self.act, first, config.init_scale)
            elif config.progressive == "residual":
                pyramid = OutputResidual(grown, channels, self.fir, self.act, config.skip_rescale)
                grown = channels
            up = self.resampled(Upsample, channels) if level else None
            levels.append(UpLevel(blocks, self.attention_at(level), pyramid, up))
        return levels, channels


def _check(config: NCSNppConfig) -> None:
    ranges = {
        "at least 1": "image_size num_channels num_res_blocks ch_mult num_scales",
        "at least 4": "nf",
        "in [0, 1)": "dropout",
        "positive": "sigma_min sigma_max fourier_scale",
    }
    check_fields(config, ranges)
    check_depth("ch_mult", config.ch_mult)
    if not config.ch_mult:
        raise InputError("ch_mult must name at least one size, got none")
    if not config.sigma_min < config.sigma_max:
        raise InputError(f"sigma_min must be below sigma_max, got {config.sigma_min} and {config.sigma_max}")
    if not config.init_scale >= 0:
        raise InputError(f"init_scale must not be negative, got {config.init_scale}")
    if config.image_size % 2 ** (len(config.ch_mult) - 1):
        factor = 2 ** (len(config.ch_mult) - 1)
        raise InputError(f"image_size must be a multiple of {factor}, for so many sizes, got {config.image_size}")
