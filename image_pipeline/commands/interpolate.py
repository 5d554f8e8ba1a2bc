"""The command `interpolate`: from one image to another through their latent noises."""

from dataclasses import replace

import torch

from image_pipeline.commands.flags import Interpolate
from image_pipeline.commands.trained_model import Trained
from image_pipeline.configs import SamplingConfig
from pcdiff.diffusion import (
    attribute_of,
    invertible_predictors,
    slerp,
)
from pcdiff.errors import InputError, UnknownName
from pcdiff.models.default_sampling import predictor_of, sampler_of
from pcdiff.runtime.precision import autocast

_NO_WAY_BACK = (
    "eta churn churn_min churn_max churn_noise corrector corrector_steps snr step_size denoise guidance".split()
)


def interpolate(command: Interpolate, trained: Trained) -> str:
    """Invert images to noises, go from one to the other on the sphere, and draw from what lies between."""
    a, b = trained.read(command.a), trained.read(command.b)
    if a.shape != b.shape:
        raise InputError(f"--a and --b must hold as many images, got {len(a)} and {len(b)}")
    own, asked = trained.settings, command.sampling
    for name in _NO_WAY_BACK:
        if getattr(asked, name) is not None:
            raise InputError(f"interpolate goes there and back without it: leave out --{name.replace('_', '-')}")
    # straight there and back again: no guidance, which has no inverse, and nothing drawn
    own = replace(own, **dict.fromkeys(_NO_WAY_BACK))
    if not attribute_of(predictor_of(own), "invertible"):
        if asked.sampler is not None:
            known = ", ".join(invertible_predictors())
            raise UnknownName("--sampler", own.sampler, known, " here")
        own = SamplingConfig(num_steps=asked.num_steps or 100, grid=asked.grid, order=asked.order, sampler="ddim")
    # the image stands in for the last noisy x: the way back ends there too, undenoised
    settings = replace(own, grid=own.grid or "log_snr", denoise=False)
    model, label = trained.model, command.label
    # back by the sampler that it comes by
    way = sampler_of(settings)
    made, evaluations = [], 0
    for x, y in zip(a[:, None], b[:, None], strict=True):
        cond = model.condition(trained.labels(label, 1), 1)
        with autocast(command.precision, trained.device):
            ends = []
            for image in (x, y):
                ends.append(way.invert(model.denoiser, image, cond=cond, report=trained.report))
                evaluations += trained.report.evaluations
            first, last = ends
            start = slerp(first, last, torch.linspace(0, 1, command.steps))[:, 0]
            labels = trained.labels(label, command.steps)
            made.append(model.sample(command.steps, labels, settings, x_init=start, **trained.options()))
            evaluations += trained.report.evaluations
    trained.report.evaluations = evaluations
    return trained.write(torch.cat(made), columns=command.steps)
