"""The levels of a score U-Net, one for each size of the images, and the pyramids that run beside them.

Modules are registered in the order in which score_sde builds its own, which numbers its weights by it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from image_pipeline.nets.blocks import ResBlock
from image_pipeline.nets.layers import conv, group_norm, start_resampling
from pcdiff.nets.activations import Activation
from pcdiff.nets.attention import SelfAttention
from pcdiff.nets.resampling import Downsample, Upsample


class Step(nn.Module):
    """A residual block, and attention behind it where the level has it.

    Args:
        block: the residual block.
        attention: behind it, or None.
    """

    def __init__(self, block: ResBlock, attention: SelfAttention | None = None):
        super().__init__()
        self.block = block
        self.attention = attention if attention is not None else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return images `(B, C', H, W)` from `x (B, C, H, W)` and the embedding `(B, E)`."""
        return self.attention(self.block(x, emb))


class Combine(nn.Module):
    """A 1x1 convolution of the pyramid, added to the net's features or put beside them.

    Args:
        in_channels: of the pyramid.
        channels: of the features.
        method: `sum` or `cat`.
    """

    def __init__(self, in_channels: int, channels: int, method: str):
        super().__init__()
        self.conv = conv(in_channels, channels, 1)
        self.method = method

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        """Return `(B, channels, H, W)`, with `cat` `(B, 2 channels, H, W)`."""
        own = self.conv(pyramid)
        return own + h if self.method == "sum" else torch.cat([own, h], dim=1)


class InputSkip(nn.Module):
    """The image, halved again and again, is fed to every level (Song et al., 2021, appendix H, "input skip")."""

    def __init__(self, image_channels: int, channels: int, fir: tuple[float, ...] | None, method: str):
        super().__init__()
        self.down = Downsample(image_channels, fir=fir)
        self.combine = Combine(image_channels, channels, method)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the halved pyramid, and the features with it."""
        pyramid = self.down(pyramid)
        return pyramid, self.combine(pyramid, h)


class InputResidual(nn.Module):
    """A residual path of strided convolutions from the image through all levels (appendix H, "residual")."""

    def __init__(self, pyramid_channels: int, channels: int, fir: tuple[float, ...] | None, rescale: bool):
        super().__init__()
        self.down = start_resampling(Downsample(pyramid_channels, channels, fir))
        self.scale = math.sqrt(0.5) if rescale else 1.0

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the path's next value, twice: it is the features too."""
        h = (self.down(pyramid) + h) * self.scale
        return h, h


class OutputSkip(nn.Module):
    """Every level puts out an image; doubled again and again they add up to the output (appendix H, "output skip").

    Args:
        channels: of the features.
        image_channels: of the output.
        fir: taps of the doubling's filter.
        act: the activation.
        first: the smallest level, which has nothing to double.
        init_scale: of the convolution's start.
    """

    def __init__(
        self,
        channels: int,
        image_channels: int,
        fir: tuple[float, ...] | None,
        act: Activation,
        first: bool,
        init_scale: float,
    ):
        super().__init__()
        self.up = None if first else Upsample(image_channels, fir=fir)
        self.norm = group_norm(channels)
        self.conv = conv(channels, image_channels, scale=init_scale)
        self.act = act

    def forward(self, pyramid: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum so far `(B, image_channels, H, W)`, and the features as they are."""
        own = self.conv(self.act(self.norm(h)))
        return (own if self.up is None else self.up(pyramid) + own), h


class OutputResidual(nn.Module):
    """A residual path of doubling convolutions through all levels, from the smallest (appendix H, "residual").

    Args:
        pyramid_channels: of the path before; None at the smallest level, where the path begins.
        channels: of the features.
        fir: taps of the doubling's filter.
        act: the activation.
        rescale: divide the sum by sqrt(2).
    """

    def __init__(
        self,
        pyramid_channels: int | None,
        channels: int,
        fir: tuple[float, ...] | None,
        act: Activation,
        rescale: bool,
    ):
        super().__init__()
        self.first = pyramid_channels is None
        if self.first:
            self.norm, self.conv = group_norm(channels), conv(channels, channels)
        else:
            self.up = start_resampling(Upsample(pyramid_channels, channels, fir))
        self.act = act
        self.scale = math.sqrt(0.5) if rescale else 1.0

    def forward(self, pyramid: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the path's next value and the features, which are the same behind the smallest level."""
        if self.first:
            return self.conv(self.act(self.norm(h))), h
        h = (self.up(pyramid) + h) * self.scale
        return h, h


class DownLevel(nn.Module):
    """Steps at one size, then the way down to the next.

    Args:
        steps: of this size.
        down: halves the features; None at the smallest level.
        pyramid: the input pyramid's part at the next size, or None.
    """

    def __init__(self, steps: list[Step], down: nn.Module | None, pyramid: nn.Module | None):
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.down = down
        self.pyramid = pyramid

    def forward(self, h: Tensor, emb: Tensor, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return all that the way up will want, the last of it the features, and the input pyramid."""
        skips = []
        for step in self.steps:
            h = step(h, emb)
            skips.append(h)
        if self.down is not None:
            h = self.down(h, emb)
            if self.pyramid is not None:
                image, h = self.pyramid(image, h)
            skips.append(h)
        return skips, image


class UpLevel(nn.Module):
    """Steps at one size, each with what the way down left there, then the way up to the next.

    Args:
        blocks: of this size.
        attention: behind them, or None.
        pyramid: the output pyramid's part at this size, or None.
        up: doubles the features; None at the largest level.
    """

    def __init__(
        self,
        blocks: list[ResBlock],
        attention: SelfAttention | None,
        pyramid: nn.Module | None,
        up: nn.Module | None,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = attention if attention is not None else nn.Identity()
        self.pyramid = pyramid
        self.up = up

    def forward(
        self, h: Tensor, emb: Tensor, skips: list[Tensor], image: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the features and the output pyramid; takes its share from the end of `skips`."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        h = self.attention(h)
        if self.pyramid is not None:
            image, h = self.pyramid(image, h)
        return (h if self.up is None else self.up(h, emb)), image


class Middle(nn.Module):
    """Block, attention, block at the smallest size.

    Args:
        channels: of the features.
        res_block: `res_block(channels, out_channels)` builds a block.
        attention: `attention(channels)` builds its attention.
    """

    def __init__(
        self,
        channels: int,
        res_block: Callable[[int, int], ResBlock],
        attention: Callable[[int], SelfAttention],
    ):
        super().__init__()
        self.first = res_block(channels, channels)
        self.attention = attention(channels)
        self.second = res_block(channels, channels)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Return features like `h (B, C, H, W)`."""
        return self.second(self.attention(self.first(h, emb)), emb)
