"""Nearest neighbors and the Chamfer distance.

The kernels find the neighbors; the distances to them are ordinary PyTorch on gathered points. So gradients of any
order, `torch.compile` and forward mode need nothing written by hand.
"""

from typing import Literal, NamedTuple, overload

import torch

from pcdiff.ops import _check, _nearest
from pcdiff.ops._points import gather_points, root, squared_distances, tracked, without_padding
from pcdiff.ops.reference import past


class Nearest(NamedTuple):
    """Nearest neighbors: `squared_distance` `(B, N)`, differentiable, and `index` `(B, N)`, int64."""

    squared_distance: torch.Tensor
    index: torch.Tensor


class Directions(NamedTuple):
    """The two terms of a Chamfer distance, each `(B,)`: from x to its nearest y, and from y to its nearest x."""

    x_to_y: torch.Tensor
    y_to_x: torch.Tensor


def _recomputed(
    x: torch.Tensor, y: torch.Tensor, index: torch.Tensor, padding: torch.Tensor | None
) -> torch.Tensor:
    squared = squared_distances(x, gather_points(y, index))
    return squared if padding is None else squared.masked_fill(padding, 0)


def nearest(
    x: torch.Tensor,
    y: torch.Tensor,
    x_lengths: torch.Tensor | None = None,
    y_lengths: torch.Tensor | None = None,
) -> Nearest:
    """Find, for each point of x, the nearest point of y (Euclidean; of equally near ones the first).

    Args:
        x: query clouds `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        y: clouds `(B, M, D)` of the same dtype, device and batch size; M may differ from N.
        x_lengths: how many rows of each cloud of x are points, int64 `(B,)` in 1..N; None: all. The values in the
            rows past a length does not matter; they get distance 0 and index 0.
        y_lengths: likewise of y, in 1..M; rows past a length are nobody's nearest point.

    Returns:
        `Nearest(squared_distance (B, N), index (B, N))`; the distance is differentiable in x and y.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a cloud is empty, a length is out of range, or a
            coordinate is NaN or infinite.

    Example:
        >>> nearest(torch.zeros(1, 1, 3), torch.tensor([[[2.0, 0, 0], [1.0, 0, 0]]])).index
        tensor([[1]])
    """
    x, y, padding, _ = prepare(x, y, x_lengths, y_lengths)
    squared_distance, index = _nearest.nearest(x, y, x_lengths, y_lengths)
    if tracked(x, y):
        squared_distance = _recomputed(x, y, index, padding)
    return Nearest(squared_distance, index)


def prepare(x, y, x_lengths, y_lengths):
    """Return x and y, checked and with zeros for padding, and which rows are padding, `(B, N)` or None each."""
    x, y = _check.clouds("x", x, "(B, N, D)"), _check.clouds("y", y, "(B, M, D)")
    _check.alike("x", x, "y", y)
    _check.lengths("x_lengths", x_lengths, "x", x)
    _check.lengths("y_lengths", y_lengths, "y", y)
    x_padding, y_padding = past(x_lengths, x.shape[1]), past(y_lengths, y.shape[1])
    return without_padding(x, x_padding), without_padding(y, y_padding), x_padding, y_padding


_REDUCTIONS = ("mean", "sum")
_DIRECTIONS = ("both", "x_to_y", "apart")


@overload
def chamfer(
    x: torch.Tensor,
    y: torch.Tensor,
    x_lengths: torch.Tensor | None = None,
    y_lengths: torch.Tensor | None = None,
    reduction: str = "mean",
    squared: bool = True,
    directions: Literal["both", "x_to_y"] = "both",
) -> torch.Tensor: ...


@overload
def chamfer(
    x: torch.Tensor,
    y: torch.Tensor,
    x_lengths: torch.Tensor | None = None,
    y_lengths: torch.Tensor | None = None,
    reduction: str = "mean",
    squared: bool = True,
    *,
    directions: Literal["apart"],
) -> Directions: ...


def chamfer(x, y, x_lengths=None, y_lengths=None, reduction="mean", squared=True, directions="both"):
    r"""Return the Chamfer distance of each pair of clouds, by default with **squared** distances.

    `CD(x, y) = mean_i min_j |x_i - y_j|^2 + mean_j min_i |x_i - y_j|^2` (Luo & Hu, 2021, arXiv 2103.01458, section
    5.1); the two directions are added, not averaged.

    Args:
        x: clouds `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        y: clouds `(B, M, D)` of the same dtype, device and batch size; M may differ from N.
        x_lengths: how many rows of each cloud of x are points, int64 `(B,)` in 1..N; None: all. The values in the
            rows past a length does not matter, and its gradient is 0.
        y_lengths: likewise of y, in 1..M.
        reduction: over the points of a cloud (those within its length), `"mean"` or `"sum"`.
        squared: False takes the Euclidean distances instead of their squares, so that the result has the unit of
            the coordinates; coincident points have the gradient 0.
        directions: `"both"` adds the two; `"x_to_y"` is the first term alone (for the other, swap the clouds);
            `"apart"` returns both unadded.

    Returns:
        `(B,)`, differentiable in x and y; with `directions="apart"`, `Directions(x_to_y (B,), y_to_x (B,))`.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a cloud is empty, a length is out of range, a
            coordinate is NaN or infinite, or a choice is unknown.

    Example:
        >>> chamfer(torch.zeros(1, 1, 3), torch.ones(1, 4, 3))
        tensor([6.])
    """
    _check.one_of("reduction", reduction, _REDUCTIONS)
    _check.one_of("directions", directions, _DIRECTIONS)
    _check.flag("squared", squared)
    x, y, x_padding, y_padding = prepare(x, y, x_lengths, y_lengths)
    needs_gradient = tracked(x, y)

    def term(a, b, distance, index, padding, lengths):
        if needs_gradient:
            distance = _recomputed(a, b, index, padding)
        total = (distance if squared else root(distance)).sum(dim=1)
        return total if reduction == "sum" else total / (a.shape[1] if lengths is None else lengths)

    if directions == "x_to_y":
        found = _nearest.nearest(x, y, x_lengths, y_lengths)
        return term(x, y, *found, x_padding, x_lengths)
    there, index, back, index_back = _nearest.nearest_both(x, y, x_lengths, y_lengths)
    x_to_y = term(x, y, there, index, x_padding, x_lengths)
    y_to_x = term(y, x, back, index_back, y_padding, y_lengths)
    return Directions(x_to_y, y_to_x) if directions == "apart" else x_to_y + y_to_x
