"""What NCSN and NCSNv2 share: a RefineNet between two convolutions, which answers to indices of noise levels."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from image_pipeline.nets.checks import check_fields, check_images, check_levels, check_no_condition, check_sizes
from image_pipeline.nets.instance_norm import NORMS
from image_pipeline.nets.refinenet import VARIANTS, Norm, RefineNet
from pcdiff.errors import UnknownName
from pcdiff.nets.activations import activation


class RefineConfig(Protocol):
    """What the configs of both have."""

    num_channels: int
    centered: bool
    variant: str
    nf: int
    nonlinearity: str
    num_scales: int
    normalization: str


def check_config(config: RefineConfig, variants: Collection[str], positive: str = "") -> None:
    """Refuse what neither net can be built from.

    Args:
        config: NCSN's or NCSNv2's.
        variants: keys of `VARIANTS` that the net has.
        positive: names of further fields that must be positive.

    Raises:
        InputError: names the field, what was expected and what came.
    """
    check_fields(config, {"at least 1": "num_channels num_scales", "at least 2": "nf", "positive": positive})
    for name, known in (("variant", variants), ("normalization", NORMS)):
        if getattr(config, name) not in tuple(known):
            raise UnknownName(name, getattr(config, name), sorted(known))


class ScoreRefineNet(nn.Module):
    """Convolution, RefineNet, norm, activation, convolution.

    Args:
        config: checked by `check_config`.
        norm: builds the norms of the stages and of the end.
        refine_norm: builds the refine blocks' norms.
        pool: of the chained poolings, `max` or `avg`.
    """

    label = "levels"

    def __init__(self, config: RefineConfig, norm: Norm, refine_norm: Norm, pool: str):
        super().__init__()
        self.config, self.num_levels = config, config.num_scales
        nf, self.act = config.nf, activation(config.nonlinearity, "nonlinearity")
        stages, widths = VARIANTS[config.variant]
        self.multiple = 2 ** sum(stage.halved for stage in stages)
        self.stem = nn.Conv2d(config.num_channels, nf, 3, padding=1)
        stages = [stage._replace(width=nf * stage.width) for stage in stages]
        self.trunk = RefineNet(stages, [nf * width for width in widths], norm, refine_norm, self.act, pool)
        self.norm = norm(nf)
        self.head = nn.Conv2d(nf, config.num_channels, 3, padding=1)

    def check_sizes(self, sizes: Sequence[int]) -> None:
        """Raise InputError unless the net can halve images of these sides (H, W)."""
        check_sizes(sizes, self.multiple, 2 * self.multiple)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return the net's answer, like `x`.

        Args:
            x: images `(B, C, H, W)`; H and W are multiples of 2, 4 or 8 (base, deeper, deepest), twice that at
                least.
            t: indices of noise levels `(B,)`, 0 the largest.
            cond: None.

        Raises:
            InputError: a shape or label does not fit.
        """
        check_no_condition(cond)
        check_images(x, t, self.config.num_channels, self.multiple, 2 * self.multiple)
        label = check_levels(t, self.num_levels)
        h = self.trunk(self.stem(x if self.config.centered else 2 * x - 1), label)
        return self.head(self.act(self.norm(h, label))).to(x.dtype)
