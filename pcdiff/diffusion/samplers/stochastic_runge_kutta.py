"""A stochastic Runge-Kutta method for the reverse SDE."""

import math
from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import append_dims
from pcdiff.diffusion.samplers.base import Noise, ReverseSDESolver


class StochasticRungeKutta(ReverseSDESolver):
    r"""Roessler's SRA1 on the reverse SDE (Song et al., 2021, eq. 6 and section 4.1): two evaluations a step.

    "Runge-Kutta methods for the strong approximation of solutions of stochastic differential equations", SIAM J.
    Numer. Anal. 48, 2010: order 1.5 of paths and 2 of moments where the noise does not depend on x, as here;
    Euler-Maruyama has 1 of both. With a the reverse drift, h the step, W the Brownian motion's increment and
    `Z = int W / h` over the step,

        y = x - 3/4 h a(x, t) + 3/2 g(s) Z
        x_s = x - h / 3 a(x, t) - 2 h / 3 a(y, t - 3/4 h) + g(s) (W - Z) + g(t) Z

    A step to a time without noise, where the score is infinite, is the estimate of x_0.
    """

    name = "srk"
    evaluations = 2

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        if self.reaches_data():
            return denoiser(x, t, cond)
        process, h = denoiser.process, (t - s).double()
        first, g_t = process.reverse(x, t, denoiser.score(x, t, cond))
        middle = t - 0.75 * h
        y = x - append_dims(0.75 * h, x) * first
        mean = x - append_dims(h / 3, x) * first
        random = 0.0
        if noise is not None:
            # W and Z are normal with variances h and h / 3 and covariance h / 2
            root = h.sqrt()
            w, other = append_dims(root, x) * noise(x), append_dims(root, x) * noise(x)
            z = w / 2 + other / (2 * math.sqrt(3))
            g_s, g_t = (append_dims(g, x) for g in (process.diffusion(s), g_t))
            y = y + 1.5 * g_s * z
            random = g_s * (w - z) + g_t * z
        second, _ = process.reverse(y, middle, denoiser.score(y, middle, cond))
        return mean - append_dims(2 * h / 3, x) * second + random
