"""The diffusion core: processes, denoisers, objectives, predictors and the one sampler, for any `(B, *dims)`."""

from pcdiff.diffusion.denoiser import Denoiser, EpsDenoiser
from pcdiff.diffusion.objective import OBJECTIVES, draw_times, objective
from pcdiff.diffusion.predictors import PREDICTORS, ancestral_step, predictor
from pcdiff.diffusion.process import (
    SCHEDULES,
    DiscreteProcess,
    Process,
    append_dims,
    cosine_betas,
    discrete_process,
    linear_betas,
)
from pcdiff.diffusion.sampler import Trajectory, sample

__all__ = [
    "OBJECTIVES",
    "PREDICTORS",
    "SCHEDULES",
    "Denoiser",
    "DiscreteProcess",
    "EpsDenoiser",
    "Process",
    "Trajectory",
    "ancestral_step",
    "append_dims",
    "cosine_betas",
    "discrete_process",
    "draw_times",
    "linear_betas",
    "objective",
    "predictor",
    "sample",
]
