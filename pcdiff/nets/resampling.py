"""Halving and doubling signals, images and volumes, with a convolution or without; images with a FIR filter too.

The filters against aliasing are those of StyleGAN2 (Karras et al., 2020, appendix B; Zhang, 2019), as NCSN++ takes
them over (Song et al., 2021, appendix H), each one strided depthwise convolution: no zero is put in only to be
multiplied.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.errors import InputError

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
AVERAGES = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def fir_kernel_2d(taps: Sequence[float]) -> Tensor:
    """Return the separable filter `(n, n)` of n taps, of sum 1.

    Raises:
        InputError: fewer than two taps, or their sum is 0.
    """
    if len(taps) < 2 or sum(taps) == 0:
        raise InputError(f"taps of a filter must be two or more, of a sum that is not 0, got {tuple(taps)}")
    row = torch.tensor(taps, dtype=torch.float32)
    kernel = torch.outer(row, row)
    return kernel / kernel.sum()


def filtered(x: Tensor, kernel: Tensor, before: int, after: int, stride: int = 1) -> Tensor:
    """Convolve every channel of `(B, C, H, W)` with `kernel (n, n)`, zeros before and after each row and column."""
    weight = kernel.flip(0, 1).to(x.dtype).expand(x.shape[1], 1, -1, -1)
    if before != after:
        x, before = F.pad(x, (before, after, before, after)), 0
    return F.conv2d(x, weight, stride=stride, padding=before, groups=x.shape[1])


def fir_down(x: Tensor, kernel: Tensor) -> Tensor:
    """Filter images `(B, C, H, W)` with `kernel (n, n)` and keep every other pixel: `(B, C, H/2, W/2)`."""
    return filtered(x, kernel, (len(kernel) - 1) // 2, (len(kernel) - 2) // 2, stride=2)


def fir_up(x: Tensor, kernel: Tensor) -> Tensor:
    """Put zeros between pixels of `(B, C, H, W)` and filter with four times `kernel (n, n)`: `(B, C, 2H, 2W)`."""
    weight = (4 * kernel).to(x.dtype).expand(x.shape[1], 1, -1, -1)
    start = len(kernel) - 2 - (len(kernel) - 1) // 2
    full = F.conv_transpose2d(x, weight, stride=2, groups=x.shape[1])
    return full[..., start : start + 2 * x.shape[2], start : start + 2 * x.shape[3]]


class Downsample(nn.Module):
    """Halve every dimension of `(B, C, *dims)`: `(B, out_channels, *dims / 2)`.

    Args:
        in_channels: C.
        out_channels: with a convolution of width 3 to so many channels; None has no convolution, and C stays.
        fir: taps of the filter, in two dimensions; None averages neighbors, or strides the convolution without a
            filter.
        rank: number of dimensions.
        asymmetric_padding: a convolution without a filter pads the far end only, as TensorFlow, and so DDPM, does;
            else one on both ends.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        fir: Sequence[float] | None = None,
        rank: int = 2,
        asymmetric_padding: bool = True,
    ):
        super().__init__()
        assert fir is None or rank == 2
        self.rank, self.pad = rank, ((0, 1) if asymmetric_padding else (1, 1)) * rank
        self.conv = None if out_channels is None else CONVS[rank](in_channels, out_channels, 3, stride=2)
        self.kernel: Tensor | None
        self.register_buffer("kernel", None if fir is None else fir_kernel_2d(fir), persistent=False)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """Return the halved tensor; `emb` is let pass, so that this can stand where a residual block does."""
        if self.conv is None:
            return AVERAGES[self.rank](x, 2) if self.kernel is None else fir_down(x, self.kernel)
        if self.kernel is None:
            return self.conv(F.pad(x, self.pad))
        # the filter is not thinned out: the convolution behind it takes the stride
        return self.conv(filtered(x, self.kernel, (len(self.kernel) + 1) // 2, len(self.kernel) // 2))


class Upsample(nn.Module):
    """Double every dimension of `(B, C, *dims)`: `(B, out_channels, *2 dims)`.

    Args:
        in_channels: C.
        out_channels: with a convolution of width 3 to so many channels; None has no convolution, and C stays.
        fir: taps of the filter, in two dimensions; None repeats every value.
        rank: number of dimensions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        fir: Sequence[float] | None = None,
        rank: int = 2,
    ):
        super().__init__()
        assert fir is None or rank == 2
        self.conv = None if out_channels is None else CONVS[rank](in_channels, out_channels, 3, padding=1)
        self.kernel: Tensor | None
        self.register_buffer("kernel", None if fir is None else fir_kernel_2d(fir), persistent=False)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """Return the doubled tensor; `emb` is let pass, so that this can stand where a residual block does."""
        if self.kernel is None:
            doubled = F.interpolate(x, scale_factor=2.0, mode="nearest")
            return doubled if self.conv is None else self.conv(doubled)
        if self.conv is None:
            return fir_up(x, self.kernel)
        # convolution of the image with zeros between its pixels, then the filter (StyleGAN2's order)
        weight = self.conv.weight.flip(2, 3).transpose(0, 1)
        h = F.conv_transpose2d(x, weight, stride=2)
        h = filtered(h, 4 * self.kernel, (len(self.kernel) - 1) // 2, (len(self.kernel) - 2) // 2)
        return h + self.conv.bias[:, None, None]
