"""The diffusion core: processes, denoisers, objectives, the one sampler and likelihood, for any `(B, *dims)`."""

from pcdiff.diffusion.bound import (
    ChainBound,
    chain_bound,
    discretized_log_likelihood,
    normal_kl,
    prior_bits,
    vlb_term,
)
from pcdiff.diffusion.chain import Chain
from pcdiff.diffusion.constrained import ConstrainedCorrector
from pcdiff.diffusion.constraint import CONSTRAINTS, Colorize, Inpaint, Linear, average, constraint
from pcdiff.diffusion.continuous_bound import ContinuousBound, continuous_bound
from pcdiff.diffusion.correctors import CORRECTORS, corrector
from pcdiff.diffusion.denoiser import Denoiser, EpsDenoiser, Estimate, NetDenoiser, ReverseKernel
from pcdiff.diffusion.dequantisation import (
    DEQUANTISATIONS,
    Dequantised,
    dequantisation,
    dequantisation_loss,
    fit_dequantisation,
)
from pcdiff.diffusion.discrete import (
    SCHEDULES,
    DiscreteProcess,
    RespacedProcess,
    cosine_betas,
    discrete_process,
    linear_betas,
    spaced_times,
)
from pcdiff.diffusion.editing import redenoise, slerp
from pcdiff.diffusion.edm import EDMProcess
from pcdiff.diffusion.grids import GRIDS, default_grid, time_grid
from pcdiff.diffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance
from pcdiff.diffusion.levels import NoiseLevels, geometric_sigmas
from pcdiff.diffusion.likelihood import Likelihood, bits_per_dim, log_likelihood, nats_per_dim
from pcdiff.diffusion.measurement import GUIDANCE, MeasurementGuidance, guidance
from pcdiff.diffusion.objective import OBJECTIVES, check_objective, objective
from pcdiff.diffusion.parametrization import PARAMETRIZATIONS, Parametrization, parametrization
from pcdiff.diffusion.plain import build_plain_denoiser, build_plain_process, plain_denoiser, plain_process
from pcdiff.diffusion.predictors import PREDICTORS, ancestral_step, predictor
from pcdiff.diffusion.process import Process, append_dims
from pcdiff.diffusion.processes import PROCESSES, build_process
from pcdiff.diffusion.sampler import SamplingReport, Trajectory, check_steps, invert, sample
from pcdiff.diffusion.steps import Constraint, Corrector, Noise, Planned, Predictor, Solver
from pcdiff.diffusion.straight import StraightPath
from pcdiff.diffusion.subvp import SubVP
from pcdiff.diffusion.time_inputs import TIME_INPUTS
from pcdiff.diffusion.times import TIME_DRAWS, Times, draw_times, time_draw
from pcdiff.diffusion.variance import VARIANCES
from pcdiff.diffusion.ve import VE
from pcdiff.diffusion.vp import VP

__all__ = [
    "CONSTRAINTS",
    "CORRECTORS",
    "DEQUANTISATIONS",
    "GRIDS",
    "GUIDANCE",
    "OBJECTIVES",
    "PARAMETRIZATIONS",
    "PREDICTORS",
    "PROCESSES",
    "SCHEDULES",
    "TIME_DRAWS",
    "TIME_INPUTS",
    "VARIANCES",
    "VE",
    "VP",
    "Chain",
    "ChainBound",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "Colorize",
    "ConstrainedCorrector",
    "Constraint",
    "ContinuousBound",
    "Corrector",
    "Denoiser",
    "Dequantised",
    "DiscreteProcess",
    "EDMProcess",
    "EpsDenoiser",
    "Estimate",
    "Inpaint",
    "Likelihood",
    "Linear",
    "MeasurementGuidance",
    "NetDenoiser",
    "Noise",
    "NoiseLevels",
    "Parametrization",
    "Planned",
    "Predictor",
    "Process",
    "RespacedProcess",
    "ReverseKernel",
    "SamplingReport",
    "Solver",
    "StraightPath",
    "SubVP",
    "Times",
    "Trajectory",
    "ancestral_step",
    "append_dims",
    "average",
    "bits_per_dim",
    "build_plain_denoiser",
    "build_plain_process",
    "build_process",
    "chain_bound",
    "check_objective",
    "check_steps",
    "constraint",
    "continuous_bound",
    "corrector",
    "cosine_betas",
    "default_grid",
    "dequantisation",
    "dequantisation_loss",
    "discrete_process",
    "discretized_log_likelihood",
    "draw_times",
    "fit_dequantisation",
    "geometric_sigmas",
    "guidance",
    "invert",
    "linear_betas",
    "log_likelihood",
    "nats_per_dim",
    "normal_kl",
    "objective",
    "parametrization",
    "plain_denoiser",
    "plain_process",
    "predictor",
    "prior_bits",
    "redenoise",
    "sample",
    "slerp",
    "spaced_times",
    "time_draw",
    "time_grid",
    "vlb_term",
]
