"""`scheduler_config.json` of diffusers and our denoisers, both ways: process, prediction, variance."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.diffusion import VE, DiscreteProcess, NetDenoiser, cosine_betas, linear_betas
from pcdiff.diffusion.denoisers.parametrization import PARAMETRIZATIONS
from pcdiff.errors import InputError, UnknownName

# schedulers over one chain of betas, which differ only in how they sample
CHAINS = tuple(
    f"{name}Scheduler"
    for name in "DDPM DDIM PNDM DPMSolverMultistep DPMSolverSinglestep UniPCMultistep DEISMultistep EulerDiscrete \
EulerAncestralDiscrete LMSDiscrete".split()
)
VE_SCHEDULER = "ScoreSdeVeScheduler"
PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned": "learned",
    "learned_range": "learned_range",
}


def scaled_linear_betas(num_steps: int, beta_1: float, beta_T: float) -> Tensor:
    """Return betas `(T,)` whose roots rise linearly (Rombach et al., 2022)."""
    return torch.linspace(beta_1**0.5, beta_T**0.5, num_steps, dtype=torch.float64).square()


def sigmoid_betas(num_steps: int, beta_1: float, beta_T: float) -> Tensor:
    """Return betas `(T,)` that rise along a sigmoid from -6 to 6 (Xu et al., 2022, GeoDiff)."""
    rise = torch.linspace(-6, 6, num_steps, dtype=torch.float64).sigmoid()
    return rise * (beta_T - beta_1) + beta_1


SCHEDULES = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "squaredcos_cap_v2": lambda num_steps, beta_1, beta_T: cosine_betas(num_steps),
    "sigmoid": sigmoid_betas,
}


def denoiser(net: nn.Module, config: Mapping[str, Any]) -> NetDenoiser:
    """Return a denoiser of a net under a scheduler's process.

    Args:
        net: conditioned on the step with a chain, on the noise level with `ScoreSdeVeScheduler`.
        config: of the scheduler; diffusers' defaults for what it lacks.

    Raises:
        InputError: the scheduler, or one of its settings, is not supported.
    """
    kind = config.get("_class_name")
    if kind == VE_SCHEDULER:
        process = VE(
            config.get("sigma_min", 0.01), config.get("sigma_max", 1348.0), config.get("num_train_timesteps", 2000)
        )
        return NetDenoiser(net, process, "score", "sigma")
    if kind not in CHAINS:
        raise UnknownName("scheduler", kind, [*CHAINS, VE_SCHEDULER])
    if config.get("rescale_betas_zero_snr", False):
        raise InputError("rescale_betas_zero_snr must be false: a last step without signal has no log-SNR")
    predicts = config.get("prediction_type", "epsilon")
    # only DDPM's own scheduler names a variance; the others sample with the small one
    variance = config.get("variance_type") or "fixed_small"
    for name, value, known in (("prediction_type", predicts, PREDICTS), ("variance_type", variance, VARIANCES)):
        if value not in known:
            raise UnknownName(name, value, sorted(known))
    return NetDenoiser(net, DiscreteProcess(betas(config)), PREDICTS[predicts], "step", VARIANCES[variance])


def betas(config: Mapping[str, Any]) -> Tensor:
    """Return the variances `(T,)` of a scheduler's chain.

    Raises:
        InputError: the schedule is unknown.
    """
    trained = config.get("trained_betas")
    if trained is not None:
        return torch.as_tensor(trained, dtype=torch.float64)
    schedule = config.get("beta_schedule", "linear")
    if schedule not in SCHEDULES:
        raise UnknownName("beta_schedule", schedule, sorted(SCHEDULES))
    ends = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    return SCHEDULES[schedule](config.get("num_train_timesteps", 1000), *ends)


def scheduler_json(model: NetDenoiser) -> dict[str, Any]:
    """Return the `scheduler_config.json` that diffusers samples a model with.

    Raises:
        InputError: diffusers cannot express its process, label, variance, or what it predicts.
    """
    # a shorter chain through the trained one is a choice of sampling
    first = torch.ones(1, dtype=torch.long, device=model.process.device)
    process = model.process.trained_at(first)[0]
    output = next(name for name, kind in PARAMETRIZATIONS.items() if kind is type(model.parametrization))
    predicts = {ours: theirs for theirs, ours in PREDICTS.items()}.get(output)
    if type(process) is VE and (model.time_input, output) == ("sigma", "score"):
        return {
            "_class_name": VE_SCHEDULER,
            "num_train_timesteps": process.num_scales,
            "snr": 0.15,
            "sigma_min": process.sigma_min,
            "sigma_max": process.sigma_max,
            "sampling_eps": 1e-5,
            "correct_steps": 1,
        }
    labels = ("step", "step1000") if process.num_steps == 1000 else ("step",)
    if not isinstance(process, DiscreteProcess) or model.time_input not in labels or predicts is None:
        got = f"{type(process).__name__}, {model.time_input!r}, {output}"
        raise InputError(
            f"diffusers needs a DDPM chain conditioned on the step, of eps, x0 or v, or a VE score; got {got}"
        )
    return {
        "_class_name": "DDPMScheduler",
        **_schedule(process.betas[1:]),
        "variance_type": {"small": "fixed_small", "large": "fixed_large"}.get(model.variance, model.variance),
        "clip_sample": True,
        "prediction_type": predicts,
        "thresholding": False,
        "dynamic_thresholding_ratio": 0.995,
        "clip_sample_range": 1.0,
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    }


def _schedule(values: Tensor) -> dict[str, Any]:
    """Name the schedule of betas `(T,)` where it has a name, else list them."""
    values = values.cpu()
    # ends to twelve digits: roots and their squares round
    ends = tuple(float(f"{float(value):.12g}") for value in (values[0], values[-1]))
    config = {"num_train_timesteps": len(values), "trained_betas": None}
    for name, build in SCHEDULES.items():
        if name == "sigmoid":
            continue  # its ends are not betas; listed instead
        start, end = (1e-4, 0.02) if name == "squaredcos_cap_v2" else ends
        if torch.allclose(build(len(values), start, end), values, rtol=1e-10, atol=0):
            return config | {"beta_start": start, "beta_end": end, "beta_schedule": name}
    listed = {"beta_start": ends[0], "beta_end": ends[1], "beta_schedule": "linear"}
    return config | listed | {"trained_betas": values.tolist()}
