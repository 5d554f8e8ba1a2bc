"""The earth mover's distance between clouds."""

from typing import NamedTuple

import torch

from pcdiff.errors import InputError
from pcdiff.ops import _approxmatch, _assignment, _check, _sinkhorn
from pcdiff.ops._points import gather_points, root, tracked, without_padding
from pcdiff.ops.reference import past

METHODS = ("auction", "exact", "sinkhorn", *_approxmatch.VARIANTS)
DEFAULT_TOLERANCE = 1e-3


class EMD(NamedTuple):
    """An earth mover's distance and how it came about.

    Attributes:
        cost: `(B,)`, mean Euclidean distance (not squared) under `assignment`; differentiable.
        assignment: `(B, N)`, int64, a bijection: point i of x goes to point `assignment[b, i]` of y. None for the
            methods that split points: Sinkhorn's and the approximate matches.
        lower_bound: `(B,)`, nothing costs less; equals `cost` where the method is exact. No gradient. None for the
            approximate matches, which prove nothing.
    """

    cost: torch.Tensor
    assignment: torch.Tensor | None
    lower_bound: torch.Tensor | None


def emd(
    x: torch.Tensor,
    y: torch.Tensor,
    method: str = "auction",
    tolerance: float = DEFAULT_TOLERANCE,
    x_lengths: torch.Tensor | None = None,
    y_lengths: torch.Tensor | None = None,
) -> EMD:
    """Return the earth mover's distance of each pair of clouds, with a proof of how close it is.

    `EMD(x, y) = min over bijections f of mean_i |x_i - y_f(i)|`, with the Euclidean, not the squared, distance
    (Fan et al., 2017, arXiv 1612.00603, eq. 2, divided by N).

    Args:
        x: clouds `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        y: clouds `(B, M, D)` of the same dtype and device; a bijection needs M == N.
        method:
            - `"auction"`: an auction with epsilon-scaling (Bertsekas, 1988) until its prices prove
              `cost - lower_bound <= tolerance * cost`.
            - `"exact"`: optimal up to rounding: the auction, then shortest augmenting paths (Jonker & Volgenant,
              1987). Runs on the CPU wherever the clouds are.
            - `"sinkhorn"`: entropic transport with a certified gap (Cuturi, 2013), every point of a cloud weighing
              the same; for clouds of unequal sizes. Slow below a tolerance of 1e-2.
            - `"approxmatch-latent3d"`, `"approxmatch-pointflow"`, `"approxmatch-pytorchemd"`: what the programs of
              these names compute in the place of an EMD, divided by N; the last in squared units. Only for
              comparing with published numbers: up to 1.4 times the EMD, or 6 times the squared one.

            On the CPU auction and exact end after at most 400 N bids and 2 N shortest paths, O(N^3) whatever the
            clouds; their promise is kept unless distances differ so much in size (10^14 and more) that float64
            sums lose the small ones. On CUDA the rounds of the auction are bounded. A pair that ends with an open
            gap is returned with it, and a warning. Without native kernels both are SciPy's exact solver.
        tolerance: of auction (above 0, below 1) and Sinkhorn (1e-6 to 1), relative to the cost; the others do not
            read it. Where float32 cannot resolve it (below 4e-6), the auction continues to the optimum.
        x_lengths: `(B,)` int64: only the first `x_lengths[b]` points of x's cloud b are there. The values in the
            rest does not matter; its `assignment` points at itself. Not for the approximate matches.
        y_lengths: likewise of y; equal to `x_lengths` where a bijection is wanted.

    Returns:
        `EMD(cost (B,), assignment (B, N), lower_bound (B,))`. The cost is differentiable in x and y with the
        assignment, or the plan, held constant; where the EMD is differentiable, this is its gradient.

    Raises:
        InputError: the clouds differ in size, do not fit together otherwise, or hold NaN or infinite
            coordinates; a length is out of range; the method is unknown, or the tolerance not in its range.

    Example:
        >>> x = torch.tensor([[[0.0], [1.0]]])
        >>> emd(x, x.flip(1)).assignment
        tensor([[1, 0]])
    """
    _check.one_of("method", method, METHODS)
    if method == "sinkhorn":
        cost, lower_bound = _sinkhorn.sinkhorn(x, y, float(tolerance), x_lengths, y_lengths)
        return EMD(cost, None, lower_bound)
    if method in _approxmatch.VARIANTS:
        if x_lengths is not None or y_lengths is not None:
            raise InputError(f"x_lengths and y_lengths must be None with method {method!r}, got lengths")
        return EMD(_approxmatch.approxmatch_cost(x, y, method), None, None)

    x, y = _check.clouds("x", x), _check.clouds("y", y)
    _check.alike("x", x, "y", y)
    _check.equal_sizes("x", x, "y", y)
    _check.lengths("x_lengths", x_lengths, "x", x)
    _check.lengths("y_lengths", y_lengths, "y", y)
    _check.equal_lengths(x_lengths, y_lengths)
    padding = past(x_lengths, x.shape[1])
    x, y = without_padding(x, padding), without_padding(y, padding)
    if method == "auction":
        _check.tolerance(tolerance)
    share = 0.0 if method == "exact" else float(tolerance)
    assignment, cost, lower_bound = _assignment.assign(x, y, x_lengths, share)
    if tracked(x, y):
        distance = root((x - gather_points(y, assignment)).square().sum(dim=-1))
        sums = distance.sum(dim=1) / (x.shape[1] if x_lengths is None else x_lengths)
        # The value that the lower bound was certified for, with the gradient of the sum.
        cost = cost + (sums - sums.detach())
    return EMD(cost, assignment, lower_bound)
