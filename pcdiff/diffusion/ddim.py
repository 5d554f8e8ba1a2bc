"""DDIM: steps that keep the noise they estimated."""

from functools import partial
from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoiser import Denoiser, clipped
from pcdiff.diffusion.process import append_dims
from pcdiff.diffusion.steps import Noise, Predictor
from pcdiff.errors import InputError


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
        eta: v over the posterior's standard deviation: 0 is deterministic, 1 the chain of DDPM.
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


def ddim(eta: float = 0.0, clip: tuple[float, float] | None = None) -> Predictor:
    """Return `ddim_step` with these settings.

    Raises:
        InputError: `eta` is negative.
    """
    if not eta >= 0:
        raise InputError(f"eta must not be negative, got {eta}")
    return partial(ddim_step, eta=eta, clip=clip)
