"""Training times: how they are drawn, and what a draw weighs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcdiff.diffusion.processes.base import Process
from pcdiff.errors import InputError, OutOfRange
from pcdiff.registry import Registry
from pcdiff.runtime.call_checks import checked


class Times(NamedTuple):
    """Times `(B,)`, and weights `(B,)` with which the mean of a loss is that over uniform times."""

    t: Tensor
    weight: Tensor


@checked
def draw_times(
    process: Process,
    batch: int,
    generator: torch.Generator | None = None,
    stratified: bool = False,
    eps: float | None = None,
) -> Tensor:
    """Draw the training times, uniform on 1..T of a chain or on [eps, T] of a process in continuous time.

    Where no signal is left at T (rectified flow) T itself is never drawn: weights and labels are infinite there.

    Args:
        process: the forward process.
        batch: number of times.
        generator: source of the draw.
        stratified: one draw in each of `batch` equal parts of the chain, in random order; every time is still
            uniform, but a batch covers the chain evenly, so the loss varies less (compare Kingma et al., VDM,
            2021, appendix I.1, who share one draw).
        eps: the smallest time; the process's `train_eps` by default (Song et al., 2021, appendix C).

    Returns:
        Times `(batch,)` on the process's device: integers of a chain, float32 otherwise.

    Raises:
        InputError: `eps` is not in [0, T), or is given for a chain.
    """
    _check_eps(process, eps)
    if process.num_steps is not None and not stratified:
        return torch.randint(1, process.num_steps + 1, (batch,), generator=generator, device=process.device)
    u = _uniform(process, batch, generator, stratified)
    if process.num_steps is not None:
        # float32 rounding can carry the last stratum's u to exactly 1
        return (u * process.num_steps).long().clamp(max=process.num_steps - 1) + 1
    eps = _smallest(process, eps)
    return (u * (process.T - eps) + eps).clamp(max=_largest(process))


@checked
def draw_uniform_times(
    process: Process,
    batch: int,
    generator: torch.Generator | None = None,
    stratified: bool = False,
    eps: float | None = None,
) -> Times:
    """Draw uniform times, weight 1; arguments as for `draw_times`."""
    t = draw_times(process, batch, generator, stratified, eps)
    return Times(t, torch.ones(batch, device=t.device))


@checked
def draw_importance_times(
    process: Process,
    batch: int,
    generator: torch.Generator | None = None,
    stratified: bool = False,
    eps: float | None = None,
) -> Times:
    """Draw times with density proportional to g^2 / sigma^2, the best for `likelihood` (Song et al., 2021b).

    "Maximum Likelihood Training", arXiv 2101.09258, section 5.1. As `g^2 / sigma^2 = -d log SNR / dt`, these are
    the times at which the log-SNR is uniform, for every process.

    Args:
        process: the forward process.
        batch: number of times.
        generator: source of the draw.
        stratified: one draw in each of `batch` equal parts of the log-SNR's range, in random order.
        eps: the smallest time; the process's `train_eps` by default. Where the SNR at T is 0 (rectified flow),
            it is also the distance kept from T.

    Returns:
        The times, and `1 / (T density)`: the weighted mean of a loss is its mean over uniform times.

    Raises:
        InputError: `eps` is not in (0, T), or is given for a chain.
    """
    _check_eps(process, eps)
    u = _uniform(process, batch, generator, stratified)
    if process.num_steps is not None:
        steps = torch.arange(1, process.num_steps + 1, device=process.device)
        density = (process.diffusion(steps) / process.sigma(steps)).square()
        density = density / density.sum()
        index = torch.searchsorted(density.cumsum(0), u.double()).clamp(max=process.num_steps - 1)
        return Times(steps[index], (1 / (process.num_steps * density[index])).float())
    ends = _noisy_ends(process, eps)
    high, low = process.log_snr(ends)
    t = process.t_of_log_snr(high + (low - high) * u.double())
    density = (process.diffusion(t) / process.sigma(t)).square() / (high - low)
    return Times(t.float().clamp(max=_largest(process)), (1 / ((ends[1] - ends[0]) * density)).float())


@checked
def draw_log_uniform_times(
    process: Process,
    batch: int,
    generator: torch.Generator | None = None,
    stratified: bool = False,
    eps: float | None = None,
) -> Times:
    """Draw times at which `log(sigma / alpha)` is uniform over the process, weight 1 (GECCO's code, LogUniform).

    Args:
        process: the forward process; of a chain the nearest integer in 1..T is taken.
        batch: number of times.
        generator: source of the draw.
        stratified: one draw in each of `batch` equal parts of the range, in random order.
        eps: see `draw_importance_times`, whose times these are; there they weigh otherwise.

    Returns:
        The times, and weight 1: this draw is part of the objective.

    Raises:
        InputError: see `draw_importance_times`.
    """
    _check_eps(process, eps)
    u = _uniform(process, batch, generator, stratified)
    chain = process.num_steps is not None
    ends = torch.tensor([1, process.num_steps], device=process.device) if chain else _noisy_ends(process, eps)
    high, low = process.log_snr(ends)
    t = process.t_of_log_snr(high + (low - high) * u.double())
    if chain:
        t = t.round().long().clamp(1, process.num_steps)
    else:
        t = t.float().clamp(max=_largest(process))
    return Times(t, torch.ones(batch, device=t.device))


@checked
def draw_log_normal_times(
    process: Process,
    batch: int,
    generator: torch.Generator | None = None,
    mean: float = -1.2,
    std: float = 1.2,
) -> Times:
    """Draw times at which `log(sigma / alpha)` is normal (Karras et al., 2022, table 1, P_mean and P_std).

    Args:
        process: the forward process; of a chain the nearest integer in 1..T is taken.
        batch: number of times.
        generator: source of the draw.
        mean: of log(sigma / alpha).
        std: of log(sigma / alpha).

    Returns:
        The times, cut to those the process has, and weight 1: this draw is part of the objective.

    Raises:
        InputError: `std` is negative.
    """
    if not std >= 0:
        raise OutOfRange("std", "at least 0", std)
    log_sigma = mean + std * torch.randn(batch, generator=generator, device=process.device, dtype=torch.float32)
    t = process.t_of_log_snr(-2 * log_sigma.double())
    if process.num_steps is not None:
        t = t.round().long().clamp(1, process.num_steps)
    else:
        t = t.float() if process.t_end == math.inf else t.float().clamp(max=_largest(process))
    return Times(t, torch.ones(batch, device=t.device))


TIME_DRAWS: Registry[Callable[..., Times]] = Registry(
    "time_draw",
    {
        "uniform": draw_uniform_times,
        "importance": draw_importance_times,
        "log_uniform": draw_log_uniform_times,
        "log_normal": draw_log_normal_times,
    },
    given=("process", "batch", "generator"),
)


def time_draw(name: str, **options: Any) -> Callable[..., Times]:
    """Return a draw `(process, batch, generator) -> Times` by name, its options bound.

    Raises:
        InputError: the name or an option is unknown; the message lists the known ones.
    """
    return TIME_DRAWS.bind(name, **options)


def _check_eps(process: Process, eps: float | None) -> None:
    if process.num_steps is not None and eps is not None:
        raise InputError(f"eps must be left out for a chain, whose times are integers, got {eps}")


def _uniform(process: Process, batch: int, generator: torch.Generator | None, stratified: bool) -> Tensor:
    u = torch.rand(batch, generator=generator, device=process.device)
    if not stratified:
        return u
    return (torch.randperm(batch, generator=generator, device=process.device) + u) / batch


def _largest(process: Process) -> float:
    """Return the largest float32 that may be drawn: below T where that rounds up, or no signal is left at T."""
    last = torch.tensor([process.t_end], dtype=torch.float64, device=process.device)
    rounded = last.float()
    if rounded.item() > process.t_end or process.alpha(last).item() == 0:
        rounded = torch.nextafter(rounded, torch.zeros_like(rounded))
    return rounded.item()


def _noisy_ends(process: Process, eps: float | None) -> Tensor:
    """Return the times `(2,)`, float64, between which the log-SNR is finite."""
    eps = _smallest(process, eps)
    if eps == 0:
        raise InputError("eps must be positive to draw times by their SNR, which is infinite at 0")
    ends = torch.tensor([eps, process.T], dtype=torch.float64, device=process.device)
    if process.alpha(ends)[1] == 0:
        ends[1] -= eps
    return ends


def _smallest(process: Process, eps: float | None) -> float:
    eps = process.train_eps if eps is None else eps
    if not 0 <= eps < process.last_time():
        raise InputError(f"eps must be in [0, {process.T:g}), got {eps}")
    return eps
