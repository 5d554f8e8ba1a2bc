"""The k nearest neighbors of every point."""

from typing import NamedTuple

import torch

from pcdiff.ops import _check, _nearest
from pcdiff.ops._points import gather_points, squared_distances, tracked
from pcdiff.ops.chamfer import prepare


class KNN(NamedTuple):
    """The k nearest neighbors: `squared_distance` `(B, N, k)`, differentiable, and `index` `(B, N, k)`, int64."""

    squared_distance: torch.Tensor
    index: torch.Tensor


def knn(
    x: torch.Tensor,
    y: torch.Tensor,
    k: int,
    x_lengths: torch.Tensor | None = None,
    y_lengths: torch.Tensor | None = None,
) -> KNN:
    """Find, for each point of x, the k nearest points of y, sorted by distance and then by place in y.

    A point that is in both clouds is its own neighbor: `knn(x, x, k + 1)` has it in column 0, if none coincides.

    Args:
        x: query clouds `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        y: clouds `(B, M, D)` of the same dtype, device and batch size; M may differ from N.
        k: how many, in 1..M.
        x_lengths: how many rows of each cloud of x are points, int64 `(B,)` in 1..N; None: all. The values in the
            rows past a length does not matter; they get distance 0 and index 0.
        y_lengths: likewise of y, in 1..M. Where a cloud has fewer than k points by length, the neighbors that are
            missing get distance infinity and index -1, which a gather refuses.

    Returns:
        `KNN(squared_distance (B, N, k), index (B, N, k))`, ascending in the last dimension; the distance is
        differentiable in x and y.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a cloud is empty, k or a length is out of range, or a
            coordinate is NaN or infinite.

    Example:
        >>> knn(torch.zeros(1, 1, 1), torch.tensor([[[3.0], [1.0], [-2.0]]]), k=2)
        KNN(squared_distance=tensor([[[1., 4.]]]), index=tensor([[[1, 2]]]))
    """
    x, y, padding, _ = prepare(x, y, x_lengths, y_lengths)
    _check.count_of_points(k, "y", y)
    squared_distance, index = _nearest.knn(x, y, k, x_lengths, y_lengths)
    if tracked(x, y):
        squared_distance = _recomputed(x, y, index, padding)
    return KNN(squared_distance, index)


def _recomputed(x, y, index, padding) -> torch.Tensor:
    missing = index < 0
    points = gather_points(y, index.clamp(min=0))
    squared = squared_distances(x[:, :, None], points).masked_fill(missing, torch.inf)
    return squared if padding is None else squared.masked_fill(padding[..., None], 0)
