"""What a sampler's parts are called with, and the base of those that keep something from step to step."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from pcdiff.diffusion.denoiser import Denoiser
from pcdiff.diffusion.process import Process
from pcdiff.errors import InputError

# draws a standard normal like its argument
Noise = Callable[[Tensor], Tensor]
# (denoiser, x_t, t, s, cond, noise) -> x_s; noise None asks for the mean
Predictor = Callable[[Denoiser, Tensor, Tensor, Tensor, Any, Noise | None], Tensor]
# (denoiser, x_t, t, cond, noise) -> x_t
Corrector = Callable[[Denoiser, Tensor, Tensor, Any, Noise], Tensor]
# (x, t, noise) -> x, after every update; t is where x stands now, noise None at the end
Constraint = Callable[[Tensor, Tensor, Noise | None], Tensor]
Self = TypeVar("Self", bound="Planned")


class Planned:
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


class Solver(Planned):
    """Base of the planned predictors.

    Attributes:
        grid: name of the times that it works best with.
        draws_to_the_end: whether it is given noise for the last step of the grid too, as it takes many within one.
    """

    grid = "uniform"
    draws_to_the_end = False

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s, like x_t `(B, *dims)`, at times `t`, `s (B,)`."""
        raise NotImplementedError


def check_falling(times: Tensor, name: str, instead: str) -> None:
    """Refuse times that rise, as for inversion, for a method that draws from what came before.

    Raises:
        InputError: they rise; the message says what to take `instead`.
    """
    if times[-1] > times[0]:
        raise InputError(f"{name} needs falling times; to go up take {instead}")


def check_reverse_sde(process: Process, times: Tensor, name: str) -> None:
    """Refuse times at which the reverse SDE is infinite, for a method that follows it.

    Raises:
        InputError: drift or diffusion are infinite at the first time, as on the straight path.
    """
    if not (process.diffusion(times[:1]).isfinite().all() and process.drift_rate(times[:1]).isfinite().all()):
        kind = type(process).__name__
        raise InputError(f"{name} cannot start where the SDE of {kind} is infinite: take 'heun' or 'ode'")


def chain_steps(process: Process, times: Tensor, name: str) -> int | None:
    """Return the N that the process is cut into by evenly spaced times; None for a chain, which is cut already.

    Times that start below T are a part of the whole cut.

    Raises:
        InputError: a chain's times skip some, those of a continuous process are uneven, or they rise.
    """
    check_falling(times, name, "'ddim' or 'ode'")
    strides = -times.double().diff()
    if process.num_steps is not None:
        if not (strides == 1).all():
            raise InputError(
                f"{name} takes the chain's steps one by one, got a grid that skips some; leave num_steps out, or "
                "take a sampler that may skip them, such as 'ddim', or process.respaced(...), a shorter chain"
            )
        return None
    # the last one may be a shorter way to the data
    if len(strides) > 2 and not torch.allclose(strides[:-1], strides[0].expand(len(strides) - 1), rtol=1e-3):
        raise InputError(f"{name} needs evenly spaced times, grid='uniform', got steps of uneven length")
    return round(len(strides) * process.T / float(times.max()))
