"""The earth mover's distance between clouds."""

from typing import NamedTuple

import torch

from pcdiff.ops import _assignment, _check
from pcdiff.ops._points import gather_points, root, without_padding
from pcdiff.ops.reference import past

METHODS = ("auction", "exact")
DEFAULT_TOLERANCE = 1e-3


class EMD(NamedTuple):
    """An earth mover's distance and how it came about.

    Attributes:
        cost: `(B,)`, mean Euclidean distance (not squared) under `assignment`; differentiable.
        assignment: `(B, N)`, int64, a bijection: point i of x goes to point `assignment[b, i]` of y.
        lower_bound: `(B,)`, no bijection costs less; equals `cost` where the method is exact. No gradient.
    """

    cost: torch.Tensor
    assignment: torch.Tensor
    lower_bound: torch.Tensor


def _mean_distance(x, y, assignment, padding, lengths) -> torch.Tensor:
    distance = root((x - gather_points(y, assignment)).square().sum(dim=-1))
    if lengths is None:
        return distance.mean(dim=1)
    return distance.masked_fill(padding, 0).sum(dim=1) / lengths


def emd(
    x: torch.Tensor,
    y: torch.Tensor,
    method: str = "auction",
    tolerance: float = DEFAULT_TOLERANCE,
    lengths: torch.Tensor | None = None,
) -> EMD:
    """Return the earth mover's distance of each pair of clouds, with a proof of how close it is.

    `EMD(x, y) = min over bijections f of mean_i |x_i - y_f(i)|`, with the Euclidean, not the squared, distance
    (Fan et al., 2017, arXiv 1612.00603, eq. 2, divided by N).

    Args:
        x: clouds `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        y: clouds `(B, N, D)` of the same dtype and device.
        method:
            - `"auction"`: an auction with epsilon-scaling (Bertsekas, 1988) until its prices prove
              `cost - lower_bound <= tolerance * cost`.
            - `"exact"`: optimal up to rounding: the auction, then shortest augmenting paths (Jonker & Volgenant,
              1987). Runs on the CPU wherever the clouds are.

            On the CPU both end after at most 400 N bids and N shortest paths, O(N^3) whatever the clouds, with
            their promise kept. Without native kernels both are SciPy's exact solver.
        tolerance: of the auction, relative to the cost; positive.
        lengths: `(B,)` int64: only the first `lengths[b]` points of both clouds b are there. The rest of
            `assignment` points at itself; what stands there does not matter.

    Returns:
        `EMD(cost (B,), assignment (B, N), lower_bound (B,))`. The cost is recomputed from the
        assignment, which is held constant; where the EMD is differentiable, this is its gradient.

    Raises:
        InputError: the clouds differ in size, do not fit together otherwise, or hold NaN or infinite
            coordinates; or the method is unknown, or the tolerance not positive.

    Example:
        >>> x = torch.tensor([[[0.0], [1.0]]])
        >>> emd(x, x.flip(1)).assignment
        tensor([[1, 0]])
    """
    _check.one_of("method", method, METHODS)
    _check.tolerance(tolerance)
    x, y = _check.clouds("x", x), _check.clouds("y", y)
    _check.alike("x", x, "y", y)
    _check.equal_sizes("x", x, "y", y)
    _check.lengths("lengths", lengths, "x", x)
    padding = past(lengths, x.shape[1])
    x, y = without_padding(x, padding), without_padding(y, padding)
    assignment, lower_bound = _assignment.assign(x, y, lengths, 0.0 if method == "exact" else float(tolerance))
    cost = _mean_distance(x, y, assignment, padding, lengths)
    known = cost.detach()
    return EMD(cost, assignment, known if method == "exact" else torch.minimum(lower_bound, known))
