"""Nearest neighbors by the native kernels or by the reference: indices and values, outside autograd.

Lengths are int64 `(B,)` on the clouds' device, or None; rows at or past a length get distance 0 and index 0.
"""

import math

import torch

from pcdiff.ops import _native, reference

Lengths = torch.Tensor | None


def nearest(
    x: torch.Tensor, y: torch.Tensor, x_lengths: Lengths = None, y_lengths: Lengths = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return squared distance `(B, N)` and index `(B, N)` of each x's nearest y."""
    x, y = x.detach(), y.detach()
    if _native.has_kernels(x.device):
        return _native.call("nearest", x_lengths, y_lengths, x=x, y=y)
    _native.prepare_reference(x=x, y=y)
    return reference.nearest(x, y, x_lengths, y_lengths)


def nearest_both(
    x: torch.Tensor, y: torch.Tensor, x_lengths: Lengths = None, y_lengths: Lengths = None
) -> tuple[torch.Tensor, ...]:
    """Return `nearest(x, y)` and `nearest(y, x)` as four tensors; the preparation is shared."""
    x, y = x.detach(), y.detach()
    if _native.has_kernels(x.device):
        return _native.call("nearest_both", x_lengths, y_lengths, x=x, y=y)
    _native.prepare_reference(x=x, y=y)
    return (*reference.nearest(x, y, x_lengths, y_lengths), *reference.nearest(y, x, y_lengths, x_lengths))


def knn(
    x: torch.Tensor, y: torch.Tensor, k: int, x_lengths: Lengths = None, y_lengths: Lengths = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return squared distances and indices `(B, N, k)` of each x's k nearest y; infinity and -1 for none."""
    x, y = x.detach(), y.detach()
    if _native.has_kernels(x.device):
        # Within a compiled graph the check of the input, which the sort needs before it, is not possible.
        if torch.compiler.is_compiling() or not sorting_is_less(k, y.shape[1]):
            return _native.call("knn", k, x_lengths, y_lengths, x=x, y=y)
        _native.check_finite(x=x, y=y)
    else:
        _native.prepare_reference(x=x, y=y)
    return reference.knn(x, y, k, x_lengths, y_lengths)


def sorting_is_less(k: int, points: int) -> bool:
    """Return whether sorting all distances of a query is less work than keeping its k nearest in order.

    The kernels keep a sorted list, of which an insertion moves a quarter to a half: k^2 / 4 moves at least, each to
    another line of the cache. A stable sort makes M log2 M comparisons, of about five moves each with torch's
    overhead. Both give the same bits. `python benchmarks/ops.py others` times both ways.
    """
    return k * k > 20 * points * math.log2(max(2, points))


def chamfer_matrix(xs: torch.Tensor, ys: torch.Tensor, upper: bool) -> torch.Tensor:
    """Return `(S, R)` Chamfer distances (mean + mean); with `upper` only those with column > row, the rest 0."""
    xs, ys = xs.detach(), ys.detach()
    if _native.has_kernels(xs.device):
        return _native.call("chamfer_matrix", upper, xs=xs, ys=ys)
    _native.prepare_reference(xs=xs, ys=ys)
    return reference.chamfer_matrix(xs, ys, upper)


@_native.fake("nearest")
def _(x, y, x_lengths, y_lengths):
    return x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2], dtype=torch.int64)


@_native.fake("nearest_both")
def _(x, y, x_lengths, y_lengths):
    return (
        x.new_empty(x.shape[:2]),
        x.new_empty(x.shape[:2], dtype=torch.int64),
        x.new_empty(y.shape[:2]),
        x.new_empty(y.shape[:2], dtype=torch.int64),
    )


@_native.fake("knn")
def _(x, y, k, x_lengths, y_lengths):
    shape = (*x.shape[:2], k)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


@_native.fake("chamfer_matrix")
def _(xs, ys, upper):
    return xs.new_empty((xs.shape[0], ys.shape[0]))


for _name in ("nearest", "nearest_both", "knn"):
    _native.foldable(_name)
