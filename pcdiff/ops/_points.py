"""What the differentiable distances share: padding, gathered points, and when a gradient is wanted."""

import torch
from torch.autograd import forward_ad


def without_padding(x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
    """Return clouds `(B, N, D)` with zeros where `padding` `(B, N)` is set, whatever stood there, NaN included."""
    return x if padding is None else x.masked_fill(padding[..., None], 0)


def gather_points(y: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the rows of y that indices name, such as those of `farthest_point_sample`, `ball_query` or `knn`.

    Args:
        y: `(B, M, C)`: points, or features of points.
        index: int64 `(B, ...)`, in 0..M-1; any other ends with torch's error, on CUDA with an assertion.

    Returns:
        `(B, ..., C)`: `y[b, index[b, ...]]`, differentiable in y.

    Example:
        >>> gather_points(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[2, 0]]]))
        tensor([[[[3.],
                  [1.]]]])
    """
    # Whole rows, in a third of the time that `gather` takes for their elements. A wrong index must not become
    # another cloud's right one: it stays wrong.
    rows = y.shape[1]
    own = in_one_row(index.where((index >= 0) & (index < rows), -len(y) * rows), rows)
    return y.flatten(0, 1).index_select(0, own).unflatten(0, index.shape)


def in_one_row(index: torch.Tensor, rows: int) -> torch.Tensor:
    """Return indices `(B, ...)` into each cloud's `rows` rows as one `(-1,)` into those of all clouds in a row."""
    first = rows * torch.arange(len(index), device=index.device)
    return (index.flatten(1) + first[:, None]).flatten()


def squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the squared distances `(...)` between points `(..., D)`, differentiable.

    Squares are added in the order of the coordinates, as the kernels and the reference do: so a distance keeps its
    bits, and neighbors their order, whether or not a gradient is wanted. `sum` promises no order.
    """
    total, *others = (x - y).square().unbind(-1)
    for square in others:
        total = total + square
    return total


def tracked(*tensors: torch.Tensor) -> bool:
    """Return whether a result needs a derivative, by reverse or forward mode."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return True
    # What is compiled, or inside a transform (vmap), may be differentiated in ways that do not show here.
    if torch.compiler.is_compiling() or any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors)):
        return True
    # Dual numbers live only inside a level that somebody opened.
    if not torch._C._is_fwd_grad_enabled():
        return False
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def root(squared: torch.Tensor) -> torch.Tensor:
    """Return the square root with the derivative 0 at 0.

    The slope is infinite there, and 0 * inf is NaN: coincident points get the subgradient 0.
    """
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)
