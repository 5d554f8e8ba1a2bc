"""NCSN (Song & Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution", NeurIPS 2019)."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from image_pipeline.nets.instance_norm import NORMS
from image_pipeline.nets.score_refinenet import ScoreRefineNet, check_config


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


class NCSN(ScoreRefineNet):
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

    def __init__(self, config: NCSNConfig | None = None):
        config = NCSNConfig() if config is None else config
        check_config(config, ("base", "deeper"))
        norm = partial(NORMS[config.normalization][1], num_scales=config.num_scales)
        super().__init__(config, norm, norm, "avg")
