"""What `inpaint`, `colorize` and `inverse` share: images drawn under a constraint, or guided by measurements."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from image_pipeline.commands.flags import Restoring
from image_pipeline.commands.trained_model import Trained, merged
from image_pipeline.configs import SamplingConfig
from pcdiff.diffusion import (
    ConstrainedCorrector,
    Constraint,
    Denoiser,
    attribute_of,
    corrector,
)
from pcdiff.errors import InputError
from pcdiff.models.default_sampling import predictor_of, sampler_of
from pcdiff.runtime.precision import autocast

_SETTLE_SNR = 0.16


def restored(
    trained: Trained,
    constraint: Constraint | None,
    count: int,
    guide: Callable[[Denoiser], Denoiser] | None = None,
) -> Tensor:
    """Draw images that keep to a constraint, or are guided."""
    command: Restoring = trained.command
    model, settings = trained.model, trained.settings
    own = predictor_of(settings)
    draws = attribute_of(own, "stochastic") or attribute_of(own, "needs_corrector")
    if command.sampling.sampler is None and not draws:
        # in the place of a deterministic one; a chain takes all its steps
        spread = {} if model.denoiser.process.num_steps is not None else {"num_steps": 100}
        settings = merged(SamplingConfig(sampler="ancestral", **spread), command.sampling)
    sampler = sampler_of(settings)
    if command.settle:
        step = sampler.corrector
        if step is not None and command.settle_snr is not None:
            raise InputError(f"--settle-snr is not for the corrector {settings.corrector}; give --snr")
        step = step or corrector("langevin", snr=command.settle_snr or _SETTLE_SNR)
        sampler = replace(sampler, corrector=ConstrainedCorrector(step, constraint, command.settle))
    cond, denoiser = trained.conditioned(command.label, count)
    denoiser = denoiser if guide is None else guide(denoiser)
    with autocast(command.precision, trained.device):
        return sampler(
            denoiser,
            (count, *model.image_shape),
            cond=cond,
            constraint=constraint,
            generator=trained.generator(type(command).__name__),
            **trained.options(),
        )
