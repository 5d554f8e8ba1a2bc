"""The one sampling loop, for any shape, process, predictor and corrector."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import Process
from pcdiff.diffusion.samplers.base import Constraint, Corrector, Noise, Predictor, Solver, Stateful, attribute_of
from pcdiff.diffusion.samplers.correctors import corrector as corrector_by_name
from pcdiff.diffusion.samplers.predictors import predictor
from pcdiff.diffusion.samplers.time_grids import default_grid, time_grid
from pcdiff.errors import InputError
from pcdiff.runtime.call_checks import checked

log = logging.getLogger("pcdiff")
_MOST_LEFT = 3.0  # noise at the end over the smallest level, from which the result is told to be noise

Callback = Callable[[int, float, Tensor], None]
Progress = Callable[[int, int], None]


@dataclass
class SamplingReport:
    """What a run cost; hand one to `sample`, which fills it.

    Attributes:
        num_steps: steps of the grid.
        evaluations: calls of the denoiser, each for the whole batch.
    """

    num_steps: int = 0
    evaluations: int = 0


@checked
@torch.no_grad()
def sample(
    denoiser: Denoiser,
    shape: Sequence[int] | None = None,
    *,
    cond: Any = None,
    x_init: Tensor | None = None,
    step: Predictor | str | None = None,
    corrector: Corrector | str | None = None,
    num_steps: int | None = None,
    grid: str | Tensor | None = None,
    t_start: float | None = None,
    constraint: Constraint | None = None,
    denoise: bool | None = None,
    generator: torch.Generator | None = None,
    noise: Noise | None = None,
    callback: Callback | None = None,
    progress: Progress | None = None,
    report: SamplingReport | None = None,
) -> Tensor:
    """Run the reverse process from noise to data (Ho et al., 2020, algorithm 2; Luo & Hu, 2021, eq. 3, unverified).

    At every time but the last the corrector acts first, then the predictor, as in score_sde's code (algorithm 1 of
    Song et al., 2021, begins with the predictor); the last predictor returns its mean, unless it takes many steps
    of its own within one of the grid.

    Args:
        denoiser: the model; guidance is a denoiser about it.
        shape: `(B, *dims)` of the result; the start is then drawn from the process's prior.
        cond: what the net is conditioned on.
        x_init: the start itself, in place of `shape`.
        step: a predictor (`pcdiff.diffusion.predictor`) or its name; the ancestral one by default.
        corrector: a corrector (`pcdiff.diffusion.corrector`) or its name; none by default.
        num_steps: steps from noise to data; the whole chain by default.
        grid: name of the time grid (`pcdiff.diffusion.time_grid`), or the times themselves `(num_steps + 1,)`,
            which may rise, for inversion; the predictor's own by default, or else the process's
            (`pcdiff.diffusion.default_grid`).
        t_start: the time at which `x_init` stands; T by default.
        constraint: called as `constraint(x, t, noise)` after every update by corrector or predictor, with the time
            at which x stands now; what it returns is the new x. After the last update its `noise` is None.
        denoise: end with the estimate of x_0 at the last time, for one evaluation more; by default where the times
            are a grid's by name and the last step leaves noise, as most do in continuous time.
        generator: source of every draw; the start first, then what corrector and predictor ask for, in that order.
            The ancestral predictor asks once a step but the last.
        noise: overrides the draws of the steps: maps x to a standard normal like it.
        callback: called as `callback(k, t, x)` with the start (k = 0) and after every step.
        progress: called as `progress(k, num_steps)` after every step.
        report: is filled with the number of steps and evaluations.

    Returns:
        Samples `(B, *dims)`.

    Raises:
        InputError: neither or both of `shape` and `x_init`, or integers to start from; a name is unknown;
            `num_steps`, `grid` or `t_start` is out of range; the predictor or corrector does not fit the process
            or the times.

    Example:
        >>> sample(denoiser, (4, 2048, 3), cond=z, step="dpmpp", num_steps=10)
        >>> sample(denoiser, (4, 3, 32, 32), step="reverse_diffusion", corrector="langevin")
    """
    if not isinstance(getattr(denoiser, "process", None), Process):
        came = type(denoiser).__name__
        raise InputError(f"denoiser must be a Denoiser, as NetDenoiser makes of net and process, got {came}")
    if (shape is None) == (x_init is None):
        raise InputError("give exactly one of shape and x_init to sample()")
    if t_start is not None and x_init is None:
        raise InputError("give x_init with t_start: the prior is that of the last time")
    if x_init is not None and not x_init.is_floating_point():
        raise InputError(f"x_init must be of real numbers, got {x_init.dtype}")
    process = denoiser.process
    step = predictor("ancestral") if step is None else predictor(step) if isinstance(step, str) else step
    if isinstance(corrector, str):
        corrector = corrector_by_name(corrector)
    named = default_grid(process, step) if grid is None else grid
    if constraint is not None and isinstance(named, str) and named == "ends":
        raise InputError("a constraint needs times to hold at, got grid 'ends'; give another grid and num_steps")
    times = _times(process, step, num_steps, grid, t_start)
    if denoise is None and isinstance(grid, Tensor):
        denoise = False
    step, corrector, end = _planned(process, times, step, corrector, denoise)
    if noise is None:
        noise = _standard_normal(generator)
    x = process.prior_sample(shape, generator) if x_init is None else x_init
    num_steps, labels = len(times) - 1, times.tolist()
    if report is not None:
        report.num_steps, report.evaluations = num_steps, 0
        denoiser = _Counted(denoiser, report)
    if callback is not None:
        callback(0, float(labels[0]), x)
    for k in range(num_steps):
        t, s = times[k].expand(len(x)), times[k + 1].expand(len(x))
        if corrector is not None:
            x = corrector(denoiser, x, t, cond, noise)
            if constraint is not None:
                x = constraint(x, t, noise)
        last = k == num_steps - 1
        x = step(denoiser, x, t, s, cond, noise if not last or attribute_of(step, "draws_to_the_end") else None)
        if constraint is not None:
            x = constraint(x, s, None if last else noise)
        if callback is not None:
            callback(k + 1, float(labels[k + 1]), x)
        if progress is not None:
            progress(k + 1, num_steps)
    if end is None:
        return x
    x = denoiser(x, end.expand(len(x)), cond)
    return x if constraint is None else constraint(x, times[-1].expand(len(x)), None)


@checked
def invert(
    denoiser: Denoiser,
    x: Tensor,
    *,
    cond: Any = None,
    step: Predictor | str = "ddim",
    num_steps: int | None = None,
    grid: str | None = None,
    t_start: float | None = None,
    **options: Any,
) -> Tensor:
    """Map data to the noise that a deterministic sampler makes it from.

    The sampler runs the grid's times upwards (Song, Meng & Ermon, DDIM, 2021, section 5.4). The data stand in for x
    at the smallest time with noise. In continuous time the way back ends there too with `denoise=False`; by
    default it goes on to the estimate of x_0.

    Args:
        denoiser: the model.
        x: data `(B, *dims)`.
        cond: what the net is conditioned on.
        step: a predictor without noise, or its name.
        num_steps: of the grid; a chain's last step down, to the data, has no inverse.
        grid: name of the time grid; by default the one that `sample` takes.
        t_start: the time to stop at; T by default.
        **options: see `sample`.

    Returns:
        The noise, like `x`.

    Raises:
        InputError: see `sample`.

    Example:
        >>> noise = invert(denoiser, x, cond=z)
        >>> sample(denoiser, x_init=noise, cond=z, step="ddim")  # nearly x
    """
    step = predictor(step) if isinstance(step, str) else step
    if grid is None:
        grid = default_grid(denoiser.process, step)
    times = time_grid(denoiser.process, num_steps, grid, t_start=t_start)
    times = times[denoiser.process.sigma(times) > 0].flip(0)
    if len(times) < 2:
        raise InputError("num_steps must be at least 2 here: the one step down to the data has no inverse")
    return sample(denoiser, x_init=x, cond=cond, step=step, grid=times, **options)


def check_steps(
    process: Process,
    step: Predictor,
    corrector: Corrector | None = None,
    num_steps: int | None = None,
    grid: str | Tensor | None = None,
    denoise: bool | None = None,
) -> None:
    """Refuse what `sample` would refuse of predictor, corrector and times, without drawing; arguments as there.

    Raises:
        InputError: see `sample`.
    """
    _planned(process, _times(process, step, num_steps, grid, None), step, corrector, denoise)


def _planned(
    process: Process, times: Tensor, step: Predictor, corrector: Corrector | None, denoise: bool | None
) -> tuple[Predictor, Corrector | None, Tensor | None]:
    """Return predictor and corrector, ready for these times, and the time to denoise the end at, or None."""
    step, corrector = (v.begin(process, times) if isinstance(v, Stateful) else v for v in (step, corrector))
    left = getattr(corrector, "left", 0.0)
    if attribute_of(step, "needs_corrector") and left > _MOST_LEFT:
        log.warning(
            "predictor 'none' leaves the noise to a corrector whose steps are too few or too small: at the end "
            "it is %.3g times the smallest level; raise step_size or num_steps, or take a predictor",
            left,
        )
    end = (step if isinstance(step, Solver) else Solver()).noisy_end(process, times)
    if denoise and end is None:
        raise InputError("denoise must be False here: the last step ends at the data itself")
    return step, corrector, None if denoise is False else end


def _times(
    process: Process, step: Predictor, num_steps: int | None, grid: str | Tensor | None, t_start: float | None
) -> Tensor:
    if grid is None:
        grid = default_grid(process, step)
    if isinstance(grid, str):
        return time_grid(process, num_steps, grid, t_start=t_start)
    if num_steps is not None or t_start is not None:
        raise InputError("leave num_steps and t_start out where grid is the times themselves")
    strides = grid.diff()
    if grid.dim() != 1 or len(grid) < 2 or not ((strides < 0).all() or (strides > 0).all()):
        raise InputError(f"grid must be (num_steps + 1,) times that all fall or all rise, got {grid.tolist()}")
    return process.checked(grid).to(process.device)


def _standard_normal(generator: torch.Generator | None) -> Noise:
    def draw(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    return draw


class _Counted:
    """A denoiser that counts its evaluations; each of these methods is one."""

    COSTLY = ("estimate", "eps", "score", "velocity", "reverse_kernel")

    def __init__(self, denoiser: Denoiser, report: SamplingReport):
        self._denoiser, self._report = denoiser, report

    def __call__(self, *args: Any, **options: Any) -> Tensor:
        self._report.evaluations += 1
        return self._denoiser(*args, **options)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._denoiser, name)
        if name not in self.COSTLY:
            return value

        def counted(*args: Any, **options: Any) -> Any:
            self._report.evaluations += 1
            return value(*args, **options)

        return counted


class Trajectory:
    """A sampler callback that keeps every state.

    Example:
        >>> trajectory = Trajectory()
        >>> x = sample(denoiser, (2, 2048, 3), cond=z, callback=trajectory)
        >>> trajectory.states.shape, trajectory.times  # (T + 1, 2, 2048, 3), [100.0, 99.0, ...]
    """

    def __init__(self):
        self.times: list[float] = []
        self._states: list[Tensor] = []

    def __call__(self, k: int, t: float, x: Tensor) -> None:
        """Keep the state `x` at time `t`."""
        self.times.append(t)
        self._states.append(x)

    @property
    def states(self) -> Tensor:
        """Return all states, `(num_steps + 1, B, *dims)`, from noise to data."""
        return torch.stack(self._states)
