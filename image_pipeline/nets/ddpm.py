"""DDPM's net as score_sde builds it (Ho, Jain & Abbeel, 2020, appendix B; Song et al., 2021)."""

from dataclasses import asdict, dataclass
from typing import Literal

from image_pipeline.nets.unet import NCSNppConfig, ScoreUNet


@dataclass(frozen=True)
class DDPMConfig:
    """DDPM's net in score_sde's names; the defaults are its CIFAR-10 net of the VP process."""

    image_size: int = 32
    """Size of the images that attention's sizes are counted from (pixels); other sizes can be fed."""
    num_channels: int = 3
    """Channels of the images."""
    centered: bool = True
    """The images come in [-1, 1]; otherwise in [0, 1], and the net stretches them."""
    nf: int = 128
    """Channels at the largest size, a multiple of 32."""
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    """Channels at each size, in units of nf; each size is half the one before."""
    num_res_blocks: int = 2
    """Residual blocks at each size on the way down; one more on the way up."""
    attn_resolutions: tuple[int, ...] = (16,)
    """Sizes that have attention (pixels)."""
    dropout: float = 0.1
    """Share of values dropped in each block, in training."""
    nonlinearity: Literal["elu", "relu", "lrelu", "swish"] = "swish"
    """The activation."""
    resamp_with_conv: bool = True
    """Halve and double with a convolution."""
    scale_by_sigma: bool = False
    """Divide the output by the noise level that the label is the index of."""
    sigma_min: float = 0.01
    """Smallest noise level of that table."""
    sigma_max: float = 50.0
    """Largest noise level of that table, whose index is 0."""
    num_scales: int = 1000
    """Levels in that table."""


class DDPM(ScoreUNet):
    """DDPM's net: NCSN++ with none of its additions, and 32 groups in every norm.

    Args:
        config: what is built.

    Raises:
        InputError: a field is out of range, or 32 groups do not divide the channels.

    Example:
        >>> net = DDPM(DDPMConfig(nf=32, ch_mult=(1, 2), num_res_blocks=1))
        >>> net(torch.zeros(2, 3, 32, 32), torch.tensor([0, 999])).shape  # labels are steps
        torch.Size([2, 3, 32, 32])
    """

    Config = DDPMConfig

    def __init__(self, config: DDPMConfig | None = None):
        config = DDPMConfig() if config is None else config
        plain = NCSNppConfig(
            **asdict(config),
            resblock_type="ddpm",
            fir=False,
            skip_rescale=False,
            progressive_input="none",
            embedding_type="positional",
        )
        super().__init__(plain, groups=32, shortcut_scale=0.1)
        self.config = config
