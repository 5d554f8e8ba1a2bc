"""From arguments to a command: presets, resumed runs and the nets' own fields are defaults of flags."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from image_pipeline.commands.adapting import other_process
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
)
from image_pipeline.commands.tool_flags import Configs, Convert, Dump, NoiseScales, Prepare
from image_pipeline.configs import ImageRunConfig, preset
from image_pipeline.configs.classifier import ClassifierRunConfig
from image_pipeline.models import MODELS
from image_pipeline.training import resumed
from image_pipeline.training_classifier import classifier_default
from pcdiff.commands.arguments import fill
from pcdiff.commands.cli import value_of
from pcdiff.config import from_dict
from pcdiff.errors import InputError
from pcdiff.runtime.json_files import read_json
from pcdiff.runtime.paths import check_paths, is_file
from pcdiff.runtime.user_modules import files_of, import_parts

_PROG = "python -m image_pipeline"

AnyCommand = (
    Annotated[ImageRunConfig, tyro.conf.subcommand("train")]
    | Annotated[ClassifierRunConfig, tyro.conf.subcommand("train-classifier")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Loss, tyro.conf.subcommand("loss")]
    | Annotated[Likelihood, tyro.conf.subcommand("likelihood")]
    | Annotated[Inpaint, tyro.conf.subcommand("inpaint")]
    | Annotated[Colorize, tyro.conf.subcommand("colorize")]
    | Annotated[Interpolate, tyro.conf.subcommand("interpolate")]
    | Annotated[SDEdit, tyro.conf.subcommand("sdedit")]
    | Annotated[ClassConditional, tyro.conf.subcommand("class-conditional")]
    | Annotated[Inverse, tyro.conf.subcommand("inverse")]
    | Annotated[Configs, tyro.conf.subcommand("configs")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Prepare, tyro.conf.subcommand("prepare")]
    | Annotated[Dump, tyro.conf.subcommand("dump")]
    | Annotated[NoiseScales, tyro.conf.subcommand("noise-scales")]
)


def parse(argv: Sequence[str] | None = None, description: str = "") -> Any:
    """Return the command that the arguments ask for, its flags filled in.

    Raises:
        InputError: an unknown preset or net, `--resume` that names nothing, a damaged stopped evaluation, a path
            that cannot be one, or a file to import that fails.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    import_parts(files_of(argv))
    starts = {
        "train": _training_default,
        "train-classifier": _classifier_default,
        "evaluate": _evaluation_default,
    }
    if argv and argv[0] in starts:
        rest = argv[1:]
        default = starts[argv[0]](rest)
        command = fill(type(default), rest, f"{_PROG} {argv[0]}", default=default)
    else:
        command = fill(AnyCommand, argv, _PROG, description=description)
    check_paths(command)
    return command


def _training_default(argv: list[str]) -> ImageRunConfig:
    resume, net = value_of("--resume", argv), value_of("--net", argv)
    if resume is not None:
        return resumed(Path(resume))
    default = preset(value_of("--preset", argv) or "digits/quick")
    default = other_process(default, value_of("--process.name", argv), value_of("--process.predicts", argv))
    if net in (None, default.net):
        return default
    if net not in MODELS:
        raise InputError(f"--net must be one of {sorted(MODELS)}, got {net!r}")
    return replace(default, net=net, model=MODELS[net].Config())


def _classifier_default(argv: list[str]) -> ClassifierRunConfig:
    run, resume = value_of("--run", argv), value_of("--resume", argv)
    of_run, of_training = (None if place is None else Path(place) for place in (run, resume))
    return classifier_default(of_run, of_training, value_of("--dataset-path", argv))


def _evaluation_default(argv: list[str]) -> Evaluate:
    resume = value_of("--resume", argv)
    if resume is None:
        return Evaluate()
    folder = Path(resume)
    path = folder / "evaluation.json"
    if not is_file(path):
        raise InputError(f"--resume {folder}: no stopped evaluation there; a finished one needs no more")
    return replace(from_dict(Evaluate, read_json(path), str(path)), out=folder)
