"""NCSN (Song & Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution", NeurIPS 2019)."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from image_pipeline.models.checks import check_fields, check_images, check_levels, check_no_condition
from image_pipeline.models.instance_norm import ConditionalInstanceNormPlus
from image_pipeline.models.layers import activation
from image_pipeline.models.refinenet import RefineNet, Stage


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


class NCSN(nn.Module):
    """A RefineNet whose every norm knows the noise level; it predicts the score (appendix A).

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
        nf, self.act = config.nf, activation(config.nonlinearity)
        norm = partial(ConditionalInstanceNormPlus, num_scales=config.num_scales)
        stages = [Stage(nf), Stage(2 * nf, halved=True), Stage(2 * nf, dilation=2), Stage(2 * nf, dilation=4)]
        self.stem = nn.Conv2d(config.num_channels, nf, 3, padding=1)
        self.trunk = RefineNet(stages, [2 * nf, 2 * nf, nf, nf], norm, norm, self.act, "avg")
        self.norm = norm(nf)
        self.head = nn.Conv2d(nf, config.num_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Predict the score.

        Args:
            x: images `(B, C, H, W)`; H and W are even, at least 4.
            t: indices of noise levels `(B,)`, 0 the largest.
            cond: None.

        Returns:
            A tensor like `x`.

        Raises:
            InputError: a shape or label does not fit.
        """
        check_no_condition(cond)
        check_images(x, t, self.config.num_channels, 2, 4)
        label = check_levels(t, self.config.num_scales)
        h = self.trunk(self.stem(x if self.config.centered else 2 * x - 1), label)
        return self.head(self.act(self.norm(h, label))).to(x.dtype)
