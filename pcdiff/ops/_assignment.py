"""Optimal assignments of one cloud to another: by the native solver, or by SciPy where it is not built."""

import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from pcdiff.ops import _check, _native

# On CUDA one block solves a pair, at up to 400 N bids of N objects: above this the CPU's search is the quicker one.
_MOST_POINTS_ON_CUDA = 16384
# Of the auctions that come before the exact solver: most pairs are decided by a rough bound.
_TOLERANCES_ON_CUDA = (0.05, 1e-3)
_PAIRS_AT_ONCE_ON_CUDA = 4096


def estimated_emd_seconds(pairs: int, points: int, threads: int | None = None) -> float:
    """Return the rough time that so many exact EMDs take on this machine's CPU, or on so many of its cores.

    On thin surfaces of 2048 points the native solver takes 0.05 s a pair on one core, growing as points^2; SciPy
    takes 1 s, growing as points^2.5.
    """
    threads = threads or torch.get_num_threads()
    if not _native.has_kernels("cpu"):
        return pairs * (points / 2048) ** 2.5 / threads
    return pairs * 0.05 * (points / 2048) ** 2 / threads


def _device_for(x: torch.Tensor, tolerance: float) -> torch.device | None:
    """Return where the kernel runs: on x's device, else on the CPU; None if there is none."""
    # Shortest augmenting paths follow one another; only the CPU has them, and only they reach tolerance 0.
    if tolerance > 0 and x.shape[1] <= _MOST_POINTS_ON_CUDA and _native.has_kernels(x.device):
        return x.device
    return torch.device("cpu") if _native.has_kernels("cpu") else None


