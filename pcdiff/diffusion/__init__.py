"""The diffusion core: processes, denoisers, objectives, the one sampler and likelihood, for any `(B, *dims)`."""

import pcdiff.runtime.square_roots  # noqa: F401 - for what it does
from pcdiff.diffusion.continuous_bound import ContinuousBound, continuous_bound
from pcdiff.diffusion.denoisers.base import Denoiser, EpsDenoiser, Estimate, NetDenoiser, ReverseKernel
from pcdiff.diffusion.denoisers.guidance import ClassifierFreeGuidance, ClassifierGuidance
from pcdiff.diffusion.denoisers.measurement_guidance import GUIDANCE, MeasurementGuidance, guidance
from pcdiff.diffusion.denoisers.parametrization import PARAMETRIZATIONS, Parametrization, parametrization
from pcdiff.diffusion.denoisers.time_inputs import TIME_INPUTS
from pcdiff.diffusion.denoisers.variance import VARIANCES
from pcdiff.diffusion.dequantization import (
    DEQUANTIZATIONS,
    Dequantized,
    dequantization,
    dequantization_loss,
    fit_dequantization,
)
from pcdiff.diffusion.editing import sdedit, slerp
from pcdiff.diffusion.likelihood import Likelihood, bits_per_dim, log_likelihood, nats_per_dim
from pcdiff.diffusion.losses.objectives import OBJECTIVES, check_objective, objective
from pcdiff.diffusion.losses.time_draws import TIME_DRAWS, Times, draw_times, time_draw
from pcdiff.diffusion.losses.variational_bound import (
    ChainBound,
    chain_bound,
    discretized_log_likelihood,
    normal_kl,
    prior_bits,
    vlb_term,
)
from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.diffusion.processes.chain import Chain
from pcdiff.diffusion.processes.ddpm import (
    SCHEDULES,
    DiscreteProcess,
    RespacedProcess,
    cosine_betas,
    discrete_process,
    linear_betas,
    spaced_times,
)
from pcdiff.diffusion.processes.edm import EDMProcess
from pcdiff.diffusion.processes.ncsn import NoiseLevels, geometric_sigmas
from pcdiff.diffusion.processes.rectified_flow import RectifiedFlow
from pcdiff.diffusion.processes.registry import PROCESSES, build_process
from pcdiff.diffusion.processes.subvp import SubVP
from pcdiff.diffusion.processes.ve import VE
from pcdiff.diffusion.processes.vp import VP
from pcdiff.diffusion.samplers.base import Constraint, Corrector, Noise, Predictor, Solver, Stateful, attribute_of
from pcdiff.diffusion.samplers.constrained_corrector import ConstrainedCorrector
from pcdiff.diffusion.samplers.constraints import CONSTRAINTS, Colorize, Inpaint, Linear, average, constraint
from pcdiff.diffusion.samplers.correctors import CORRECTORS, corrector
from pcdiff.diffusion.samplers.loop import Sampler, check_steps, invert, sample
from pcdiff.diffusion.samplers.predictors import PREDICTORS, ancestral_step, invertible_predictors, predictor
from pcdiff.diffusion.samplers.report import SamplingReport
from pcdiff.diffusion.samplers.time_grids import GRIDS, default_grid, time_grid
from pcdiff.diffusion.samplers.trajectory import Trajectory
from pcdiff.diffusion.serialization import denoiser_from_dict, denoiser_to_dict, process_from_dict, process_to_dict

__all__ = [
    "CONSTRAINTS",
    "CORRECTORS",
    "DEQUANTIZATIONS",
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
    "Dequantized",
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
    "Predictor",
    "Process",
    "RectifiedFlow",
    "RespacedProcess",
    "ReverseKernel",
    "Sampler",
    "SamplingReport",
    "Solver",
    "Stateful",
    "SubVP",
    "Times",
    "Trajectory",
    "ancestral_step",
    "append_dims",
    "attribute_of",
    "average",
    "bits_per_dim",
    "build_process",
    "chain_bound",
    "check_objective",
    "check_steps",
    "constraint",
    "continuous_bound",
    "corrector",
    "cosine_betas",
    "default_grid",
    "denoiser_from_dict",
    "denoiser_to_dict",
    "dequantization",
    "dequantization_loss",
    "discrete_process",
    "discretized_log_likelihood",
    "draw_times",
    "fit_dequantization",
    "geometric_sigmas",
    "guidance",
    "invert",
    "invertible_predictors",
    "linear_betas",
    "log_likelihood",
    "nats_per_dim",
    "normal_kl",
    "objective",
    "parametrization",
    "predictor",
    "prior_bits",
    "process_from_dict",
    "process_to_dict",
    "sample",
    "sdedit",
    "slerp",
    "spaced_times",
    "time_draw",
    "time_grid",
    "vlb_term",
]
