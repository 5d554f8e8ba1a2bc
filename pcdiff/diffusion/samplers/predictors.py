"""Predictors by name: what takes a sample from t to s. A new one is a small file and a line in `PREDICTORS`."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import Process
from pcdiff.diffusion.samplers.adaptive_sde import AdaptiveSDE
from pcdiff.diffusion.samplers.ancestral import Ancestral, Kernel, ScoreAncestral, ancestral_step
from pcdiff.diffusion.samplers.base import Noise, Predictor, Solver
from pcdiff.diffusion.samplers.ddim import DDIM
from pcdiff.diffusion.samplers.dpm_solver import DPMSolver
from pcdiff.diffusion.samplers.heun import EDMStochastic, Heun
from pcdiff.diffusion.samplers.ode import AdaptiveODE
from pcdiff.diffusion.samplers.reverse_sde import EulerMaruyama, ReverseDiffusion
from pcdiff.diffusion.samplers.stochastic_runge_kutta import StochasticRungeKutta
from pcdiff.diffusion.samplers.unipc import UniPC
from pcdiff.registry import Registry

__all__ = ["PREDICTORS", "Noise", "Predictor", "ancestral_step", "predictor"]


class Unmoved(Solver):
    """Leaves x to the corrector.

    Args:
        denoise: end with the estimate of x_0 (Song & Ermon, 2020, algorithm 1), or with the noise of the smallest
            level left, as in NCSN's first algorithm; by default `sample` decides.
    """

    evaluations = 0
    needs_corrector = True

    def __init__(self, denoise: bool | None = None):
        self.denoise = denoise

    def noisy_end(self, process: Process, times: Tensor) -> Tensor | None:
        """Return the last but one time, where the corrector was last, unless this predictor has seen to it."""
        return times[-2] if self.denoise is None else None

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x, or at the last step the estimate of x_0."""
        return denoiser(x, t, cond) if self.denoise and noise is None else x


PREDICTORS: Registry[Callable[..., Predictor]] = Registry(
    "predictor",
    {
        "ancestral": Ancestral,
        "kernel": Kernel,
        "score_ancestral": ScoreAncestral,
        "euler_maruyama": EulerMaruyama,
        "reverse_diffusion": ReverseDiffusion,
        "srk": StochasticRungeKutta,
        "adaptive_sde": AdaptiveSDE,
        "none": Unmoved,
        "ddim": DDIM,
        "heun": Heun,
        "edm": EDMStochastic,
        "dpmpp": DPMSolver,
        "unipc": UniPC,
        "ode": AdaptiveODE,
    },
)


def invertible_predictors() -> list[str]:
    """Return the names of the predictors that `invert` takes, as their default options have them."""
    return sorted(name for name, facts in PREDICTORS.facts("invertible").items() if facts["invertible"])


def predictor(name: str, **options: Any) -> Predictor:
    """Return a predictor by name, its options bound.

    Args:
        name: a key of `PREDICTORS`.
        **options: what that predictor takes.

    Raises:
        InputError: the name or an option is unknown (the message lists the known ones), or a value out of range.

    Example:
        >>> sample(denoiser, (4, 2048, 3), cond=z, sampler=predictor("dpmpp", order=3), num_steps=10)
    """
    return PREDICTORS.build(name, **options)
