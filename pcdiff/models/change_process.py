"""A preset whose process, or what its net predicts, is another: what belongs to the old one goes."""

from dataclasses import replace
from typing import Any, TypeVar

import torch

from pcdiff.config import ProcessConfig, SamplingConfig
from pcdiff.config.run import PAPER_PROCESS
from pcdiff.diffusion import PROCESSES, TIME_INPUTS, build_process, parametrization
from pcdiff.errors import InputError
from pcdiff.models.default_sampling import sampler_of

Config = TypeVar("Config", bound=Any)  # a run's, of clouds or images: process, objective and sampling are read


def other_process(config: Config, name: str | None, predicts: str | None) -> Config:
    """Return the config with another process, or another prediction of the net, and of the rest what still fits.

    Another process starts from its own defaults, as another net does. What the net predicts, its time
    input and how images are drawn stay where they fit the process, and are the defaults where they do not. The
    standard deviation of the data stays where something asks for it.

    Args:
        config: a preset, of clouds or images.
        name: of the process; None, or the preset's own, changes nothing. One that is unknown is left to be refused.
        predicts: what the net predicts, likewise.
    """
    if name not in (None, config.process.name):
        config = _with_process(config, name)
    if predicts is not None:
        config = replace(config, process=replace(config.process, predicts=predicts))
    if config.process.predicts != "edm" and "edm" not in config.objective.objectives:
        config = replace(config, process=replace(config.process, sigma_data=None))
    return config


def _with_process(config: Config, name: str) -> Config:
    was = config.process
    new = ProcessConfig(name=name, predicts=was.predicts, time_input=was.time_input, sigma_data=was.sigma_data)
    config = replace(config, process=new)
    if name not in PROCESSES:
        return config
    try:
        process = build_process(name)
    except InputError:  # one that cannot do without options: the flags give them
        return config
    if not TIME_INPUTS[was.time_input].fits(process):
        new = replace(new, time_input=ProcessConfig.time_input)
    predicted, start = parametrization(was.predicts), torch.tensor([process.last_time()], dtype=torch.float64)
    if not predicted.fits(process):
        new = replace(new, predicts=ProcessConfig.predicts)
    elif predicted.needs_signal and float(process.alpha(start)) == 0:
        new = replace(new, predicts="velocity")
    try:
        sampler_of(config.sampling).check(process)
    except InputError:
        config = replace(config, sampling=SamplingConfig(guidance=config.sampling.guidance))
    return replace(config, process=new)


def adapted(config: Config, name: str | None, predicts: str | None) -> Config:
    """Return a preset of clouds with another process, trained and sampled in that process's usual way.

    As `other_process`, and beside it: EDM's process and rectified flow are trained as their papers do (Karras et
    al., 2022, table 1; Lipman et al., 2023, eq. 9).

    Args:
        config: a preset.
        name: of the process, or None.
        predicts: what the net predicts, or None.
    """
    name = PROCESSES.canonical(name) if name in PROCESSES else name  # one that is unknown is left to be refused
    was = config.process.name
    config = other_process(config, name, predicts)
    if name is None or name == was:
        return config
    if predicts is None and name in _USUAL:
        config = replace(config, process=replace(config.process, **_USUAL[name]))
    if name in _TRAINED:
        config = replace(config, objective=replace(config.objective, **_TRAINED[name]))
    return replace(config, flexibility=0.0)


# Clouds in the unit shape_unit have a standard deviation of one
_USUAL: dict[str, dict[str, Any]] = {
    "edm": {"predicts": "edm", "time_input": "edm", "sigma_data": 1.0},
    "ve": {"predicts": "edm", "time_input": "edm", "sigma_data": 1.0},
    "rectified_flow": {"predicts": "velocity"},
}
_TRAINED: dict[str, dict[str, Any]] = {
    "edm": {"objectives": ("regression",), "time_draw": "log_normal", "stratified_times": False},
    "rectified_flow": {"objectives": ("flow",)},
}


def usual(name: str) -> tuple[ProcessConfig, dict[str, Any]]:
    """Return a process's config as its paper has it, with fields of the objective that go with it.

    Raises:
        InputError: the process is unknown.
    """
    name = PROCESSES.canonical(name)
    if name == "ddpm":
        return PAPER_PROCESS, {}
    return ProcessConfig(name=name, **_USUAL.get(name, {})), _TRAINED.get(name, {})
