"""The one sampling loop, for any shape, process, predictor and corrector."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import Process
from pcdiff.diffusion.samplers.base import (
    Callback,
    Constraint,
    Corrector,
    Noise,
    Predictor,
    Progress,
    Solver,
    Stateful,
    attribute_of,
)
from pcdiff.diffusion.samplers.correctors import corrector as corrector_by_name
from pcdiff.diffusion.samplers.predictors import predictor as predictor_by_name
from pcdiff.diffusion.samplers.report import CountedDenoiser, SamplingReport
from pcdiff.diffusion.samplers.time_grids import default_grid, time_grid
from pcdiff.errors import InputError
from pcdiff.runtime.call_checks import check_kinds, checked

log = logging.getLogger("pcdiff")
_RENAMED = {"step": "sampler"}  # keywords of before
_MOST_LEFT = 3.0  # noise at the end over the smallest level, from which a warning calls the result noise


@dataclass(frozen=True, eq=False)
class Sampler:
    """How samples are drawn, apart from what they are drawn from: settings, made once and called with many inputs.

    Attributes:
        predictor: a predictor (`pcdiff.diffusion.predictor`) or its name; here the object.
        corrector: a corrector (`pcdiff.diffusion.corrector`) or its name; none by default.
        num_steps: steps from noise to data; the whole chain by default.
        grid: name of the time grid (`pcdiff.diffusion.time_grid`), or the times themselves `(num_steps + 1,)`,
            which may rise, for inversion; the predictor's own by default, or else the process's
            (`pcdiff.diffusion.default_grid`).
        denoise: end with the estimate of x_0 at the last time, for one evaluation more; by default where the times
            are a grid's by name and the last step leaves noise, as most do in continuous time.

    Raises:
        InputError: a name is unknown.

    Example:
        >>> quick = Sampler("dpmpp", num_steps=10)
        >>> clouds = quick(denoiser, (4, 2048, 3), cond=z)
        >>> images = Sampler("reverse_diffusion", corrector("langevin", snr=0.16))(score_model, (4, 3, 32, 32))
    """

    predictor: Predictor | str = "ancestral"
    corrector: Corrector | str | None = None
    num_steps: int | None = None
    grid: str | Tensor | None = None
    denoise: bool | None = None

    def __post_init__(self) -> None:
        check_kinds(Sampler, vars(self))
        if isinstance(self.predictor, str):
            object.__setattr__(self, "predictor", predictor_by_name(self.predictor))
        if isinstance(self.corrector, str):
            object.__setattr__(self, "corrector", corrector_by_name(self.corrector))

    @checked
    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        shape: Sequence[int] | None = None,
        *,
        cond: Any = None,
        x_init: Tensor | None = None,
        t_start: float | None = None,
        constraint: Constraint | None = None,
        generator: torch.Generator | None = None,
        noise: Noise | None = None,
        callback: Callback | None = None,
        progress: Progress | None = None,
        report: SamplingReport | None = None,
    ) -> Tensor:
        """Run the reverse process from noise to data; arguments, result and errors are those of `sample`."""
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
        if constraint is not None and self.grid_for(process) == "ends":
            raise InputError("a constraint needs times to hold at, got grid 'ends'; give a grid and num_steps")
        times = self.times(process, t_start)
        predictor, corrector, end = self._begin(process, times)
        if noise is None:
            noise = standard_normal(generator)
        x = process.prior_sample(shape, generator) if x_init is None else x_init
        num_steps, labels = len(times) - 1, times.tolist()
        if report is not None:
            report.num_steps, report.evaluations = num_steps, 0
            denoiser = CountedDenoiser(denoiser, report)
        if callback is not None:
            callback(0, float(labels[0]), x)
        draws_to_the_end = attribute_of(predictor, "draws_to_the_end")
        for k in range(num_steps):
            t, s = times[k].expand(len(x)), times[k + 1].expand(len(x))
            if corrector is not None:
                x = corrector(denoiser, x, t, cond, noise)
                if constraint is not None:
                    x = constraint(x, t, noise)
            last = k == num_steps - 1
            x = predictor(denoiser, x, t, s, cond, noise if not last or draws_to_the_end else None)
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

    def invert(
        self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, t_start: float | None = None, **outputs: Any
    ) -> Tensor:
        """Map data to the noise that these settings make it from; arguments, result and errors as of `invert`."""
        if self.corrector is not None:
            raise InputError("invert needs settings without a corrector, whose steps have no inverse")
        times = time_grid(denoiser.process, self.num_steps, self.grid_for(denoiser.process), t_start=t_start)
        times = times[denoiser.process.sigma(times) > 0].flip(0)
        if len(times) < 2:
            raise InputError("num_steps must be at least 2 here: the one step down to the data has no inverse")
        return replace(self, num_steps=None, grid=times, denoise=False)(denoiser, x_init=x, cond=cond, **outputs)

    def grid_for(self, process: Process) -> str | Tensor:
        """Return the name of the times on this process, or the times themselves where they are given."""
        return default_grid(process, self.predictor) if self.grid is None else self.grid

    def times(self, process: Process, t_start: float | None = None) -> Tensor:
        """Return the times of a run `(num_steps + 1,)`, from `t_start` (T by default) on.

        Raises:
            InputError: `num_steps`, `grid` or `t_start` is unknown, out of range or does not fit.
        """
        grid = self.grid_for(process)
        if isinstance(grid, str):
            return time_grid(process, self.num_steps, grid, t_start=t_start)
        if self.num_steps is not None or t_start is not None:
            raise InputError("leave num_steps and t_start out where grid is the times themselves")
        strides = grid.diff()
        if grid.dim() != 1 or len(grid) < 2 or not ((strides < 0).all() or (strides > 0).all()):
            raise InputError(f"grid must be (num_steps + 1,) times that all fall or all rise, got {grid.tolist()}")
        return process.checked(grid).to(process.device)

    def check(self, process: Process) -> None:
        """Refuse what a run on this process would refuse of predictor, corrector and times, without drawing.

        Raises:
            InputError: see `sample`.
        """
        self._begin(process, self.times(process))

    def _begin(self, process: Process, times: Tensor) -> tuple[Predictor, Corrector | None, Tensor | None]:
        """Return predictor and corrector, ready for these times, and the time to denoise the end at, or None."""
        predictor: Any = self.predictor  # and the corrector: objects, since __post_init__
        corrector: Any = self.corrector
        if isinstance(predictor, Stateful):
            predictor = predictor.begin(process, times)
        if isinstance(corrector, Stateful):
            corrector = corrector.begin(process, times)
        left = getattr(corrector, "left", 0.0)
        if attribute_of(predictor, "needs_corrector") and left > _MOST_LEFT:
            log.warning(
                "predictor 'none' leaves the noise to a corrector whose steps are too few or too small: at the end "
                "it is %.3g times the smallest level; raise step_size or num_steps, or take a predictor",
                left,
            )
        end = (predictor if isinstance(predictor, Solver) else Solver()).noisy_end(process, times)
        if self.denoise and end is None:
            raise InputError("denoise must be False here: the last step ends at the data itself")
        denoise = self.denoise is not False and (self.denoise or not isinstance(self.grid, Tensor))
        return predictor, corrector, end if denoise else None


@checked(renamed=_RENAMED)
def sample(
    denoiser: Denoiser,
    shape: Sequence[int] | None = None,
    *,
    cond: Any = None,
    x_init: Tensor | None = None,
    sampler: Sampler | Predictor | str | None = None,
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
    of its own within one of the grid. The settings may come as one `Sampler`.

    Args:
        denoiser: the model; guidance is a denoiser about it.
        shape: `(B, *dims)` of the result; the start is then drawn from the process's prior.
        cond: what the net is conditioned on.
        x_init: the start itself, in place of `shape`.
        sampler: a predictor (`pcdiff.diffusion.predictor`) or its name; the ancestral one by default. Or a
            `Sampler`, in place of `corrector`, `num_steps`, `grid` and `denoise` too.
        corrector: see `Sampler`, as for `num_steps`, `grid` and `denoise`.
        num_steps: steps from noise to data.
        grid: name of the time grid, or the times themselves.
        t_start: the time of `x_init`; T by default.
        constraint: called as `constraint(x, t, noise)` after every update by corrector or predictor, with the time
            of x; what it returns is the new x. After the last update its `noise` is None.
        denoise: end with the estimate of x_0.
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
        >>> sample(denoiser, (4, 2048, 3), cond=z, sampler="dpmpp", num_steps=10)
        >>> sample(denoiser, (4, 3, 32, 32), sampler="reverse_diffusion", corrector="langevin")
    """
    settings = _settings(sampler, corrector=corrector, num_steps=num_steps, grid=grid, denoise=denoise)
    return settings(
        denoiser,
        shape,
        cond=cond,
        x_init=x_init,
        t_start=t_start,
        constraint=constraint,
        generator=generator,
        noise=noise,
        callback=callback,
        progress=progress,
        report=report,
    )


