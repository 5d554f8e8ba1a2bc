"""Halving and doubling images with a smoothing filter (Zhang, 2019; Karras et al., 2020)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FIRFilter(nn.Module):
    """A separable filter for every channel alike.

    Args:
        taps: one dimension of the filter, an even number of them; (1, 1) averages two pixels, (1, 3, 3, 1) smooths.
        gain: what a constant image is multiplied by.
        padding: zeros on each side; by default so many that the size is halved or doubled exactly.
    """

    def __init__(self, taps: Sequence[float], gain: float = 1.0, padding: int | None = None):
        super().__init__()
        taps = torch.tensor(taps, dtype=torch.float32)
        kernel = torch.outer(taps, taps) / taps.sum().square() * gain
        self.padding = (len(taps) - 1) // 2 if padding is None else padding
        # not saved: it follows from the config
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def weight(self, x: Tensor) -> Tensor:
        """Return the filter of every channel of `x (B, C, H, W)`, `(C, 1, taps, taps)`."""
        return self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)


class FIRDownsample(FIRFilter):
    """Filter and keep every second pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, C, H / 2, W / 2)` of `x` `(B, C, H, W)`."""
        return F.conv2d(x, self.weight(x), stride=2, padding=self.padding, groups=x.shape[1])


class FIRUpsample(FIRFilter):
    """Put zeros between pixels and filter."""

    def __init__(self, taps: Sequence[float]):
        super().__init__(taps, gain=4.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, C, 2 H, 2 W)` of `x` `(B, C, H, W)`."""
        return F.conv_transpose2d(x, self.weight(x), stride=2, padding=self.padding, groups=x.shape[1])
