"""NCSNv2 (Song & Ermon, "Improved Techniques for Training Score-Based Generative Models", NeurIPS 2020)."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from image_pipeline.nets.instance_norm import NORMS, Unnormalized
from image_pipeline.nets.refinenet import VARIANTS
from image_pipeline.nets.score_refinenet import ScoreRefineNet, check_config
from pcdiff.diffusion import geometric_sigmas


@dataclass(frozen=True)
class NCSNv2Config:
    """NCSNv2 in score_sde's names; the defaults are the paper's CIFAR-10 net."""

    num_channels: int = 3
    """Channels of the images."""
    centered: bool = False
    """The images come in [-1, 1]; otherwise in [0, 1], and the net stretches them."""
    variant: Literal["base", "deeper", "deepest"] = "base"
    """The paper's nets for images up to 64, 128 and 256 pixels (ncsnv2_64, ncsnv2_128, ncsnv2_256 in score_sde)."""
    nf: int = 128
    """Channels at the largest size (ngf in the authors' own configs)."""
    nonlinearity: Literal["elu", "relu", "lrelu", "swish"] = "elu"
    """The activation."""
    sigma_min: float = 0.01
    """Smallest noise level (sigma_end in the authors' own configs)."""
    sigma_max: float = 50.0
    """Largest noise level, whose index is 0 (sigma_begin)."""
    num_scales: int = 232
    """Noise levels (num_classes)."""
    normalization: Literal["InstanceNorm++", "VarianceNorm"] = "InstanceNorm++"
    """The norm of the residual blocks and of the end."""


class NCSNv2(ScoreRefineNet):
    """A RefineNet that is not conditioned on the noise level; its output over sigma is the score (technique 3).

    Args:
        config: what is built.

    Raises:
        InputError: a field is out of range.

    Example:
        >>> net = NCSNv2(NCSNv2Config(nf=16))
        >>> net(torch.rand(2, 3, 32, 32), torch.tensor([0, 231])).shape  # labels: 0 is the largest level
        torch.Size([2, 3, 32, 32])
    """

    Config = NCSNv2Config

    def __init__(self, config: NCSNv2Config | None = None):
        config = NCSNv2Config() if config is None else config
        check_config(config, VARIANTS, "sigma_min sigma_max")
        norm, _ = NORMS[config.normalization]
        super().__init__(config, norm, Unnormalized, "max")
        self.register_buffer("sigmas", geometric_sigmas(config.sigma_max, config.sigma_min, config.num_scales))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return the score, like `x`; arguments and errors are `ScoreRefineNet.forward`'s."""
        out = super().forward(x, t, cond)
        return out / self.sigmas[t].to(x.dtype)[:, None, None, None]
