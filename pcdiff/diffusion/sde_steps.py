"""Predictors that follow the reverse-time SDE, or the probability flow, in small steps."""

from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoiser import Denoiser
from pcdiff.diffusion.process import Process, append_dims
from pcdiff.diffusion.steps import Noise, Solver, chain_steps, check_falling
from pcdiff.errors import InputError


class EulerMaruyama(Solver):
    """Euler-Maruyama's method on the reverse SDE (Song et al., 2021, eq. 6 and section 4.1).

    Args:
        flow: Euler's method on the probability flow instead (eq. 13); any process has a finite one.
        legacy: steps of T / num_steps whatever the times are, as score_sde's code takes them.
    """

    def __init__(self, flow: bool = False, legacy: bool = False):
        self.flow, self.legacy = flow, legacy

    def plan(self, process: Process, times: Tensor) -> None:
        """Find the fixed step, if that is wanted.

        Raises:
            InputError: the process's SDE is infinite at the start (the straight path), or the times rise.
        """
        if self.legacy or not self.flow:
            check_falling(times, "euler_maruyama", "flow=True without legacy")
        self.dt = process.T / (len(times) - 1) if self.legacy else None
        if not self.flow and not process.diffusion(times[:1]).isfinite().all():
            name = type(process).__name__
            raise InputError(f"euler_maruyama needs flow=True here: the SDE of {name} is infinite at its start")

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        process = denoiser.process
        dt = (t - s).double() if self.dt is None else t.double().new_full(t.shape, self.dt)
        if self.flow:
            return x - append_dims(dt, x) * denoiser.velocity(x, t, cond)
        drift, diffusion = process.reverse(x, t, denoiser.score(x, t, cond))
        mean = x - append_dims(dt, x) * drift
        return mean if noise is None else mean + append_dims(diffusion * dt.sqrt(), x) * noise(x)


class ReverseDiffusion(Solver):
    """The reverse of the chain that the process is cut into, `x - f + G z` (Song et al., 2021, appendix E, eq. 46).

    Args:
        flow: the probability flow's step instead, without noise (appendix D.3).
    """

    def __init__(self, flow: bool = False):
        self.flow = flow

    def plan(self, process: Process, times: Tensor) -> None:
        """Find N.

        Raises:
            InputError: the times are uneven, skip steps of a chain, or rise.
        """
        self.num_steps = chain_steps(process, times, "predictor 'reverse_diffusion'")

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        score = denoiser.score(x, t, cond)
        f, g = denoiser.process.reverse_discretize(x, t, score, self.num_steps, self.flow)
        return x - f if noise is None or self.flow else x - f + append_dims(g, x) * noise(x)
