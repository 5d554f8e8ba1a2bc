"""The parts of a UNet over 1, 2 or 3 dimensions: norms, convolutions, resampling, residual blocks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.errors import InputError

ACTIVATIONS = {"silu": F.silu, "relu": F.relu, "mish": F.mish}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


class GroupNorm(nn.GroupNorm):
    """Group normalisation in its weights' precision, whatever the input's (a half-precision torso overflows)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x` `(B, C, *dims)`."""
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def group_norm(channels: int, groups: int = 32, min_channels: int = 1, eps: float = 1e-5) -> GroupNorm:
    """Build a normalisation of at most `groups` groups, each of at least `min_channels` channels.

    Raises:
        InputError: the channels cannot be split so.
    """
    groups = min(groups, channels // min_channels)
    if groups < 1 or channels % groups:
        raise InputError(f"{channels} channels cannot be normalised in {groups} equal groups; change norm_groups")
    return GroupNorm(groups, channels, eps)


def conv(rank: int, in_channels: int, out_channels: int, kernel: int = 3, zero: bool = False) -> nn.Module:
    """Build a convolution that keeps the size; `zero` starts it at 0 (Ho et al., 2020, appendix B)."""
    layer = CONVS[rank](in_channels, out_channels, kernel, padding=kernel // 2)
    if zero:
        nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return layer


class ConvDownsample(nn.Module):
    """Halve every dimension by a strided convolution.

    Args:
        rank: number of dimensions.
        channels: C.
        asymmetric_padding: pad the far end only, as TensorFlow, and so DDPM, does; else one on both ends.
    """

    def __init__(self, rank: int, channels: int, asymmetric_padding: bool = False):
        super().__init__()
        self.pad = (0, 1) * rank if asymmetric_padding else (1, 1) * rank
        self.conv = CONVS[rank](channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, C, *dims / 2)` of `x` `(B, C, *dims)`."""
        return self.conv(F.pad(x, self.pad))


class ConvUpsample(nn.Module):
    """Double every dimension by repetition, then a convolution."""

    def __init__(self, rank: int, channels: int):
        super().__init__()
        self.conv = conv(rank, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, C, 2 * dims)` of `x` `(B, C, *dims)`."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def pool(rank: int) -> nn.Module:
    """Build the average over neighbours that halves every dimension."""
    return POOLS[rank](2)


def nearest() -> nn.Module:
    """Build the repetition that doubles every dimension."""
    return nn.Upsample(scale_factor=2.0, mode="nearest")


class ResBlock(nn.Module):
    """Residual block conditioned on the time (Dhariwal & Nichol, 2021, section 3; Ho et al., 2020, appendix B).

    Args:
        norms: normalisations of `in_channels` and of `out_channels`.
        in_channels: channels of the input.
        out_channels: channels of the output.
        embed_dim: size E of the embedding.
        rank: number of dimensions.
        scale_shift: the embedding scales and shifts after the second norm (adaptive group norm); else it is added
            before it.
        dropout: share of the activations dropped.
        resample: halves or doubles both branches after the first norm.
        project: put a 1x1 convolution on the skip even where the channels stay.
        divisor: the sum of both branches is divided by it.
        activation: a key of `ACTIVATIONS`.
        num_classes: classes of an embedding of its own, added beside the time's; None for no such embedding.
    """

    def __init__(
        self,
        norms: tuple[nn.Module, nn.Module],
        in_channels: int,
        out_channels: int,
        embed_dim: int,
        rank: int = 2,
        scale_shift: bool = True,
        dropout: float = 0.0,
        resample: nn.Module | None = None,
        project: bool = False,
        divisor: float = 1.0,
        activation: str = "silu",
        num_classes: int | None = None,
    ):
        super().__init__()
        self.scale_shift, self.divisor, self.act = scale_shift, divisor, ACTIVATIONS[activation]
        self.norm1, self.norm2 = norms
        self.conv1 = conv(rank, in_channels, out_channels)
        self.embed = nn.Linear(embed_dim, out_channels * (2 if scale_shift else 1))
        self.class_embed = None if num_classes is None else nn.Embedding(num_classes, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(rank, out_channels, out_channels, zero=True)
        self.resample = resample
        same = in_channels == out_channels and not project
        self.skip = nn.Identity() if same else conv(rank, in_channels, out_channels, kernel=1)

    def forward(self, x: Tensor, embedding: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return `(B, out_channels, *dims)`.

        Args:
            x: `(B, in_channels, *dims)`.
            embedding: of time and class, `(B, E)`.
            cond: classes `(B,)`, where the block has an embedding of its own.
        """
        h = self.act(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        bias_or_scale = self.embed(self.act(embedding)).to(h.dtype)
        bias_or_scale = bias_or_scale.view(*bias_or_scale.shape, *[1] * (h.dim() - 2))
        if not self.scale_shift:
            h = h + bias_or_scale
        if self.class_embed is not None:
            bias = self.class_embed(cond).to(h.dtype)
            h = h + bias.view(*bias.shape, *[1] * (h.dim() - 2))
        h = self.norm2(h)
        if self.scale_shift:
            scale, shift = bias_or_scale.chunk(2, dim=1)
            h = torch.addcmul(shift, h, 1 + scale)
        h = self.skip(x) + self.conv2(self.dropout(self.act(h)))
        return h if self.divisor == 1 else h / self.divisor
