"""NCSNv2 (Song & Ermon, "Improved Techniques for Training Score-Based Generative Models", NeurIPS 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from image_pipeline.nets.checks import check_fields, check_images, check_levels, check_no_condition, check_sizes
from image_pipeline.nets.instance_norm import NORMS, Unnormalised
from image_pipeline.nets.refinenet import VARIANTS, RefineNet
from pcdiff.diffusion import geometric_sigmas
from pcdiff.errors import InputError
from pcdiff.nets.activations import activation


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


class NCSNv2(nn.Module):
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
    label = "levels"

    def __init__(self, config: NCSNv2Config | None = None):
        super().__init__()
        self.config = config = NCSNv2Config() if config is None else config
        ranges = {"at least 1": "num_channels num_scales", "at least 2": "nf", "positive": "sigma_min sigma_max"}
        check_fields(config, ranges)
        for name, known in (("variant", VARIANTS), ("normalization", NORMS)):
            if getattr(config, name) not in known:
                raise InputError(f"{name} must be one of {sorted(known)}, got {getattr(config, name)!r}")
        norm, _ = NORMS[config.normalization]
        stages, widths = VARIANTS[config.variant]
        self.multiple = 2 ** sum(stage.halved for stage in stages)
        nf, self.act = config.nf, activation(config.nonlinearity, "nonlinearity")
        sigmas = geometric_sigmas(config.sigma_max, config.sigma_min, config.num_scales)
        self.register_buffer("sigmas", sigmas)
        self.num_levels = len(sigmas)
        self.stem = nn.Conv2d(config.num_channels, nf, 3, padding=1)
        self.trunk = RefineNet(
            [stage._replace(width=nf * stage.width) for stage in stages],
            [nf * width for width in widths],
            norm,
            Unnormalised,
            self.act,
            "max",
        )
        self.norm = norm(nf)
        self.head = nn.Conv2d(nf, config.num_channels, 3, padding=1)

    def check_sizes(self, sizes: Sequence[int]) -> None:
        """Raise InputError unless the net can halve images of these sides (H, W)."""
        check_sizes(sizes, self.multiple, 2 * self.multiple)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Predict the score.

        Args:
            x: images `(B, C, H, W)`; H and W are multiples of 2, 4 or 8 (base, deeper, deepest), twice that at
                least.
            t: indices of noise levels `(B,)`, 0 the largest.
            cond: None.

        Returns:
            A tensor like `x`.

        Raises:
            InputError: a shape or label does not fit.
        """
        check_no_condition(cond)
        check_images(x, t, self.config.num_channels, self.multiple, 2 * self.multiple)
        sigma = self.sigmas[check_levels(t, len(self.sigmas))].to(x.dtype)
        h = self.trunk(self.stem(x if self.config.centered else 2 * x - 1), t)
        return self.head(self.act(self.norm(h, t))).to(x.dtype) / sigma[:, None, None, None]
