"""Which function does what a command asks."""

from collections.abc import Callable
from typing import Any

from image_pipeline.commands.class_conditional import class_conditional
from image_pipeline.commands.colorize import colorize
from image_pipeline.commands.configs import configs
from image_pipeline.commands.convert import convert
from image_pipeline.commands.dump import dump
from image_pipeline.commands.evaluate import evaluate
from image_pipeline.commands.flags import (
    ClassConditional,
    Colorize,
    Evaluate,
    Inpaint,
    Interpolate,
    Inverse,
    Likelihood,
    Loss,
    Sample,
    SDEdit,
    check,
)
from image_pipeline.commands.inpaint import inpaint
from image_pipeline.commands.interpolate import interpolate
from image_pipeline.commands.inverse import inverse
from image_pipeline.commands.likelihood import likelihood
from image_pipeline.commands.loss import loss
from image_pipeline.commands.noise_scales import noise_scales
from image_pipeline.commands.prepare import prepare
from image_pipeline.commands.sample import sample_images
from image_pipeline.commands.sdedit import sdedit
from image_pipeline.commands.tool_flags import Configs, Convert, Dump, NoiseScales, Prepare
from image_pipeline.commands.trained_model import Trained
from image_pipeline.configs import ImageRunConfig
from image_pipeline.configs.classifier import ClassifierRunConfig
from image_pipeline.training.classifier_job import train_classifier
from image_pipeline.training.job import train
from pcdiff.errors import escaped
from pcdiff.runtime.file_lock import sole_writer
from pcdiff.runtime.progress import bar

_WITH_MODEL: dict[type, Callable[[Any, Trained], str]] = {
    Sample: sample_images,
    ClassConditional: class_conditional,
    Inpaint: inpaint,
    Colorize: colorize,
    Inverse: inverse,
    Interpolate: interpolate,
    SDEdit: sdedit,
    Likelihood: likelihood,
}
_WITHOUT_MODEL: dict[type, Callable[[Any], str]] = {
    Configs: configs,
    Convert: convert,
    Prepare: prepare,
    Dump: dump,
    NoiseScales: noise_scales,
}


def perform(command: Any) -> None:
    """Carry out a command and log one line.

    Raises:
        InputError: a flag, a file or the run does not fit.
    """
    if isinstance(command, ImageRunConfig):
        train(command)
        return
    if isinstance(command, ClassifierRunConfig):
        train_classifier(command)
        return
    check(command)
    if isinstance(command, Evaluate):
        evaluate(command)
        return
    if isinstance(command, Loss):
        loss(command)
        return
    with sole_writer(getattr(command, "output", None)):
        if type(command) in _WITHOUT_MODEL:
            done = _WITHOUT_MODEL[type(command)](command)
        else:
            with bar(type(command).__name__.lower(), "step") as progress:
                done = _WITH_MODEL[type(command)](command, Trained.open(command, progress))
    print(escaped(done))
