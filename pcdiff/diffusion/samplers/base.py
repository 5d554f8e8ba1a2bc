"""What a sampler's parts are called with, and the base of those that keep something from step to step."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import Process
from pcdiff.errors import InputError

# draws a standard normal like its argument
Noise = Callable[[Tensor], Tensor]
# (denoiser, x_t, t, s, cond, noise) -> x_s; noise None asks for the mean
Predictor = Callable[[Denoiser, Tensor, Tensor, Tensor, Any, Noise | None], Tensor]
# (denoiser, x_t, t, cond, noise) -> x_t
Corrector = Callable[[Denoiser, Tensor, Tensor, Any, Noise], Tensor]
# (x, t, noise) -> x, after every update; t is the time of x, noise None at the end
Constraint = Callable[[Tensor, Tensor, Noise | None], Tensor]
# (k, t, x), with the start (k = 0) and after every step
Callback = Callable[[int, float, Tensor], None]
# (k, num_steps), after every step
Progress = Callable[[int, int], None]
Self = TypeVar("Self", bound="Stateful")


class Stateful:
    """Base of the predictors and correctors that need the run's plan, or remember earlier steps.

    The one made by name holds settings only; every run works on a copy of its own, so one can be shared.
    """

    def begin(self: Self, process: Process, times: Tensor) -> Self:
        """Return a copy for one run over `times (num_steps + 1,)`; `plan` looks at them first."""
        fresh = copy.copy(self)
        fresh.plan(process, times)
        return fresh

    def plan(self, process: Process, times: Tensor) -> None:
        """Look at the run ahead.

        Raises:
            InputError: the process or the times do not suit this method.
        """


class Solver(Stateful):
    """Base of the predictors. Each states as attributes what commands, tables and tests need to know about it.

    On the class they hold for the default options, on an object for its own: `DDIM.stochastic` is False,
    `DDIM(eta=1.0).stochastic` True. Of a plain function those that it lacks are the ones below (`attribute_of`).

    Attributes:
        stochastic: whether it draws noise on the way, so that equal starts end apart.
        invertible: whether it follows the probability flow in either direction of time, as `invert` needs it.
        evaluations: of the denoiser in a step between two times with noise; None where it chooses its own steps.
        grid: name of the times that it works best with, whatever the process; None leaves them to the process.
        draws_to_the_end: whether it is given noise for the last step of the grid too, as it takes many within one,
            or draws before a step; others are asked for their mean there.
        needs_corrector: whether it leaves the samples to a corrector.
    """

    stochastic = False
    invertible = False
    evaluations: int | None = 1
    grid: str | None = None
    draws_to_the_end = False
    needs_corrector = False

    def grid_for(self, process: Process) -> str:
        """Return the name of the times that it takes by default."""
        return process.grid if self.grid is None else self.grid

    def noisy_end(self, process: Process, times: Tensor) -> Tensor | None:
        """Return the time whose noise the last step leaves in x, a scalar; None where no noise is left."""
        return times[-1] if process.sigma(times[-1:]) > 0 else None

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s, like x_t `(B, *dims)`, at times `t`, `s (B,)`."""
        raise NotImplementedError


def attribute_of(predictor: Predictor, name: str) -> Any:
    """Return what a predictor states about itself (see `Solver`), or of a plain function the base's own."""
    return getattr(predictor, name, getattr(Solver, name))


class DataEndingSolver(Solver):
    """A solver whose step to a time without noise, where the score is infinite, is the estimate of x_0."""

    def plan(self, process: Process, times: Tensor) -> None:
        """Find which steps end at the data."""
        self.noisy = (process.sigma(times[1:]) > 0).tolist()
        self.step = 0

    def reaches_data(self) -> bool:
        """Return whether the current step ends at the data, and continue to the next step."""
        noisy, self.step = self.noisy[self.step], self.step + 1
        return not noisy


class ReverseSDESolver(DataEndingSolver):
    """A solver of the reverse SDE with steps of any length, whose last step to the data is the estimate of x_0.

    Attributes:
        name: its own in the registry, for messages.
    """

    name = ""
    stochastic = True

    def plan(self, process: Process, times: Tensor) -> None:
        """Find which steps end at the data.

        Raises:
            InputError: the process's SDE is infinite at the start (rectified flow), or the times rise.
        """
        check_falling(times, f"predictor {self.name!r}", "'ddim' or 'ode'")
        check_reverse_sde(process, times, f"predictor {self.name!r}")
        super().plan(process, times)