def assign(
    x: torch.Tensor, y: torch.Tensor, lengths: torch.Tensor | None, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return bijections `(B, N)`, their costs `(B,)`, and lower bounds `(B,)`; `tolerance` 0 asks for the optimum.

    A bound that equals its cost proves that the bijection is optimal up to rounding.
    """
    x, y = x.detach(), y.detach()
    device = _device_for(x, tolerance)
    if device is None:
        _native.prepare_reference(x=x, y=y)
        counts = [x.shape[1]] * len(x) if lengths is None else lengths.tolist()
        assignment = torch.arange(x.shape[1]).repeat(len(x), 1)
        costs = []
        pairs = ((x[b, :count], y[b, :count]) for b, count in enumerate(counts))
        for b, (least, one) in enumerate(_by_scipy(pairs)):
            assignment[b, : counts[b]] = torch.from_numpy(one)
            costs.append(least)
        cost = torch.tensor(costs, dtype=x.dtype, device=x.device)
        return assignment.to(x.device), cost, cost
    if device != x.device:
        lengths = None if lengths is None else lengths.to(device)
        assignment, cost, bound = assign(x.to(device), y.to(device), lengths, tolerance)
        return assignment.to(x.device), cost.to(x.device), bound.to(x.device)
    assignment, cost, bound = _native.call("assign", lengths, tolerance, x=x, y=y)
    _tell_of_open_gaps(cost, bound, tolerance)
    return assignment, cost, bound


def cost_matrix(xs: torch.Tensor, ys: torch.Tensor, upper: bool, tolerance: float) -> torch.Tensor:
    """Return `(S, R)` costs; with `upper` only those with column > row, the rest 0."""
    xs, ys = xs.detach(), ys.detach()
    device = _device_for(xs, tolerance)
    if device is None:
        _native.prepare_reference(xs=xs, ys=ys)
        out = xs.new_zeros((len(xs), len(ys)))
        places = [(i, j) for i in range(len(xs)) for j in range(i + 1 if upper else 0, len(ys))]
        for (i, j), (cost, _) in zip(places, _by_scipy((xs[i], ys[j]) for i, j in places), strict=True):
            out[i, j] = cost
        return out
    cost, bound = _native.call("assign_matrix", upper, tolerance, xs=xs.to(device), ys=ys.to(device))
    _tell_of_open_gaps(cost, bound, tolerance)
    return cost.to(xs.device)


def costs_of_pairs(
    xs: torch.Tensor, ys: torch.Tensor, pairs: torch.Tensor, enough: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return costs `(K,)` and lower bounds `(K,)` of pairs `(K, 2)` of two sets: optimal, or a bound above enough.

    On CUDA auctions of growing precision sort out what the bounds decide; what is left goes to the CPU's solver.
    """
    xs, ys = xs.detach(), ys.detach()
    if _device_for(xs, 0.0) is None:
        _native.prepare_reference(xs=xs, ys=ys)
        costs = [cost for cost, _ in _by_scipy((xs[i], ys[j]) for i, j in pairs.tolist())]
        cost = torch.tensor(costs, dtype=xs.dtype, device=xs.device)
        return cost, cost
    if xs.device.type == "cpu":
        return _native.call("assign_listed", pairs, enough, 0.0, xs=xs, ys=ys)
    cost = xs.new_full((len(pairs),), float("inf"))
    bound, left = torch.zeros_like(cost), torch.arange(len(pairs), device=xs.device)
    pairs, enough = pairs.to(xs.device), enough.to(xs.device)
    for tolerance in _TOLERANCES_ON_CUDA if _device_for(xs, _TOLERANCES_ON_CUDA[0]) == xs.device else ():
        for part in left.split(_PAIRS_AT_ONCE_ON_CUDA):
            x, y = xs[pairs[part, 0]], ys[pairs[part, 1]]
            # An open gap is no failure here: the bounds hold, and the next solver continues.
            _, found, proved = _native.call("assign", None, tolerance, x=x, y=y)
            cost[part], bound[part] = torch.minimum(cost[part], found), torch.maximum(bound[part], proved)
        left = left[(bound[left] <= enough[left]) & (bound[left] < cost[left])]
    if len(left):
        found, proved = costs_of_pairs(xs.cpu(), ys.cpu(), pairs[left].cpu(), enough[left].cpu())
        cost[left], bound[left] = found.to(xs.device), proved.to(xs.device)
    return cost, bound


def _tell_of_open_gaps(cost: torch.Tensor, bound: torch.Tensor, tolerance: float) -> None:
    """Warn where a solver ended with a larger gap than was asked for."""
    if _check.out_of_reach(cost.device):
        return
    gap = (cost - bound) / cost.clamp_min(torch.finfo(cost.dtype).tiny)
    open_pairs = int((gap > tolerance).sum())
    if open_pairs:
        on_cpu = cost.device.type == "cpu"
        why = "distances of too different sizes for float64" if on_cpu else "the bound on its rounds"
        warnings.warn(
            f"emd: {open_pairs} of {gap.numel()} pairs ended with a gap of up to {gap.max().item():.2e}, above the "
            f"tolerance {tolerance:g}, because of {why}; cost and lower_bound hold all the same",
            RuntimeWarning,
            stacklevel=4,
        )


def _by_scipy(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the least mean distance between each `(N, D)` and `(N, D)`, and whom each x goes to, int64 `(N,)`."""
    from scipy.optimize import linear_sum_assignment  # here: half a second that few calls need
    from scipy.spatial.distance import cdist

    def solve(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, np.ndarray]:
        x, y = (cloud.double().cpu().numpy() for cloud in pair)
        distance = cdist(x, y)
        rows, columns = linear_sum_assignment(distance)
        return float(distance[rows, columns].mean()), columns.astype(np.int64)

    # SciPy lets go of the interpreter's lock while it works.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(solve, pairs)


@_native.fake("assign")
def _(x, y, lengths, tolerance):
    return x.new_empty(x.shape[:2], dtype=torch.int64), x.new_empty(x.shape[:1]), x.new_empty(x.shape[:1])


@_native.fake("assign_listed")
def _(xs, ys, pairs, enough, tolerance):
    return xs.new_empty(pairs.shape[:1]), xs.new_empty(pairs.shape[:1])


@_native.fake("assign_matrix")
def _(xs, ys, upper, tolerance):
    shape = (xs.shape[0], ys.shape[0])
    return xs.new_empty(shape), xs.new_empty(shape)