@checked(renamed=_RENAMED)
def invert(
    denoiser: Denoiser,
    x: Tensor,
    *,
    cond: Any = None,
    sampler: Sampler | Predictor | str = "ddim",
    num_steps: int | None = None,
    grid: str | None = None,
    t_start: float | None = None,
    **outputs: Any,
) -> Tensor:
    """Map data to the noise that a deterministic sampler makes it from.

    The sampler runs the grid's times upwards (Song, Meng & Ermon, DDIM, 2021, section 5.4). The data take the place
    of x at the smallest time with noise. In continuous time the way back ends there too with `denoise=False`; by
    default it continues to the estimate of x_0.

    Args:
        denoiser: the model.
        x: data `(B, *dims)`.
        cond: what the net is conditioned on.
        sampler: an invertible predictor (`pcdiff.diffusion.invertible_predictors`), its name, or a `Sampler`.
        num_steps: of the grid; a chain's last step down, to the data, has no inverse.
        grid: name of the time grid; by default the one that `sample` takes.
        t_start: the time to stop at; T by default.
        **outputs: `callback`, `progress` and `report`, see `sample`.

    Returns:
        The noise, like `x`.

    Raises:
        InputError: see `sample`.

    Example:
        >>> noise = invert(denoiser, x, cond=z)
        >>> sample(denoiser, x_init=noise, cond=z, sampler="ddim")  # nearly x
    """
    settings = _settings(sampler, num_steps=num_steps, grid=grid)
    return settings.invert(denoiser, x, cond=cond, t_start=t_start, **outputs)


@checked
def check_steps(
    process: Process,
    sampler: Sampler | Predictor | str,
    corrector: Corrector | str | None = None,
    num_steps: int | None = None,
    grid: str | Tensor | None = None,
    denoise: bool | None = None,
) -> None:
    """Refuse what `sample` would refuse of predictor, corrector and times, without drawing; arguments as there.

    Raises:
        InputError: see `sample`.
    """
    _settings(sampler, corrector=corrector, num_steps=num_steps, grid=grid, denoise=denoise).check(process)


def _settings(sampler: Sampler | Predictor | str | None, **settings: Any) -> Sampler:
    given = {name: value for name, value in settings.items() if value is not None}
    if not isinstance(sampler, Sampler):
        return Sampler("ancestral" if sampler is None else sampler, **given)
    if given:
        raise InputError(f"{', '.join(given)} belongs to the Sampler's own settings; leave it out here")
    return sampler


def standard_normal(generator: torch.Generator | None) -> Noise:
    """Return the source of a run's draws."""

    def draw(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    return draw
