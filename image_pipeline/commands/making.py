"""What the commands that draw new images do."""

from dataclasses import replace

import torch

from image_pipeline.commands.classifier_guidance import guiding
from image_pipeline.commands.flags import ClassConditional, Interpolate, Sample, SDEdit
from image_pipeline.commands.trained_model import Trained
from image_pipeline.configs import SamplingConfig
from image_pipeline.model import predictor_of, sampler_of
from image_pipeline.models.sampling import draw_chunk, generate
from image_pipeline.viz import save_trajectory
from pcdiff import diffusion
from pcdiff.diffusion import (
    Trajectory,
    attribute_of,
    invertible_predictors,
    slerp,
)
from pcdiff.errors import InputError
from pcdiff.runtime.precision import autocast

_FRAMES = 40  # of a trajectory
_NO_WAY_BACK = (
    "eta churn churn_min churn_max churn_noise corrector corrector_steps snr step_size denoise guidance".split()
)


def sample_images(command: Sample, trained: Trained) -> str:
    """Draw images, of given classes or not; maybe with the way there."""
    guide = guiding(command, trained)
    classes = command.classes or (() if guide.denoiser is None else tuple(range(guide.num_classes)))
    labels = None
    if classes:
        guide.check(classes)
        turns = torch.arange(command.num_samples) % len(classes)
        labels = torch.tensor(classes)[turns].to(trained.device)
    options = {
        "size": command.batch_size,
        "settings": trained.settings,
        "precision": command.precision,
        "denoiser": guide.denoiser,
        **trained.options(),
    }
    drawn = generate(trained.model, command.num_samples, command.seed, labels=labels, **options)
    line = trained.write(torch.cat(list(drawn)))
    if not command.trajectory:
        return line
    gif, trajectory = command.output.with_suffix(".gif"), Trajectory()
    count = min(command.num_samples, command.batch_size)
    own = None if labels is None else labels[:count]
    draw_chunk(trained.model, 0, command.seed, count=count, labels=own, callback=trajectory, **options)
    states = trajectory.states
    chosen = torch.linspace(0, len(states) - 1, min(len(states), _FRAMES)).round().long()
    save_trajectory(gif, [trained.quantised(state) for state in states[chosen]])
    return f"{line}, {gif}"


def class_conditional(command: ClassConditional, trained: Trained) -> str:
    """Draw a row of images for each class, by the net's own classes or by a classifier's."""
    model, guide = trained.model, guiding(command, trained)
    if guide.num_classes is None:
        raise InputError(f"{command.run}: this model is told no classes; give --classifier to guide it by one")
    classes = command.classes or tuple(range(guide.num_classes))
    guide.check(classes)
    labels = torch.tensor(classes).repeat_interleave(command.per_class).to(trained.device)
    options = {"settings": trained.settings, "precision": command.precision, **trained.options()}
    drawn = generate(model, len(labels), command.seed, labels=labels, denoiser=guide.denoiser, **options)
    return trained.write(torch.cat(list(drawn)), columns=command.per_class)


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
            raise InputError(f"--sampler must be one of {known} here, got {own.sampler}")
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
    cond, denoiser = trained.told(command.label, len(given))
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
