"""Samplers of settings, and those that a process takes by default."""

from dataclasses import replace
from typing import Any

from pcdiff.config.sampling import SamplingConfig
from pcdiff.diffusion import (
    EDMProcess,
    Predictor,
    Process,
    RectifiedFlow,
    Sampler,
    attribute_of,
    corrector,
    predictor,
)
from pcdiff.errors import InputError

_CORRECTOR_OPTIONS = {"corrector_steps": "num_steps", "snr": "snr", "step_size": "step_size"}
_SAMPLER_OPTIONS = {
    "order": "order",
    "eta": "eta",
    "churn": "churn",
    "churn_min": "churn_min",
    "churn_max": "churn_max",
    "churn_noise": "noise_scale",
    "rtol": "rtol",
    "atol": "atol",
    "flow": "flow",
    "variable": "variable",
}


def default_sampling(process: Process, settings: SamplingConfig) -> SamplingConfig:
    """Return the settings with a sampler for the process where they name none.

    A chain takes the ancestral sampler over all its steps, EDM's process Heun's method with 18 steps (Karras et
    al., 2022, section 3), rectified flow Heun's method in its own time with 20, any other DPM-Solver++ with 20.
    """
    if settings.sampler is not None:
        return settings
    if process.num_steps is not None:
        return replace(settings, sampler="ancestral")
    if isinstance(process, EDMProcess):
        return replace(settings, sampler="heun", num_steps=settings.num_steps or 18)
    if isinstance(process, RectifiedFlow):
        variable = settings.variable or "t"
        return replace(settings, sampler="heun", num_steps=settings.num_steps or 20, variable=variable)
    return replace(settings, sampler="dpmpp", num_steps=settings.num_steps or 20)


def sampler_of(settings: SamplingConfig) -> Sampler:
    """Return the sampler of these settings.

    Raises:
        InputError: an unknown name, or an option that the sampler or the corrector does not take.
    """
    name = settings.corrector
    given = _given(settings, _CORRECTOR_OPTIONS)
    if name in (None, "none") and given:
        raise InputError(f"{', '.join(given)} goes with a corrector, got none")
    extras = [f for f in ("churn_min", "churn_max", "churn_noise") if getattr(settings, f) is not None]
    if extras and not settings.churn:
        raise InputError(f"{', '.join(extras)} goes with churn, got {settings.churn}; give --churn")
    if settings.sampler == "none" and name in (None, "none"):
        raise InputError("sampler none leaves the samples to a corrector, got none; give --corrector")
    step = predictor_of(settings)
    grid = settings.grid or attribute_of(step, "grid")
    if grid == "ends" and settings.num_steps is not None:
        raise InputError("--num-steps does nothing where the sampler chooses its own steps, as ode does; take None")
    step_within = None if name in (None, "none") else corrector(name, **given)
    return Sampler(step, step_within, settings.num_steps, settings.grid, settings.denoise)


def predictor_of(settings: SamplingConfig) -> Predictor:
    """Return the predictor of these settings, the ancestral one by default.

    Raises:
        InputError: an unknown name, or an option that the predictor does not take.
    """
    return predictor(settings.sampler or "ancestral", **_given(settings, _SAMPLER_OPTIONS))


def _given(settings: SamplingConfig, options: dict[str, str]) -> dict[str, Any]:
    values = {theirs: getattr(settings, ours) for ours, theirs in options.items()}
    return {name: value for name, value in values.items() if value is not None}
