"""Predictors that follow the reverse-time SDE, or the probability flow, in small steps."""

from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.diffusion.samplers.base import ChainSolver, Noise, Solver, check_falling, check_reverse_sde


class EulerMaruyama(Solver):
    """Euler-Maruyama's method on the reverse SDE (Song et al., 2021, eq. 6 and section 4.1).

    A last step to a time without noise, which Euler's rule would overshoot, is the estimate of x_0.

    Args:
        flow: Euler's method on the probability flow instead (eq. 13); any process has a finite one.
        legacy: steps of T / num_steps whatever the times are, as score_sde's code takes them.
    """

    stochastic = True

    def __init__(self, flow: bool = False, legacy: bool = False):
        self.flow, self.legacy = flow, legacy
        self.stochastic, self.invertible = not flow, flow and not legacy

    def plan(self, process: Process, times: Tensor) -> None:
        """Find the fixed step, if that is wanted.

        Raises:
            InputError: the process's SDE is infinite at one of the times (rectified flow's T), or they rise.
        """
        if self.legacy or not self.flow:
            check_falling(times, "euler_maruyama", "flow=True without legacy")
        self.dt = process.T / (len(times) - 1) if self.legacy else None
        self.to_data = not (self.flow or self.legacy) and not process.sigma(times[-1:]) > 0
        if not self.flow:
            check_reverse_sde(process, times, "predictor 'euler_maruyama'", "flow=True")

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        process = denoiser.process
        if noise is None and self.to_data:
            return denoiser(x, t, cond)
        dt = (t - s).double() if self.dt is None else t.double().new_full(t.shape, self.dt)
        if self.flow:
            return x - append_dims(dt, x) * denoiser.velocity(x, t, cond)
        drift, diffusion = process.reverse(x, t, denoiser.score(x, t, cond))
        mean = x - append_dims(dt, x) * drift
        return mean if noise is None else mean + append_dims(diffusion * dt.sqrt(), x) * noise(x)


class ReverseDiffusion(ChainSolver):
    """The reverse of the chain that the process is cut into, `x - f + G z` (Song et al., 2021, appendix E, eq. 46).

    Args:
        flow: the probability flow's step instead, without noise (appendix D.3).
    """

    name = "reverse_diffusion"

    def __init__(self, flow: bool = False):
        self.flow = flow
        self.stochastic = not flow

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        num_steps, index = self.next_step()
        score = denoiser.score(x, t, cond)
        f, g = denoiser.process.reverse_discretize(x, t, score, num_steps, self.flow, index)
        return x - f if noise is None or self.flow else x - f + append_dims(g, x) * noise(x)
