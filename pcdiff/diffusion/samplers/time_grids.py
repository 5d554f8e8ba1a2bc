"""Time grids by name: the times of a sampler's steps. A new one is a function and a line in `GRIDS`.

Every grid has `num_steps + 1` times. Chains end at the data, time 0; processes in continuous time at their
`sample_eps`, but EDM's grid continues to 0 where that is the data, and score_sde's `"chain"` always. Inner times
may be fractions, of chains too, but for the uniform grid. Which one a sampler takes by default, `default_grid`
returns: the predictor's own (`Solver.grid_for`), or else the process's (`Process.grid`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.processes.base import Process
from pcdiff.diffusion.processes.chain import whole_times
from pcdiff.diffusion.samplers.base import Solver
from pcdiff.errors import InputError, OutOfRange
from pcdiff.registry import Registry
from pcdiff.runtime.call_checks import checked


def quadratic(process: Process, start: float, low: float, count: int, rho: float) -> Tensor:
    """Return times whose square roots are evenly spaced (Song, Meng & Ermon, DDIM, 2021, appendix D.2)."""
    return torch.linspace(start**0.5, low**0.5, count, dtype=torch.float64, device=process.device).square()


def log_snr(process: Process, start: float, low: float, count: int, rho: float) -> Tensor:
    """Return times whose log-SNRs are evenly spaced (Lu et al., DPM-Solver, 2022)."""
    first, last = process.log_snr(_ends(process, start, low)).tolist()
    return process.t_of_log_snr(torch.linspace(first, last, count, dtype=torch.float64, device=process.device))


def edm_levels(process: Process, start: float, low: float, count: int, rho: float) -> Tensor:
    """Return times at which `(sigma / alpha)^(1 / rho)` is evenly spaced (Karras et al., 2022, eq. 5)."""
    first, last = (-process.log_snr(_ends(process, start, low)) / (2 * rho)).exp().tolist()
    roots = torch.linspace(first, last, count, dtype=torch.float64, device=process.device)
    return process.t_of_log_snr(-2 * rho * roots.log())


def evenly(process: Process, start: float, low: float, count: int, rho: float) -> Tensor:
    """Return evenly spaced times."""
    return torch.linspace(start, low, count, dtype=torch.float64, device=process.device)


def _ends(process: Process, start: float, low: float) -> Tensor:
    ends = torch.tensor([start, low], dtype=torch.float64, device=process.device)
    # where no signal is left the log-SNR is infinite: such a grid's second time is counted from just below
    return ends if process.alpha(ends[:1]) > 0 else ends - ends.new_tensor([process.sample_eps, 0.0])


GRIDS: Registry[Callable[[Process, float, float, int, float], Tensor]] = Registry(
    "grid",
    {
        "uniform": evenly,
        "quadratic": quadratic,
        "log_snr": log_snr,
        "edm": edm_levels,
        # score_sde's N times, and then the data (Song et al., 2021, algorithms 2 and 3, its code)
        "chain": evenly,
        # no inner times: for adaptive solvers
        "ends": evenly,
    },
)


@checked
def time_grid(
    process: Process,
    num_steps: int | None = None,
    grid: str = "uniform",
    *,
    t_start: float | None = None,
    rho: float = 7.0,
) -> Tensor:
    """Return `num_steps + 1` falling times, from `t_start` to where sampling ends.

    Args:
        process: the forward process.
        num_steps: steps; all that the process has by default. The grid `"ends"` has its own number.
        grid: a key of `GRIDS`.
        t_start: the first time; T by default.
        rho: the grid `"edm"`'s exponent: the larger, the more steps near the data.

    Returns:
        Times, float64; of a chain's uniform grid integers.

    Raises:
        InputError: the name is unknown, or a value out of range.

    Example:
        >>> time_grid(VP(), 10, "log_snr")
    """
    GRIDS.lookup(grid)
    if not rho > 0:
        raise OutOfRange("rho", "positive", rho)
    process.last_time()
    chain = process.num_steps is not None
    low = 1.0 if chain else process.sample_eps
    if t_start is not None and not (low <= t_start <= process.t_end and (chain or t_start > low)):
        raise InputError(f"t_start must be in {'[' if chain else '('}{low:g}, {process.t_end:g}], got {t_start}")
    if grid == "uniform" and t_start is None:
        return process.time_grid(num_steps)
    start = process.T if t_start is None else float(t_start)
    if grid in ("uniform", "chain") and chain:
        return _integers(process, start, num_steps)
    data = torch.zeros(1, device=process.device)
    reaches_data = chain or grid == "chain" or (grid == "edm" and process.sigma(data).item() == 0)
    if grid == "ends":
        # a one-step chain starts where its noise ends
        num_steps = 1 + (reaches_data and start > low)
    elif num_steps is None:
        num_steps = len(process.time_grid()) - 1
    if num_steps < 1:
        raise OutOfRange("num_steps", "at least 1", num_steps)
    count = num_steps + (not reaches_data)
    if start <= low and count > 1:
        raise InputError(f"num_steps must be 1 from t_start {start:g}, the last before the data, got {num_steps}")
    times = GRIDS[grid](process, start, low, count, rho)
    # round trips through the log-SNR move the ends by a last bit
    times[0] = start
    if count > 1:
        times[-1] = low
    return torch.cat([times, times.new_zeros(1)]) if reaches_data else times


def default_grid(process: Process, step: Any) -> str:
    """Return the name of the times that a predictor takes by default: its own, or else the process's."""
    return step.grid_for(process) if isinstance(step, Solver) else getattr(step, "grid", None) or process.grid


def _integers(process: Process, start: float, num_steps: int | None) -> Tensor:
    if start != int(start):
        raise InputError(f"t_start must be a whole step for the uniform grid of a chain, got {start:g}")
    steps = int(start) if num_steps is None else num_steps
    if not 1 <= steps <= start:
        raise InputError(f"num_steps must be in 1..{start:g} from there, got {steps}")
    return whole_times(int(start), steps, process.device)
