"""RefineNet, the trunk of NCSN and NCSNv2 (Lin et al., 2017; Song & Ermon, 2019, appendix A; 2020, appendix B).

A dilated residual net goes down in stages; refine blocks bring the stages' features back together, smallest first.
Every norm is called `norm(x, label)`, and is built by `norm(channels)`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.nets.activations import Activation

Norm = Callable[[int], nn.Module]


class Stage(NamedTuple):
    """Two residual blocks: their width, and whether the first halves the images or both are dilated instead."""

    width: int
    halved: bool = False
    dilation: int = 1


# Widths in units of nf: of the stages from the largest size down, and of the refine blocks on the way back
# (Song & Ermon, 2020, appendix B.1).
VARIANTS: dict[str, tuple[list[Stage], list[int]]] = {
    "base": ([Stage(1), Stage(2, True), Stage(2, dilation=2), Stage(2, dilation=4)], [2, 2, 1, 1]),
    "deeper": (
        [Stage(1), Stage(2, True), Stage(2, True), Stage(4, dilation=2), Stage(4, dilation=4)],
        [4, 2, 2, 1, 1],
    ),
    "deepest": (
        [Stage(1), Stage(2, True), Stage(2, True), Stage(2, True), Stage(4, dilation=2), Stage(4, dilation=4)],
        [4, 2, 2, 2, 1, 1],
    ),
}


def _conv3(in_channels: int, out_channels: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    """Build a 3x3 convolution that keeps the size, with PyTorch's own start, as Song & Ermon's nets have it."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=bias)


class PreActivationBlock(nn.Module):
    """Norm, activation, convolution, twice, beside a shortcut.

    Args:
        channels: of the input.
        stage: what the block belongs to.
        first: the stage's first block, which changes the width and halves; it has a convolution as its shortcut.
        norm: builds a norm.
        act: the activation.
    """

    def __init__(self, channels: int, stage: Stage, first: bool, norm: Norm, act: Activation):
        super().__init__()
        middle = channels if first else stage.width
        self.norm1 = norm(channels)
        self.conv1 = _conv3(channels, middle, stage.dilation)
        self.norm2 = norm(middle)
        self.conv2 = _conv3(middle, stage.width, stage.dilation)
        self.halved = first and stage.halved
        if not first:
            self.shortcut = nn.Identity()
        elif stage.halved:
            self.shortcut = nn.Conv2d(channels, stage.width, 1)
        else:
            self.shortcut = _conv3(channels, stage.width, stage.dilation)
        self.act = act

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return `(B, width, H, W)`, or half that size, from `x (B, C, H, W)`."""
        h = self.conv1(self.act(self.norm1(x, label)))
        h = self.conv2(self.act(self.norm2(h, label))) + self.shortcut(x)
        return F.avg_pool2d(h, 2) if self.halved else h


class ConvUnits(nn.Module):
    """Residual units of two convolutions each, RefineNet's RCU.

    Args:
        channels: of input and output.
        units: how many.
        norm: builds a norm, one before each convolution.
        act: the activation.
    """

    def __init__(self, channels: int, units: int, norm: Norm, act: Activation):
        super().__init__()
        self.norms = nn.ModuleList(norm(channels) for _ in range(2 * units))
        self.convs = nn.ModuleList(_conv3(channels, channels, bias=False) for _ in range(2 * units))
        self.act = act

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return a tensor like `x (B, C, H, W)`."""
        for k in range(0, len(self.convs), 2):
            h = self.convs[k](self.act(self.norms[k](x, label)))
            x = x + self.convs[k + 1](self.act(self.norms[k + 1](h, label)))
        return x


