"""Nearest neighbours and the Chamfer distance.

The kernels find the neighbours; the distances to them are ordinary PyTorch on gathered points. So gradients of any
order, `torch.compile` and forward mode need nothing written by hand.
"""

from typing import NamedTuple

import torch

from pcdiff.ops import _check, _nearest


class Nearest(NamedTuple):
    """Nearest neighbours: `squared_distance` `(B, N)`, differentiable, and `index` `(B, N)`, int64."""

    squared_distance: torch.Tensor
    index: torch.Tensor


def gather_points(y: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the points `y[b, index[b, i]]`, `(B, N, D)`, of clouds `(B, M, D)` and indices `(B, N)`."""
    return y.gather(1, index[..., None].expand(-1, -1, y.shape[2]))


def _tracked(*tensors: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _squared_distance(x: torch.Tensor, y: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return (x - gather_points(y, index)).square().sum(dim=-1)


def nearest(x: torch.Tensor, y: torch.Tensor) -> Nearest:
    """Find, for each point of x, the nearest point of y (Euclidean; of equally near ones the first).

    Args:
        x: query clouds `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        y: clouds `(B, M, D)` of the same dtype, device and batch size; M may differ from N.

    Returns:
        `Nearest(squared_distance (B, N), index (B, N))`; the distance is differentiable in x and y.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a cloud is empty, or a coordinate is NaN or infinite.

    Example:
        >>> nearest(torch.zeros(1, 1, 3), torch.tensor([[[2.0, 0, 0], [1.0, 0, 0]]])).index
        tensor([[1]])
    """
    x, y = _check.clouds("x", x, "(B, N, D)"), _check.clouds("y", y, "(B, M, D)")
    _check.alike("x", x, "y", y)
    squared_distance, index = _nearest.nearest(x, y)
    if _tracked(x, y):
        squared_distance = _squared_distance(x, y, index)
    return Nearest(squared_distance, index)


_REDUCTIONS = ("mean", "sum")


def chamfer(x: torch.Tensor, y: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    r"""Return the Chamfer distance of each pair of clouds, with **squared** distances.

    `CD(x, y) = mean_i min_j |x_i - y_j|^2 + mean_j min_i |x_i - y_j|^2` (Luo & Hu, 2021, arXiv 2103.01458, section
    5.1); the two directions are added, not averaged.

    Args:
        x: clouds `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        y: clouds `(B, M, D)` of the same dtype, device and batch size; M may differ from N.
        reduction: over the points of a cloud, `"mean"` or `"sum"`.

    Returns:
        `(B,)`, differentiable in x and y.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a cloud is empty, or a coordinate is NaN or infinite.

    Example:
        >>> chamfer(torch.zeros(1, 1, 3), torch.ones(1, 4, 3))
        tensor([6.])
    """
    x, y = _check.clouds("x", x, "(B, N, D)"), _check.clouds("y", y, "(B, M, D)")
    _check.alike("x", x, "y", y)
    _check.one_of("reduction", reduction, _REDUCTIONS)
    there, index, back, index_back = _nearest.nearest_both(x, y)
    if _tracked(x, y):
        there, back = _squared_distance(x, y, index), _squared_distance(y, x, index_back)
    if reduction == "sum":
        return there.sum(dim=1) + back.sum(dim=1)
    return there.mean(dim=1) + back.mean(dim=1)
