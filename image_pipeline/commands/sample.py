"""The command `sample`: draw images, of given classes or not."""

import torch

from image_pipeline.commands.classifier_guidance import guiding
from image_pipeline.commands.flags import Sample
from image_pipeline.commands.trained_model import Trained
from image_pipeline.models.sampling import draw_chunk, generate
from image_pipeline.viz import save_trajectory
from pcdiff.diffusion import (
    Trajectory,
)

_FRAMES = 40  # of a trajectory


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
    save_trajectory(gif, [trained.quantized(state) for state in states[chosen]])
    return f"{line}, {gif}"
