"""The probability flow by an adaptive ODE solver."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.samplers.base import DataEndingSolver, Noise
from pcdiff.errors import InputError, UnknownName

METHODS = ("adaptive_heun", "bosh3", "dopri5", "dopri8", "fehlberg2")


class AdaptiveODE(DataEndingSolver):
    """Runge-Kutta with steps of its own choice between the times of the grid (Song et al., 2021, section 4.3).

    The error that sets the steps is a mean over the batch. A step to a time without noise, where the velocity may
    be infinite, is the estimate of x_0.

    Args:
        rtol: relative tolerance of each step.
        atol: absolute tolerance of each step.
        method: torchdiffeq's name of the method.
        max_steps: steps between two times of the grid after which it gives up, as with a net whose dropout is on.

    Raises:
        InputError: a tolerance is not positive, or the method unknown; in a run, the velocities are not finite or
            too rough for the tolerances.
    """

    invertible = True
    evaluations = None
    grid = "ends"

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, method: str = "dopri5", max_steps: int = 1000):
        if not (rtol > 0 and atol > 0):
            raise InputError(f"rtol and atol must be positive, got {rtol} and {atol}")
        if method not in METHODS:
            raise UnknownName("method", method, sorted(METHODS))
        self.rtol, self.atol, self.method, self.max_steps = rtol, atol, method, max_steps

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        if self.reaches_data():
            return denoiser(x, t, cond)

        (start, end), low, high = (
            (t[0].double(), s[0].double()),
            torch.minimum(t[0], s[0]),
            torch.maximum(t[0], s[0]),
        )

        def velocity(time: Tensor, state: Tensor) -> Tensor:
            # rounding may carry the last stage past the end, where the process may have no times
            time = time.to(torch.float64).clamp(low, high)
            value = denoiser.velocity(state, time.expand(len(state)), cond)
            if not value.isfinite().all():
                raise InputError(f"predictor 'ode' needs finite velocities, got others at t = {float(time):g}")
            return value

        ends = torch.stack([start, end])
        # left to itself a step may overshoot the end by far
        options = {"step_t": ends[1:], "max_num_steps": self.max_steps}
        from torchdiffeq import odeint  # here, since it takes half a second of every program's start

        try:
            return odeint(velocity, x, ends, rtol=self.rtol, atol=self.atol, method=self.method, options=options)[
                -1
            ]
        except AssertionError as error:
            raise InputError(f"the probability flow is too rough for rtol {self.rtol:g}: {error}") from error
