"""From arguments to a command: presets, resumed runs and the nets' own fields are defaults of flags."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from image_pipeline.configs import ImageRunConfig, preset, read_config
from image_pipeline.configs.classifier import ClassifierRunConfig
from image_pipeline.nets import MODELS
from pcdiff.commands.arguments import fill
from pcdiff.commands.choices import with_choice
from pcdiff.commands.cli import value_of
from pcdiff.config import from_dict
from pcdiff.errors import InputError
from pcdiff.models.change_process import other_process
from pcdiff.runtime.json_files import read_json
from pcdiff.runtime.paths import check_paths, is_file
from pcdiff.runtime.user_modules import files_of, import_parts

COMMANDS: dict[str, type] = {
    "train": ImageRunConfig,
    "train-classifier": ClassifierRunConfig,
    "sample": Sample,
    "evaluate": Evaluate,
    "loss": Loss,
    "likelihood": Likelihood,
    "inpaint": Inpaint,
    "colorize": Colorize,
    "interpolate": Interpolate,
    "sdedit": SDEdit,
    "class-conditional": ClassConditional,
    "inverse": Inverse,
    "configs": Configs,
    "convert": Convert,
    "prepare": Prepare,
    "dump": Dump,
    "noise-scales": NoiseScales,
}


def parse(argv: Sequence[str], prog: str = "python -m image_pipeline") -> Any:
    """Return the command that the arguments ask for, its flags filled in.

    Args:
        argv: a key of `COMMANDS`, then flags.
        prog: how the program is called.

    Raises:
        InputError: an unknown preset or net, `--resume` that names nothing, a damaged stopped evaluation, a path
            that cannot be one, or a file to import that fails.
    """
    name, *rest = argv
    import_parts(files_of(rest))
    starts = {
        "train": _training_default,
        "train-classifier": _classifier_default,
        "evaluate": _evaluation_default,
    }
    start = {"default": starts[name](rest)} if name in starts else {}
    command = fill(COMMANDS[name], rest, f"{prog} {name}", name, **start)
    check_paths(command)
    return command


def _training_default(argv: list[str]) -> ImageRunConfig:
    resume = value_of("--resume", argv)
    if resume is not None:
        return replace(read_config(Path(resume)), resume=Path(resume))
    default = preset(value_of("--preset", argv) or "digits/quick")
    default = other_process(default, value_of("--process.name", argv), value_of("--process.predicts", argv))
    return with_choice(default, argv, "--net", "model", {name: net.Config for name, net in MODELS.items()})


def _classifier_default(argv: list[str]) -> ClassifierRunConfig:
    run, resume = value_of("--run", argv), value_of("--resume", argv)
    if run is None and resume is None:
        return ClassifierRunConfig()
    from image_pipeline.training.classifier_job import classifier_default

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
