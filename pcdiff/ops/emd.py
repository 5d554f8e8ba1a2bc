"""The earth mover's distance between clouds of equal size."""

from typing import NamedTuple

import torch

from pcdiff.ops import _check, _workers
from pcdiff.ops.chamfer import gather_points

METHODS = ("exact",)


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


def _mean_distance(x: torch.Tensor, y: torch.Tensor, assignment: torch.Tensor) -> torch.Tensor:
    squared = (x - gather_points(y, assignment)).square().sum(dim=-1)
    # sqrt has an infinite slope at 0, and 0 * inf is NaN: coincident points get the subgradient 0.
    apart = squared > 0
    distance = torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)
    return distance.mean(dim=1)


def emd(x: torch.Tensor, y: torch.Tensor, method: str = "exact", workers: int | None = None) -> EMD:
    """Return the earth mover's distance of each pair of clouds.

    `EMD(x, y) = min over bijections f of mean_i |x_i - y_f(i)|`, with the Euclidean, not the squared, distance
    (Fan et al., 2017, arXiv 1612.00603, eq. 2, divided by N).

    Args:
        x: clouds `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        y: clouds `(B, N, D)` of the same dtype and device.
        method: `"exact"`: SciPy's linear assignment in float64 on the CPU, about 1 s a pair at N = 2048.
        workers: processes to spread the batch over; None decides by the amount of work.

    Returns:
        `EMD(cost (B,), assignment (B, N), lower_bound (B,))`. The cost is recomputed from the
        assignment, which is held constant; where the EMD is differentiable, this is its gradient.

    Raises:
        InputError: the clouds differ in size, do not fit together otherwise, or hold NaN or infinite
            coordinates; or the method is unknown.

    Example:
        >>> x = torch.tensor([[[0.0], [1.0]]])
        >>> emd(x, x.flip(1)).assignment
        tensor([[1, 0]])
    """
    _check.one_of("method", method, METHODS)
    x, y = _check.clouds("x", x), _check.clouds("y", y)
    _check.alike("x", x, "y", y)
    _check.equal_sizes("x", x, "y", y)
    _check.workers(workers)
    _check.finite(x=x, y=y)
    assignment = torch.empty(x.shape[:2], dtype=torch.int64)
    pairs = [(b, b) for b in range(len(x))]
    for (b, _), _, one in _workers.solve_pairs(_numpy(x), _numpy(y), pairs, workers):
        assignment[b] = torch.from_numpy(one)
    assignment = assignment.to(x.device)
    cost = _mean_distance(x, y, assignment)
    return EMD(cost, assignment, cost.detach())


def _numpy(clouds: torch.Tensor):
    return clouds.detach().cpu().contiguous().numpy()
