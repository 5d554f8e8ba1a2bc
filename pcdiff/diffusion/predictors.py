"""Predictors: one reverse step from t to s. A new predictor is one function and one line in `PREDICTORS`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoiser import Denoiser
from pcdiff.diffusion.process import append_dims
from pcdiff.errors import InputError

Noise = Callable[[Tensor], Tensor]
Predictor = Callable[[Denoiser, Tensor, Tensor, Tensor, Any, Noise | None], Tensor]


def ancestral_step(
    denoiser: Denoiser,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    cond: Any,
    noise: Noise | None,
    flexibility: float = 0.0,
) -> Tensor:
    """Draw x_s ~ p(x_s | x_t), the reverse Markov chain (Luo & Hu, 2021, eq. 3-4; Ho et al., 2020, algorithm 2).

    Args:
        denoiser: the model.
        x: x_t `(B, *dims)`.
        t: current times `(B,)`.
        s: next times `(B,)`, s < t.
        cond: what the net is conditioned on.
        noise: draws a standard normal like its argument; None returns the mean (the chain's last step).
        flexibility: mixes the chain's standard deviation between the posterior's (0) and the forward kernel's
            (1, the beta_t of eq. 4), linearly, as DPM's code does; that code's default is 0.

    Returns:
        x_s, like `x`.
    """
    mean, posterior_variance, forward_variance = denoiser.process.posterior(denoiser(x, t, cond), x, t, s)
    if noise is None:
        return mean
    std = flexibility * forward_variance.sqrt() + (1 - flexibility) * posterior_variance.sqrt()
    return mean + append_dims(std, x) * noise(x)


PREDICTORS: dict[str, Callable[..., Tensor]] = {"ancestral": ancestral_step}


def predictor(name: str, **options: float) -> Predictor:
    """Return a predictor by name, its options bound.

    Raises:
        InputError: the name is unknown, or flexibility lies outside [0, 1].
    """
    if name not in PREDICTORS:
        raise InputError(f"predictor must be one of {sorted(PREDICTORS)}, got {name!r}")
    flexibility = options.get("flexibility", 0.0)
    if not 0 <= flexibility <= 1:
        raise InputError(f"flexibility must be in [0, 1], got {flexibility}")
    return partial(PREDICTORS[name], **options)
