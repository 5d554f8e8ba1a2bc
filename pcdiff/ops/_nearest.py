"""Nearest neighbours by the native kernels or by the reference: indices and values, outside autograd."""

import torch

from pcdiff.ops import _native, reference


def nearest(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return squared distance `(B, N)` and index `(B, N)` of each x's nearest y."""
    x, y = x.detach(), y.detach()
    if _native.backend(x.device) == "cpu":
        return _native.call("nearest", x=x, y=y)
    _native.prepare_reference(x=x, y=y)
    return reference.nearest(x, y)


def nearest_both(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return `nearest(x, y)` and `nearest(y, x)` as four tensors; the preparation is shared."""
    x, y = x.detach(), y.detach()
    if _native.backend(x.device) == "cpu":
        return _native.call("nearest_both", x=x, y=y)
    _native.prepare_reference(x=x, y=y)
    return (*reference.nearest(x, y), *reference.nearest(y, x))


def chamfer_matrix(xs: torch.Tensor, ys: torch.Tensor, upper: bool) -> torch.Tensor:
    """Return `(S, R)` Chamfer distances (mean + mean); with `upper` only those with column > row, the rest 0."""
    xs, ys = xs.detach(), ys.detach()
    if _native.backend(xs.device) == "cpu":
        return _native.call("chamfer_matrix", upper, xs=xs, ys=ys)
    _native.prepare_reference(xs=xs, ys=ys)
    return reference.chamfer_matrix(xs, ys, upper)


@_native.fake("nearest")
def _(x, y):
    return x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2], dtype=torch.int64)


@_native.fake("nearest_both")
def _(x, y):
    return (
        x.new_empty(x.shape[:2]),
        x.new_empty(x.shape[:2], dtype=torch.int64),
        x.new_empty(y.shape[:2]),
        x.new_empty(y.shape[:2], dtype=torch.int64),
    )


@_native.fake("chamfer_matrix")
def _(xs, ys, upper):
    return xs.new_empty((xs.shape[0], ys.shape[0]))
