"""Which parts a run names, and which of them are not there: those of a file that was imported for its training."""

from collections.abc import Container
from pathlib import Path
from typing import Any

from image_pipeline.nets import MODELS
from pcdiff.diffusion import CORRECTORS, GRIDS, OBJECTIVES, PARAMETRIZATIONS, PREDICTORS, PROCESSES, TIME_INPUTS
from pcdiff.errors import InputError
from pcdiff.runtime.user_modules import FLAG


def check_parts(values: dict[str, Any], source: str) -> None:
    """Refuse a run that was trained with imported parts which are not there now.

    Args:
        values: the run's config, as JSON has it.
        source: where it was read, for the message.

    Raises:
        InputError: names the file to import, and the parts that are missing.
    """
    files = values.get("imports")
    files = files if isinstance(files, list) else []
    # what is no name at all is refused when the config is read
    named = [(kind, name, known) for kind, name, known in _named(values) if isinstance(name, str)]
    missing = [f"{kind} {name!r}" for kind, name, known in named if name not in known]
    if files and missing:
        names = " ".join(str(Path(str(file))) for file in files)
        raise InputError(f"{source}: made with parts of its own ({', '.join(missing)}); give {FLAG} {names}")


def _named(values: dict[str, Any]) -> list[tuple[str, Any, Container[str]]]:
    parts = {name: part if isinstance(part := values.get(name), dict) else {} for name in _PARTS}
    process, objective, sampling = (parts[name] for name in _PARTS)
    objectives = objective.get("objectives")
    return [
        ("net", values.get("net"), MODELS),
        ("process", process.get("name"), PROCESSES),
        ("predicts", process.get("predicts"), PARAMETRIZATIONS),
        ("time_input", process.get("time_input"), TIME_INPUTS),
        *(("objective", name, OBJECTIVES) for name in (objectives if isinstance(objectives, list) else [])),
        ("predictor", sampling.get("sampler"), PREDICTORS),
        ("corrector", sampling.get("corrector"), {*CORRECTORS, "none"}),
        ("grid", sampling.get("grid"), GRIDS),
    ]


_PARTS = ("process", "objective", "sampling")