class ChainSolver(Solver):
    """Base of the predictors that reverse the chain that a process is cut into, step by step.

    In continuous time with even steps they take score_sde's times (the grid `"chain"`): N of them from T to
    sample_eps, and then the data. The last step, of index 0, removes all noise that is left.
    """

    name = ""
    stochastic = True

    def grid_for(self, process: Process) -> str:
        """Return the name of the times that it takes by default."""
        return "chain" if process.even_steps else process.grid

    def noisy_end(self, process: Process, times: Tensor) -> None:
        """Return None: the last is the chain's step 0, to the data, whatever the time it ends at."""

    def plan(self, process: Process, times: Tensor) -> None:
        """Find N and the index of every step.

        Raises:
            InputError: the times do not suit, or the process's SDE is infinite at one of them.
        """
        name = f"predictor {self.name!r}"
        self.steps, self.step = chain_steps(process, times, name), 0
        check_reverse_sde(process, times, name, "'ancestral' or 'ddim'")
        # the process may refuse so few steps
        process.discretize(times[:1].double(), times[:1], *self.steps[0])

    def next_step(self) -> tuple[float | None, int | None]:
        """Return N and index of the step that comes, and count it."""
        found, self.step = self.steps[self.step], self.step + 1
        return found


def check_falling(times: Tensor, name: str, instead: str) -> None:
    """Refuse times that rise, as for inversion, for a method that draws from what came before.

    Raises:
        InputError: they rise; the message names what to take `instead`.
    """
    if times[-1] > times[0]:
        raise InputError(f"{name} needs falling times; to go up take {instead}")


def check_reverse_sde(process: Process, times: Tensor, name: str, instead: str = "'heun' or 'ode'") -> None:
    """Refuse times at which the reverse SDE is infinite, for a method that follows it.

    Raises:
        InputError: drift or diffusion are infinite at a time that a step begins at, as at rectified flow's T;
            the message names what to take `instead`.
    """
    start = times[:-1]
    finite = process.drift_rate(start).isfinite() & process.diffusion(start).isfinite()
    if not finite.all():
        where = f"where the SDE of {type(process).__name__} is infinite, at t = {float(start[~finite][0]):g}"
        raise InputError(f"{name} cannot start {where}: take {instead}")


def chain_steps(process: Process, times: Tensor, name: str) -> list[tuple[float | None, int | None]]:
    """Return N and the index, from 0 at the data, of every step of the chain that a process is cut into.

    Both are None for the steps of a chain, which is cut already, and the index where the process has no table of
    its steps, whose N is then that of an even cut into such steps. Times that start below T are a part of the
    whole cut; counted from the data, they need not be exact.

    Raises:
        InputError: a chain's times skip some; those of a continuous process are uneven, or do not go down to the
            data where that is asked; or they rise.
    """
    check_falling(times, name, "'ddim' or 'ode'")
    strides = -times.double().diff()
    count = len(strides)
    if process.num_steps is not None:
        if not (strides == 1).all():
            raise InputError(
                f"{name} takes the chain's steps one by one, got a grid that skips some; leave num_steps out, or "
                "take a sampler that may skip them, such as 'ddim', or process.respaced(...), a shorter chain"
            )
        return [(None, None)] * count
    if not process.even_steps:
        return [(process.T / stride, None) for stride in strides.tolist()]
    first, last, low = (float(v) for v in (strides[0], strides[-1], times[-1]))
    slack = 1 + 1e-3
    # the last one may be a shorter way to the data, or that from sample_eps
    if not torch.allclose(strides[:-1], strides[:1], rtol=1e-3) or last > slack * max(first, process.sample_eps):
        raise InputError(f"{name} needs evenly spaced times, grid='chain', got steps of uneven length")
    if low > slack * max(first / 4, process.sample_eps):
        raise InputError(
            f"{name} needs times down to the data, grid='chain', got t = {low:g} with steps of {first:g}"
        )
    num_steps = round(process.T / first) if count == 1 else round((process.T - float(times[-2])) / first) + 1
    return [(num_steps, count - 1 - k) for k in range(count)]
