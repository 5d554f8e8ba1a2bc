"""Predictors by name: what takes a sample from t to s. A new one is a small file and a line in `PREDICTORS`."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pcdiff.diffusion.adaptive_sde import AdaptiveSDE
from pcdiff.diffusion.ancestral import ScoreAncestral, ancestral, ancestral_step, kernel
from pcdiff.diffusion.ddim import DDIM
from pcdiff.diffusion.denoiser import Denoiser
from pcdiff.diffusion.dpm_solver import DPMSolver
from pcdiff.diffusion.heun import Heun, edm
from pcdiff.diffusion.names import build
from pcdiff.diffusion.ode import AdaptiveODE
from pcdiff.diffusion.sde_steps import EulerMaruyama, ReverseDiffusion
from pcdiff.diffusion.steps import Noise, Predictor
from pcdiff.diffusion.stochastic_runge_kutta import StochasticRungeKutta
from pcdiff.diffusion.unipc import UniPC

__all__ = ["PREDICTORS", "Noise", "Predictor", "ancestral_step", "predictor"]


def unmoved(denoise: bool = False) -> Predictor:
    """Return the predictor that leaves x to the corrector; `denoise` ends with the estimate of x_0."""

    def step(denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None) -> Tensor:
        return denoiser(x, t, cond) if denoise and noise is None else x

    step.stays = True
    return step


PREDICTORS: dict[str, Callable[..., Predictor]] = {
    "ancestral": ancestral,
    "kernel": kernel,
    "score_ancestral": ScoreAncestral,
    "euler_maruyama": EulerMaruyama,
    "reverse_diffusion": ReverseDiffusion,
    "srk": StochasticRungeKutta,
    "adaptive_sde": AdaptiveSDE,
    "none": unmoved,
    "ddim": DDIM,
    "heun": Heun,
    "edm": edm,
    "dpmpp": DPMSolver,
    "unipc": UniPC,
    "ode": AdaptiveODE,
}


def predictor(name: str, **options: Any) -> Predictor:
    """Return a predictor by name, its options bound.

    Args:
        name: a key of `PREDICTORS`.
        **options: what that predictor takes.

    Raises:
        InputError: the name or an option is unknown (the message lists the known ones), or a value out of range.

    Example:
        >>> sample(denoiser, (4, 2048, 3), cond=z, step=predictor("dpmpp", order=3), num_steps=10)
    """
    return build("predictor", PREDICTORS, name, options)
