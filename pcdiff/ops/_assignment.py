"""Optimal assignments of one cloud to another: by the native solver, or by SciPy where it is not built."""

import warnings

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from pcdiff.ops import _check, _native


def estimated_emd_seconds(pairs: int, points: int) -> float:
    """Return the rough time that so many exact EMDs take on this machine's CPU.

    On thin surfaces of 2048 points the native solver takes 0.05 s a pair on one core, growing as points^2; SciPy
    takes 1 s, growing as points^2.5, on one core whatever there are.
    """
    if not _native.has_kernels("cpu"):
        return pairs * (points / 2048) ** 2.5
    return pairs * 0.05 * (points / 2048) ** 2 / torch.get_num_threads()


def _device_for(x: torch.Tensor, tolerance: float) -> torch.device | None:
    """Return where the kernel runs: on x's device, else on the CPU; None if there is none."""
    # Shortest augmenting paths follow one another; only the CPU has them, and only they reach tolerance 0.
    if tolerance > 0 and _native.has_kernels(x.device):
        return x.device
    return torch.device("cpu") if _native.has_kernels("cpu") else None


def assign(
    x: torch.Tensor, y: torch.Tensor, lengths: torch.Tensor | None, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return bijections `(B, N)` and lower bounds `(B,)` of their costs; `tolerance` 0 asks for the optimum."""
    x, y = x.detach(), y.detach()
    device = _device_for(x, tolerance)
    if device is None:
        _native.prepare_reference(x=x, y=y)
        counts = [x.shape[1]] * len(x) if lengths is None else lengths.tolist()
        assignment = torch.arange(x.shape[1]).repeat(len(x), 1)
        costs = []
        for b, count in enumerate(counts):
            cost, one = _by_scipy(_array(x[b, :count]), _array(y[b, :count]))
            assignment[b, :count] = torch.from_numpy(one)
            costs.append(cost)
        return assignment.to(x.device), torch.tensor(costs, dtype=x.dtype, device=x.device)
    if device != x.device:
        lengths = None if lengths is None else lengths.to(device)
        assignment, bound = assign(x.to(device), y.to(device), lengths, tolerance)
        return assignment.to(x.device), bound.to(x.device)
    assignment, cost, bound = _native.call("assign", lengths, tolerance, x=x, y=y)
    _tell_of_open_gaps(cost, bound, tolerance)
    return assignment, bound


def cost_matrix(xs: torch.Tensor, ys: torch.Tensor, upper: bool, tolerance: float) -> torch.Tensor:
    """Return `(S, R)` costs; with `upper` only those with column > row, the rest 0."""
    xs, ys = xs.detach(), ys.detach()
    device = _device_for(xs, tolerance)
    if device is None:
        _native.prepare_reference(xs=xs, ys=ys)
        out = xs.new_zeros((len(xs), len(ys)))
        for i in range(len(xs)):
            for j in range(i + 1 if upper else 0, len(ys)):
                out[i, j] = _by_scipy(_array(xs[i]), _array(ys[j]))[0]
        return out
    cost, bound = _native.call("assign_matrix", upper, tolerance, xs=xs.to(device), ys=ys.to(device))
    _tell_of_open_gaps(cost, bound, tolerance)
    return cost.to(xs.device)


def _tell_of_open_gaps(cost: torch.Tensor, bound: torch.Tensor, tolerance: float) -> None:
    """Warn where a solver ended at its bound on time. The one for CPUs never does."""
    if tolerance == 0 or cost.device.type == "cpu" or _check.out_of_reach(cost.device):
        return
    gap = (cost - bound) / cost.clamp_min(torch.finfo(cost.dtype).tiny)
    open_pairs = int((gap > tolerance).sum())
    if open_pairs:
        warnings.warn(
            f"emd: {open_pairs} of {gap.numel()} pairs reached the bound on rounds with a gap of up to "
            f"{gap.max().item():.2e}, above the tolerance {tolerance:g}; their lower_bound still holds",
            RuntimeWarning,
            stacklevel=4,
        )


def _by_scipy(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the least mean distance between `(N, D)` and `(N, D)`, and whom each x goes to, int64 `(N,)`."""
    distance = cdist(x, y)
    rows, columns = linear_sum_assignment(distance)
    return float(distance[rows, columns].mean()), columns.astype(np.int64)


def _array(cloud: torch.Tensor) -> np.ndarray:
    return cloud.double().cpu().numpy()


@_native.fake("assign")
def _(x, y, lengths, tolerance):
    return x.new_empty(x.shape[:2], dtype=torch.int64), x.new_empty(x.shape[:1]), x.new_empty(x.shape[:1])


@_native.fake("assign_matrix")
def _(xs, ys, upper, tolerance):
    shape = (xs.shape[0], ys.shape[0])
    return xs.new_empty(shape), xs.new_empty(shape)
