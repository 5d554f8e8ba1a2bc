"""A preset whose process, or what its net predicts, is another: what belongs to the old one goes."""

from dataclasses import replace

from image_pipeline.configs import ImageRunConfig, ProcessConfig, SamplingConfig
from pcdiff.diffusion import PROCESSES, TIME_INPUTS, build_process, parametrization
from pcdiff.errors import InputError


def other_process(config: ImageRunConfig, name: str | None, predicts: str | None) -> ImageRunConfig:
    """Return the config with another process, or another prediction of the net, and of the rest what still fits.

    Another process starts from its own defaults, as another net does. What the net predicts, its time
    input and how images are drawn stay where they fit the process, and are the defaults where they do not. The
    standard deviation of the data stays where something asks for it.

    Args:
        config: a preset.
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


def _with_process(config: ImageRunConfig, name: str) -> ImageRunConfig:
    import torch

    from image_pipeline.model import sampler_of

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
