"""The reverse SDE with steps of its own size for every sample."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import append_dims
from pcdiff.diffusion.samplers.base import Noise, ReverseSDESolver
from pcdiff.diffusion.samplers.brownian import BrownianPath
from pcdiff.errors import InputError, OutOfRange


class AdaptiveSDE(ReverseSDESolver):
    r"""Improved Euler steps on the reverse SDE, as long as the error allows (Jolicoeur-Martineau et al., 2021).

    "Gotta Go Fast When Generating Data with Score-Based Models", arXiv 2105.14080, algorithm 1. Euler-Maruyama's
    step x' and the mean x'' of it and of one with the end's drift and diffusion, both of one draw, differ by the
    error `E = rms((x' - x'') / max(atol, rtol max(|x'|, |x' before|)))`, of each sample by itself; at E <= 1 the
    sample continues to x'', and its next step is `safety E^-exponent` times as long. A refused step sees the same
    Brownian path when it is tried again, shorter. The paper draws anew, which favors calm paths: a Gaussian's
    variance in 15 dimensions came out 7 to 12 % too large, and 10 to 16 % at a fourth of the tolerances; in 64,
    where lengths vary little, as it should. A sample that has arrived waits for the others, independent
    of them.

    Alone it goes from the first time to the last (the grid "ends"); between the times of another grid it stops at
    each. Two evaluations of the batch a try. A step to a time without noise is the estimate of x_0.

    Args:
        rtol: tolerance relative to the state, the paper's eps_rel (0.01 to 0.1 there).
        atol: absolute tolerance, the paper's eps_abs: one of 256 values, of data in [-1, 1].
        h_init: the first step, as a share of the way.
        safety: the paper's theta.
        exponent: the paper's r, in [0.5, 1].
        max_steps: tries between two times of the grid after which it gives up.
        legacy: draw anew after a refused step, as the paper does.

    Raises:
        InputError: a number is out of range; in a run, the score is not finite, or too rough for the tolerances.
    """

    name = "adaptive_sde"
    evaluations = None
    grid = "ends"
    draws_to_the_end = True

    def __init__(
        self,
        rtol: float = 0.02,
        atol: float = 2 / 256,
        h_init: float = 0.01,
        safety: float = 0.9,
        exponent: float = 0.9,
        max_steps: int = 1000,
        legacy: bool = False,
    ):
        if not (rtol >= 0 and atol > 0):
            raise InputError(f"rtol must be at least 0 and atol positive, got {rtol} and {atol}")
        for name, value in (("h_init", h_init), ("safety", safety)):
            if not 0 < value <= 1:
                raise OutOfRange(name, "in (0, 1]", value)
        if not 0.5 <= exponent <= 1:
            raise InputError(f"exponent must be in [0.5, 1], got {exponent}")
        if max_steps < 1:
            raise OutOfRange("max_steps", "at least 1", max_steps)
        self.rtol, self.atol, self.h_init = rtol, atol, h_init
        self.safety, self.exponent, self.max_steps, self.legacy = safety, exponent, max_steps, legacy

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        if self.reaches_data():
            return denoiser(x, t, cond)
        end, now = s.double(), t.double()
        h = (now - end) * self.h_init
        before, path = x, BrownianPath(x, now)
        for _ in range(self.max_steps):
            z = torch.zeros_like(x) if noise is None else noise(x)
            # what is left may be less than the step by rounding alone
            after = torch.where(h >= now - end, end, now - h)
            w = append_dims((now - after).sqrt(), x) * z if self.legacy else path.increment(after, z)
            euler, improved = self._both(denoiser, x, now, after, cond, w)
            scale = (self.rtol * torch.maximum(euler.abs(), before.abs())).clamp(min=self.atol)
            error = ((euler - improved) / scale).double().flatten(1).square().mean(dim=1).sqrt()
            if not error.isfinite().all():
                worst = now[~error.isfinite()].max()
                raise InputError(f"predictor 'adaptive_sde' needs finite scores, got others near t = {worst:g}")
            taken = error <= 1
            chosen = append_dims(taken, x) > 0
            x, before = torch.where(chosen, improved, x), torch.where(chosen, euler, before)
            path.go_on(taken)
            now = torch.where(taken, after, now)
            if (now == end).all():
                return x
            grown = self.safety * h * error.clamp(min=1e-12) ** -self.exponent
            h = torch.where(now > end, torch.minimum(grown, now - end), 0)
        raise InputError(
            f"the reverse SDE is too rough for rtol {self.rtol:g} and atol {self.atol:g}: not done after "
            f"{self.max_steps} steps, at t = {now.max():g}"
        )

    @staticmethod
    def _both(denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return Euler-Maruyama's step and the improved one."""
        process, h = denoiser.process, append_dims(t - s, x)
        drift, diffusion = process.reverse(x, t, denoiser.score(x, t, cond))
        euler = x - h * drift + append_dims(diffusion, x) * w
        drift, diffusion = process.reverse(euler, s, denoiser.score(euler, s, cond))
        other = x - h * drift + append_dims(diffusion, x) * w
        return euler, (euler + other) / 2
