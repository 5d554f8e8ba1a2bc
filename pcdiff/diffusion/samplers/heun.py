"""Heun's method on the probability flow, and EDM's stochastic sampler, which adds noise before every step."""

import math
from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.diffusion.samplers.base import Noise, Solver, check_falling
from pcdiff.errors import InputError, OutOfRange, UnknownName

VARIABLES = ("sigma", "t")


class Heun(Solver):
    """Heun's second-order method, two evaluations a step but the one that ends at the data (Karras et al., 2022).

    With churn it is EDM's stochastic sampler, algorithm 2; without, algorithm 1.

    Args:
        churn: S_churn; each step at a noise level in [churn_min, churn_max] starts from one that is
            `1 + min(churn / num_steps, sqrt(2) - 1)` times as large.
        churn_min: S_min, of sigma / alpha.
        churn_max: S_max, of sigma / alpha.
        noise_scale: S_noise, the standard deviation of the noise added.
        variable: what the flow is integrated over: `"sigma"`, that is sigma / alpha, where the flow is nearly
            straight, or the process's own `"t"`.

    Raises:
        InputError: a setting is out of range.
    """

    invertible = True
    evaluations = 2
    grid = "edm"
    draws_to_the_end = True

    def __init__(
        self,
        churn: float = 0.0,
        churn_min: float = 0.0,
        churn_max: float = math.inf,
        noise_scale: float = 1.0,
        variable: str = "sigma",
    ):
        for name, value in {"churn": churn, "churn_min": churn_min, "noise_scale": noise_scale}.items():
            if not value >= 0:
                raise OutOfRange(name, "at least 0", value)
        if variable not in VARIABLES:
            raise UnknownName("variable", variable, sorted(VARIABLES))
        self.churn, self.churn_min, self.churn_max = churn, churn_min, churn_max
        self.noise_scale, self.variable = noise_scale, variable
        self.stochastic, self.invertible = churn > 0 and noise_scale > 0, churn == 0

    def plan(self, process: Process, times: Tensor) -> None:
        """Find which steps get churn and which end at the data.

        Raises:
            InputError: there is no signal at the start (rectified flow), so sigma / alpha is infinite; or the
                times rise, with churn.
        """
        if self.churn:
            check_falling(times, "heun with churn", "churn=0")
        if process.alpha(times[:1]) == 0 and (self.variable == "sigma" or self.churn):
            name = type(process).__name__
            raise InputError(f"sigma / alpha of {name} is infinite at its start: take variable='t', without churn")
        gamma = min(self.churn / (len(times) - 1), math.sqrt(2) - 1)
        levels = (-process.log_snr(times[:-1]) / 2).exp().tolist()
        self.gammas = [gamma if self.churn_min <= level <= self.churn_max else 0.0 for level in levels]
        self.noisy = (process.sigma(times[1:]) > 0).tolist()
        self.step = 0

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        gamma, noisy, self.step = self.gammas[self.step], self.noisy[self.step], self.step + 1
        if gamma > 0 and noise is not None:
            x, t = self._raise_level(denoiser.process, x, t, gamma, noise)
        if self.variable == "t":
            velocity, dt = denoiser.velocity(x, t, cond), append_dims((s - t).double(), x)
            guess = x + dt * velocity
            return guess + dt / 2 * (denoiser.velocity(guess, s, cond) - velocity) if noisy else guess
        (alpha, sigma), (alpha_s, sigma_s) = denoiser.process.scales(t), denoiser.process.scales(s)
        x0, eps = denoiser.estimate(x, t, cond)
        guess = append_dims(alpha_s, x) * x0 + append_dims(sigma_s, x) * eps
        if not noisy:
            return guess
        rise = append_dims((sigma_s - alpha_s * sigma / alpha) / 2, x)
        return guess + rise * (denoiser.eps(guess, s, cond) - eps)

    def _raise_level(
        self, process: Process, x: Tensor, t: Tensor, gamma: float, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        raised = process.t_of_log_snr(process.log_snr(t) - 2 * math.log1p(gamma))
        # the last time may cut the level off, so it is read back
        (alpha, sigma), (alpha_up, sigma_up) = process.scales(t), process.scales(raised)
        added = ((sigma_up / alpha_up).square() - (sigma / alpha).square()).clamp(min=0).sqrt() * alpha_up
        x = append_dims(alpha_up / alpha, x) * x + append_dims(self.noise_scale * added, x) * noise(x)
        return x, raised


class EDMStochastic(Heun):
    """`Heun` with the churn that EDM takes for ImageNet-64 (Karras et al., 2022, table 5)."""

    stochastic = True
    invertible = False

    def __init__(
        self, churn: float = 40.0, churn_min: float = 0.05, churn_max: float = 50.0, noise_scale: float = 1.003
    ):
        super().__init__(churn, churn_min, churn_max, noise_scale)