class Fusion(nn.Module):
    """Features of several sizes, brought to one size and width and added, RefineNet's multi-resolution fusion.

    Args:
        in_channels: of each input.
        channels: of the sum.
        norm: builds a norm, one before each convolution.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, norm: Norm):
        super().__init__()
        self.norms = nn.ModuleList(norm(c) for c in in_channels)
        self.convs = nn.ModuleList(_conv3(c, channels) for c in in_channels)

    def forward(self, xs: Sequence[Tensor], label: Tensor) -> Tensor:
        """Return the sum `(B, channels, H, W)` at the size of the first."""
        size, parts = xs[0].shape[2:], []
        for x, norm, conv in zip(xs, self.norms, self.convs, strict=True):
            h = conv(norm(x, label))
            if h.shape[2:] != size:
                h = F.interpolate(h, size=size, mode="bilinear", align_corners=True)
            parts.append(h)
        return sum(parts[1:], parts[0])


class ChainedPooling(nn.Module):
    """Two poolings over 5x5 pixels in a chain, each added to the features, RefineNet's CRP.

    Args:
        channels: of input and output.
        norm: builds a norm, one before each pooling.
        act: the activation.
        pool: `max`, or `avg`, which NCSN takes (Song & Ermon, 2019, appendix A).
    """

    def __init__(self, channels: int, norm: Norm, act: Activation, pool: str):
        super().__init__()
        self.norms = nn.ModuleList(norm(channels) for _ in range(2))
        self.convs = nn.ModuleList(_conv3(channels, channels, bias=False) for _ in range(2))
        self.act = act
        self.pool = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}[pool](5, stride=1, padding=2)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return a tensor like `x (B, C, H, W)`."""
        x = path = self.act(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            path = conv(self.pool(norm(path, label)))
            x = x + path
        return x


class RefineBlock(nn.Module):
    """Units, fusion, chained pooling, units.

    Args:
        in_channels: of each input; one alone needs no fusion.
        channels: of the output.
        last: the last block of the cascade, which ends with three units, not one.
        norm: builds a norm.
        act: the activation.
        pool: of the chained pooling.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, last: bool, norm: Norm, act: Activation, pool: str
    ):
        super().__init__()
        self.adapt = nn.ModuleList(ConvUnits(c, 2, norm, act) for c in in_channels)
        self.fusion = Fusion(in_channels, channels, norm) if len(in_channels) > 1 else None
        self.pooling = ChainedPooling(channels, norm, act, pool)
        self.output = ConvUnits(channels, 3 if last else 1, norm, act)

    def forward(self, xs: Sequence[Tensor], label: Tensor) -> Tensor:
        """Return `(B, channels, H, W)` at the size of the first input."""
        hs = [adapt(x, label) for adapt, x in zip(self.adapt, xs, strict=True)]
        h = hs[0] if self.fusion is None else self.fusion(hs, label)
        return self.output(self.pooling(h, label), label)


class RefineNet(nn.Module):
    """Stages down, refine blocks up.

    Args:
        stages: from the largest size to the smallest; the first neither halves nor is dilated.
        widths: of the refine blocks' outputs, from the smallest size to the largest.
        norm: builds the stages' norms.
        refine_norm: builds the refine blocks' norms.
        act: the activation.
        pool: of the chained poolings.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        widths: Sequence[int],
        norm: Norm,
        refine_norm: Norm,
        act: Activation,
        pool: str,
    ):
        super().__init__()
        self.stages, self.refine = nn.ModuleList(), nn.ModuleList()
        channels = stages[0].width
        for k, stage in enumerate(stages):
            blocks = [
                PreActivationBlock(channels, stage, first=k > 0, norm=norm, act=act),
                PreActivationBlock(stage.width, stage, first=False, norm=norm, act=act),
            ]
            self.stages.append(nn.ModuleList(blocks))
            channels = stage.width
        for k, width in enumerate(widths):
            stage = stages[len(stages) - 1 - k]
            inputs = [stage.width] if k == 0 else [stage.width, channels]
            self.refine.append(RefineBlock(inputs, width, k == len(widths) - 1, refine_norm, act, pool))
            channels = width

    def forward(self, h: Tensor, label: Tensor) -> Tensor:
        """Return features at the size of `h (B, width, H, W)`; `label (B,)` is what norms ask."""
        found = []
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                h = block(h, label)
            found.append(h)
        inputs = [found.pop()]
        for refine in self.refine:
            h = refine(inputs, label)
            inputs = [found.pop(), h] if found else []
        return h
