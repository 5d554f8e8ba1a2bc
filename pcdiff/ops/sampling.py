"""Farthest point sampling: a few points of a cloud that cover it evenly."""

from numbers import Integral
from typing import Any

import torch

from pcdiff.errors import InputError
from pcdiff.ops import _check, _native
from pcdiff.ops._points import without_padding
from pcdiff.ops.reference import past

_LEGACY_STRIPES = 512


def farthest_point_sample(
    x: torch.Tensor,
    k: int,
    start: int | str | torch.Tensor = 0,
    lengths: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    legacy: bool = False,
) -> torch.Tensor:
    """Choose k points of each cloud, each the farthest from those already chosen.

    The greedy rule of Gonzalez (1985, Theoretical Computer Science 38) and Eldar et al. (1997, IEEE Transactions on
    Image Processing 6(9)): no other k points cover a cloud with balls of less than half the radius. Of equally far
    points the one with the smallest index is taken. The indices are distinct, also where points coincide: once
    every point left coincides with a chosen one, the others follow in ascending order.

    Args:
        x: clouds `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        k: how many points, 1 to N.
        start: the first point: an index for all clouds, an int64 tensor `(B,)`, or `"random"`.
        lengths: int64 `(B,)`, how many rows of each cloud are points; None means all. k may not exceed any.
            The values in rows past a length do not matter.
        generator: for `"random"`, on the device of x; None draws from torch's global one.
        legacy: choose as the published kernels of PointNet++ and PVD do. k may exceed the number of points; once
            every point left coincides with a chosen one, index 0 comes again; of equally far points the one with
            the smallest (index mod 512, index) is taken, another one only in clouds of more than 512 points.

    Returns:
        int64 `(B, k)`, indices into the rows of x in the order of their choice. Time is O(k N D) a cloud.

    Raises:
        InputError: a shape, dtype or device does not fit, a cloud is empty, a coordinate is NaN or infinite, or k,
            start or a length is out of range.

    Example:
        >>> farthest_point_sample(torch.tensor([[[0.0], [1.0], [5.0], [4.0]]]), k=3)
        tensor([[0, 2, 1]])
    """
    x = _check.clouds("x", x).detach()
    _check.flag("legacy", legacy)
    if legacy:
        _check.positive_integer("k", k)
    else:
        _check.count_of_points(k, "x", x)
    _check.lengths("lengths", lengths, "x", x)
    x = without_padding(x, past(lengths, x.shape[1]))
    first = _first(x, start, lengths, generator)
    # Where no value can be asked for, the native op checks again.
    if not _check.out_of_reach(x.device):
        _check_values(x, 1 if legacy else k, first, lengths)
    if _native.has_kernels(x.device):
        return _native.call("farthest_points", int(k), first, lengths, legacy, x=x)
    _native.prepare_reference(x=x)
    return _reference(x, int(k), first, lengths, legacy)


def _first(x, start: Any, lengths, generator) -> torch.Tensor:
    """Return the first indices, int64 `(B,)`."""
    batch, n = x.shape[:2]
    if isinstance(start, str):
        _check.one_of("start", start, ("random",))
        if lengths is None:
            return torch.randint(n, (batch,), generator=generator, device=x.device)
        # float64 below 1 times a length, rounded down, is below the length.
        draw = torch.rand(batch, generator=generator, device=x.device, dtype=torch.float64)
        return (draw * lengths).long()
    if generator is not None:
        raise InputError('generator is only for start="random"')
    if not isinstance(start, bool) and isinstance(start, Integral):
        return torch.full((batch,), int(start), dtype=torch.int64, device=x.device)
    if not isinstance(start, torch.Tensor):
        raise InputError(f'start must be an index, an int64 tensor ({batch},) or "random", got {start!r}')
    if tuple(start.shape) != (batch,) or start.dtype != torch.int64 or start.device != x.device:
        raise InputError(
            f"start must be an int64 tensor ({batch},) on {x.device} like x, "
            f"got {start.dtype} {tuple(start.shape)} on {start.device}"
        )
    return start


def _check_values(x, k, first, lengths) -> None:
    most = torch.full_like(first, x.shape[1]) if lengths is None else lengths
    short = most[most < k]
    if len(short):
        raise InputError(f"k must be at most every length, got {k} with a length of {int(short[0])}")
    outside = (first < 0) | (first >= most)
    if outside.any():
        last, given = int(most[outside][0]) - 1, int(first[outside][0])
        raise InputError(f"start must be in 0..{last}, the points of its cloud, got {given}")


def _reference(
    x: torch.Tensor, k: int, first: torch.Tensor, lengths: torch.Tensor | None, legacy: bool
) -> torch.Tensor:
    batch, n, dim = x.shape
    # A chosen point has the distance -1, one past its cloud's length -2: neither is ever the farthest.
    distance = x.new_full((batch, n), 1e38 if legacy else float("inf"))
    # The published kernels' order, which decides ties: each thread looks at every 512th point.
    places = torch.arange(n, device=x.device)
    order = torch.cat([places[stripe::_LEGACY_STRIPES] for stripe in range(min(n, _LEGACY_STRIPES))])
    padding = past(lengths, n)
    if padding is not None:
        distance.masked_fill_(padding, -2)
    chosen = [first]
    for _ in range(k - 1):
        place = chosen[-1][:, None]
        if not legacy:
            distance.scatter_(1, place, -1)
        point = x.gather(1, place[..., None].expand(-1, -1, dim))
        squares = (x[..., 0] - point[..., 0]).square_()
        for d in range(1, dim):
            squares += (x[..., d] - point[..., d]).square_()
        distance = torch.minimum(distance, squares)
        # argmax, not max: only argmax promises the first of equal values.
        chosen.append(order[distance[:, order].argmax(dim=1)] if legacy else distance.argmax(dim=1))
    return torch.stack(chosen, dim=1)


@_native.fake("farthest_points")
def _(x, k, start, lengths, legacy):
    return x.new_empty((x.shape[0], k), dtype=torch.int64)
