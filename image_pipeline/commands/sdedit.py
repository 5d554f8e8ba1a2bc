"""The command `sdedit`: add noise to images and denoise them again (Meng et al., 2022)."""

from dataclasses import replace

from image_pipeline.commands.flags import SDEdit
from image_pipeline.commands.trained_model import Trained
from pcdiff import diffusion
from pcdiff.errors import InputError
from pcdiff.models.default_sampling import sampler_of
from pcdiff.runtime.precision import autocast


def sdedit(command: SDEdit, trained: Trained) -> str:
    """Noise images up to a time of the sampler's own grid and draw from there."""
    given, model = trained.read(command.input), trained.model
    sampler = sampler_of(trained.settings)
    grid = sampler.grid_for(model.denoiser.process)
    if grid == "ends":
        raise InputError("sdedit takes a share of the sampler's steps: take a sampler with a grid, such as heun")
    times = sampler.times(model.denoiser.process)
    steps = len(times) - 1
    # in continuous time the last step to the data itself is no start: hardly any noise would be added
    least = 2 if times[-1] == 0 and model.denoiser.process.num_steps is None else 1
    taken = min(steps, max(least, round(command.strength * steps)))
    cond, denoiser = trained.conditioned(command.label, len(given))
    with autocast(command.precision, trained.device):
        made = diffusion.sdedit(
            denoiser,
            given,
            float(times[steps - taken]),
            cond=cond,
            generator=trained.generator("sdedit"),
            sampler=replace(sampler, num_steps=taken, grid=grid),
            **trained.options(),
        )
    return trained.write(made, pictured=(given, made))
