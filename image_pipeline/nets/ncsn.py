"""NCSN (Song & Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution", NeurIPS 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from image_pipeline.nets.checks import check_fields, check_images, check_levels, check_no_condition, check_sizes
from image_pipeline.nets.instance_norm import NORMS
from image_pipeline.nets.refinenet import VARIANTS, RefineNet
from pcdiff.errors import InputError
from pcdiff.nets.activations import activation


@dataclass(frozen=True)
class NCSNConfig:
    """NCSN in score_sde's names; the defaults are the paper's CIFAR-10 net."""

    num_channels: int = 3
    """Channels of the images."""
    centered: bool = False
    """The images come in [-1, 1]; otherwise in [0, 1], and the net stretches them."""
    nf: int = 128
    """Channels at the largest size; twice as many below (ngf in the authors' own configs)."""
    num_scales: int = 10
    """Noise levels, each of which has its own norms (num_classes in the authors' own configs)."""
    nonlinearity: Literal["elu", "relu", "lrelu", "swish"] = "elu"
    """The activation."""
    variant: Literal["base", "deeper"] = "base"
    """The paper's net, or `NCSNdeeper` of NCSNv2's code, with one stage more."""
    normalization: Literal["InstanceNorm++", "VarianceNorm"] = "InstanceNorm++"
    """The norm, each noise level with its own factors."""


class NCSN(nn.Module):
    """A RefineNet whose every norm is conditioned on the noise level; it predicts the score (appendix A).

    Args:
        config: what is built.

    Raises:
        InputError: a field is out of range.

    Example:
        >>> net = NCSN(NCSNConfig(nf=16))
        >>> net(torch.rand(2, 3, 32, 32), torch.tensor([0, 9])).shape  # labels: 0 is the largest level
        torch.Size([2, 3, 32, 32])
    """

    Config = NCSNConfig
    label = "levels"

    def __init__(self, config: NCSNConfig | None = None):
        super().__init__()
        self.config = config = NCSNConfig() if config is None else config
        self.num_levels = config.num_scales
        check_fields(config, {"at least 1": "num_channels num_scales", "at least 2": "nf"})
        for name, known in (("variant", ("base", "deeper")), ("normalization", NORMS)):
            if getattr(config, name) not in known:
                raise InputError(f"{name} must be one of {sorted(known)}, got {getattr(config, name)!r}")
        nf, self.act = config.nf, activation(config.nonlinearity, "nonlinearity")
        norm = partial(NORMS[config.normalization][1], num_scales=config.num_scales)
        stages, widths = VARIANTS[config.variant]
        self.multiple = 2 ** sum(stage.halved for stage in stages)
        self.stem = nn.Conv2d(config.num_channels, nf, 3, padding=1)
        stages = [stage._replace(width=nf * stage.width) for stage in stages]
        self.trunk = RefineNet(stages, [nf * width for width in widths], norm, norm, self.act, "avg")
        self.norm = norm(nf)
        self.head = nn.Conv2d(nf, config.num_channels, 3, padding=1)

    def check_sizes(self, sizes: Sequence[int]) -> None:
        """Raise InputError unless the net can halve images of these sides (H, W)."""
        check_sizes(sizes, self.multiple, 2 * self.multiple)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Predict the score.

        Args:
            x: images `(B, C, H, W)`; H and W are multiples of 2 (deeper: of 4), twice that at least.
            t: indices of noise levels `(B,)`, 0 the largest.
            cond: None.

        Returns:
            A tensor like `x`.

        Raises:
            InputError: a shape or label does not fit.
        """
        check_no_condition(cond)
        check_images(x, t, self.config.num_channels, self.multiple, 2 * self.multiple)
        label = check_levels(t, self.config.num_scales)
        h = self.trunk(self.stem(x if self.config.centered else 2 * x - 1), label)
        return self.head(self.act(self.norm(h, label))).to(x.dtype)
