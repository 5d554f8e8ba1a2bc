"""What can be said of the earth mover's distances of two sets of clouds before all of them are computed."""

import math
from typing import NamedTuple

import torch

from pcdiff.errors import InputError
from pcdiff.ops import _assignment, _check

_FRAMES = 32
# A cloud's projections are kept as this many sums of neighboring order statistics.
_QUANTILES = 256
# Floats of two sets' bounds that are computed at a time.
_FLOATS_AT_ONCE = 1 << 24
_EPSILON = 2.0**-24  # float32's unit roundoff


class PairBounds(NamedTuple):
    """What is known of the earth mover's distances of some pairs.

    Attributes:
        cost: `(K,)`, the mean distance under the best bijection found: an upper bound.
        lower_bound: `(K,)`, nothing costs less; equals `cost` where that is the optimum.
    """

    cost: torch.Tensor
    lower_bound: torch.Tensor


def emd_pairs(
    xs: torch.Tensor, ys: torch.Tensor, pairs: torch.Tensor, enough: torch.Tensor | None = None
) -> PairBounds:
    """Return the exact earth mover's distances of chosen pairs of two sets, or proof that they are large enough.

    A search for nearest clouds does not need the distances of the others: a pair is given up as soon as the
    auction's prices prove that it costs more than `enough`.

    Args:
        xs: a set of S clouds `(S, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        ys: a set of R clouds `(R, N, D)` of the same dtype and device.
        pairs: `(K, 2)` int64: pair k is `xs[pairs[k, 0]]` with `ys[pairs[k, 1]]`.
        enough: `(K,)` float64 distances; None solves every pair to the end.

    Returns:
        `PairBounds`. Where `lower_bound` is not above `enough`, `cost` is the same number as `emd(x, y, "exact")`
        gives; the result of a pair does not depend on the others.

    Raises:
        InputError: shapes, dtypes, devices or indices do not fit, or a coordinate is NaN or infinite.

    Example:
        >>> clouds = torch.randn(5, 100, 3, generator=torch.Generator().manual_seed(0))
        >>> found = emd_pairs(clouds, clouds, torch.tensor([[0, 1], [2, 2]]))
        >>> bool(found.cost[1] == 0)
        True
    """
    xs, ys = _check.clouds("xs", xs, "(S, N, D)"), _check.clouds("ys", ys, "(R, N, D)")
    _check.alike("xs", xs, "ys", ys, batch=False)
    _check.equal_sizes("xs", xs, "ys", ys)
    if not isinstance(pairs, torch.Tensor) or pairs.dtype != torch.int64 or pairs.shape[1:] != (2,):
        raise InputError(f"pairs must be an int64 tensor (K, 2), got {_described(pairs)}")
    if enough is None:
        enough = torch.full((len(pairs),), math.inf, dtype=torch.float64)
    if not isinstance(enough, torch.Tensor) or enough.dtype != torch.float64 or enough.shape != pairs.shape[:1]:
        raise InputError(f"enough must be a float64 tensor ({len(pairs)},), got {_described(enough)}")
    sizes = torch.tensor([len(xs), len(ys)], device=pairs.device)
    outside = ((pairs < 0) | (pairs >= sizes)).any(dim=1).nonzero()
    if len(outside):
        i, j = pairs[int(outside[0])].tolist()
        raise InputError(f"pairs must be in 0..{len(xs) - 1} and 0..{len(ys) - 1}, got ({i}, {j})")
    return PairBounds(*_assignment.costs_of_pairs(xs, ys, pairs, enough))


class Slices(NamedTuple):
    """The sorted projections of a set of n clouds; see `slices`.

    Attributes:
        quantiles: `(3 F, n, Q)` float32, for each axis of F frames: sums of neighboring order statistics, divided
            by the number of points.
        reach: the largest distance of a point from the center.
    """

    quantiles: torch.Tensor
    reach: float


def slices(clouds: torch.Tensor, center: torch.Tensor) -> Slices:
    """Project each cloud on the axes of 32 frames, ready for `sliced_bound`.

    Args:
        clouds: `(n, N, 3)`.
        center: `(3,)`, subtracted; the same for all sets that are compared. Near the clouds it keeps digits.
    """
    clouds = _check.clouds("clouds", clouds, "(n, N, 3)").detach()
    if clouds.shape[2] != 3:
        raise InputError(f"clouds must be (n, N, 3), got {tuple(clouds.shape)}")
    points = clouds.shape[1]
    axes = _frames(_FRAMES).flatten(0, 1).to(clouds.device)
    terms = min(points, _QUANTILES)
    ends = (torch.arange(1, terms + 1, device=clouds.device) * points) // terms
    quantiles = clouds.new_empty((len(axes), len(clouds), terms), dtype=torch.float32)
    reach = 0.0
    for i, cloud in enumerate(clouds):
        centered = cloud.double() - center
        reach = max(reach, float(centered.norm(dim=1).max()))
        ordered = (axes @ centered.T).sort(dim=1).values
        sums = ordered.cumsum(dim=1)[:, ends - 1].diff(dim=1, prepend=ordered.new_zeros(len(axes), 1))
        quantiles[:, i] = sums / points
    return Slices(quantiles, reach)


def sliced_bound(xs: Slices, ys: Slices) -> torch.Tensor:
    r"""Return lower bounds `(S, R)` of the earth mover's distances between two sets of clouds of one size.

    On a line the best bijection is the sorted one, and a projection shortens every move (Rabin et al., "Wasserstein
    barycenter and its application to texture mixing", SSVM 2011). So with `W_k` the mean distance of the sorted
    projections on axis k of an orthonormal frame, `EMD >= |(W_1, W_2, W_3)|`: the mean length of the moves is at
    least the length of their mean absolute components. The largest over 32 frames is returned, which is never below
    the distance of the centroids. Sums of neighboring order statistics replace these, which only lowers the
    bound, and rounding is subtracted.

    Args:
        xs: `slices` of S clouds.
        ys: `slices` of R clouds of as many points, about the same center.
    """
    (axes, count, terms), reach = xs.quantiles.shape, max(xs.reach, ys.reach)
    out = xs.quantiles.new_empty((count, ys.quantiles.shape[1]))
    rows = max(1, _FLOATS_AT_ONCE // (axes * out.shape[1]))
    for first in range(0, count, rows):
        part = xs.quantiles[:, first : first + rows]
        distance = torch.cdist(part, ys.quantiles, p=1.0)  # (3 F, rows, R)
        out[first : first + rows] = distance.unflatten(0, (-1, 3)).norm(dim=1).amax(dim=0)
    return (out * (1 - (terms + 8) * _EPSILON) - 8 * reach * _EPSILON).clamp_(min=0)


def _frames(count: int) -> torch.Tensor:
    """Return rotations `(count, 3, 3)` spread evenly (Alexa, "Super-Fibonacci Spirals", CVPR 2022)."""
    s = torch.arange(count, dtype=torch.float64) + 0.5
    phi, psi = math.sqrt(2), 1.533751168755204288118041
    small, large = (s / count).sqrt(), (1 - s / count).sqrt()
    a, b = 2 * math.pi * s / phi, 2 * math.pi * s / psi
    x, y, z, w = small * a.sin(), small * a.cos(), large * b.sin(), large * b.cos()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _described(value) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return type(value).__name__
