"""DDIM: steps that keep the noise they estimated."""

from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser, clipped
from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.diffusion.samplers.base import Noise, Solver, check_falling
from pcdiff.errors import InputError, OutOfRange


def ddim_step(
    denoiser: Denoiser,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    cond: Any,
    noise: Noise | None,
    eta: float = 0.0,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """Return `alpha_s x_0 + sqrt(sigma_s^2 - v^2) eps + v z` (Song, Meng & Ermon, DDIM, 2021, eq. 12, 16).

    With eta = 0 it is an exact step of the probability flow where eps does not change, in either direction: s may
    lie after t.

    Args:
        denoiser: the model.
        x: x_t `(B, *dims)`.
        t: current times `(B,)`.
        s: next times `(B,)`.
        cond: what the net is conditioned on.
        noise: draws a standard normal like its argument; None leaves the noise v z out.
        eta: v over the posterior's standard deviation: 0 is deterministic, 1 the chain of DDPM. More noise than
            x_s has is not refused here but cut off; `DDIM` refuses it.
        clip: bounds that the estimate of x_0 is cut to; the noise follows it.

    Returns:
        x_s, like `x`.
    """
    process = denoiser.process
    x0, eps = denoiser.estimate(x, t, cond)
    if clip is not None:
        x0 = clipped(x0, clip)
        alpha, sigma = process.scales(t)
        eps = (x - append_dims(alpha, x) * x0) / append_dims(sigma, x)
    alpha, sigma = process.scales(s)
    if eta == 0:
        return append_dims(alpha, x) * x0 + append_dims(sigma, x) * eps
    variance = eta**2 * process.kernel(t, s)[2]
    kept = (sigma.square() - variance).clamp(min=0).sqrt()
    mean = append_dims(alpha, x) * x0 + append_dims(kept, x) * eps
    return mean if noise is None else mean + append_dims(variance.sqrt(), x) * noise(x)


class DDIM(Solver):
    """`ddim_step` with these settings.

    Args:
        eta: v over the posterior's standard deviation: 0 is deterministic, 1 the chain of DDPM; more than 1 where v
            stays below sigma_s at every step.
        clip: bounds that the estimate of x_0 is cut to.

    Raises:
        InputError: `eta` is negative.
    """

    invertible = True

    def __init__(self, eta: float = 0.0, clip: tuple[float, float] | None = None):
        if not eta >= 0:
            raise OutOfRange("eta", "at least 0", eta)
        self.eta, self.clip = eta, clip
        self.stochastic, self.invertible = eta > 0, eta == 0

    def plan(self, process: Process, times: Tensor) -> None:
        """Look whether every step has room for its noise.

        Raises:
            InputError: the times rise, with noise, or `eta` asks for more of it than x_s has at a step.
        """
        if self.eta == 0:
            return
        check_falling(times, "ddim with eta", "eta=0")
        variance = process.kernel(times[:-1], times[1:])[2]
        drawn = variance > 0
        most = (
            float((process.sigma(times[1:])[drawn].square() / variance[drawn]).sqrt().min()) if drawn.any() else 1.0
        )
        # 1 never asks for more, even where rounding suggests it
        if self.eta > max(most, 1.0):
            raise InputError(
                f"eta must be at most {most:.4g} on these times, where x has no more noise, got {self.eta}"
            )

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        return ddim_step(denoiser, x, t, s, cond, noise, self.eta, self.clip)
