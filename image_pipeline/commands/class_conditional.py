"""The command `class-conditional`: a row of images for each class."""

import torch

from image_pipeline.commands.classifier_guidance import guiding
from image_pipeline.commands.flags import ClassConditional
from image_pipeline.commands.trained_model import Trained
from image_pipeline.models.sampling import generate
from pcdiff.errors import InputError


def class_conditional(command: ClassConditional, trained: Trained) -> str:
    """Draw a row of images for each class, by the net's own classes or by a classifier's."""
    model, guide = trained.model, guiding(command, trained)
    if guide.num_classes is None:
        raise InputError(f"{command.run}: this model is not conditioned on classes; give --classifier to guide it")
    classes = command.classes or tuple(range(guide.num_classes))
    guide.check(classes)
    labels = torch.tensor(classes).repeat_interleave(command.per_class).to(trained.device)
    options = {"settings": trained.settings, "precision": command.precision, **trained.options()}
    drawn = generate(model, len(labels), command.seed, labels=labels, denoiser=guide.denoiser, **options)
    return trained.write(torch.cat(list(drawn)), columns=command.per_class)
