"""Configs of parts that are handed over as they are: nets, encoders and priors as objects, classes or names."""

from dataclasses import replace
from typing import Any

from torch import nn

from pcdiff.config import CloudObjectiveConfig, ModelConfig, ProcessConfig
from pcdiff.config.model import PARTS, known, with_part
from pcdiff.errors import InputError
from pcdiff.models.change_process import usual
from pcdiff.runtime.part_config import config_of
from pcdiff.runtime.user_modules import place_of


def with_parts(config: ModelConfig, parts: dict[str, Any]) -> tuple[ModelConfig, dict[str, nn.Module]]:
    """Return a model's config with these parts, and the parts that are built already, by kind.

    Args:
        config: the model's.
        parts: by kind (`net`, `encoder`, `prior`), each a name, a class or an object; None leaves the config's own.

    Raises:
        InputError: a name is unknown, or an object does not keep what it was built from.
    """
    built = {}
    for kind, part in parts.items():
        if part is None:
            continue
        if kind not in PARTS:
            raise InputError(f"parts must be among {list(PARTS)}, got {kind!r}")
        if kind not in config.parts:
            raise InputError(f"a {config.kind} model has no {kind}; its parts are {', '.join(config.parts)}")
        if isinstance(part, str):
            config = with_part(config, kind, part, known(kind).resolve(part))
        elif isinstance(part, nn.Module):
            config = with_part(config, kind, _name(kind, type(part)), type(part), **vars(config_of(part)))
            built[kind] = part
        elif isinstance(part, type):
            config = with_part(config, kind, _name(kind, part), part)
        else:
            raise InputError(f"{kind} must be a name, a class or a module, got a {type(part).__name__}")
    return config, built


def _name(kind: str, cls: type) -> str:
    """Return the name by which a checkpoint finds a class again: a registered one, or its place."""
    return known(kind).name_of(cls) or place_of(cls) or f"{cls.__module__}:{cls.__qualname__}"


def usual_settings(
    process: ProcessConfig | str | None, objective: CloudObjectiveConfig | None
) -> tuple[ProcessConfig | None, CloudObjectiveConfig | None]:
    """Return process and objective, of a process's name as its paper has them.

    Raises:
        InputError: the name is unknown.
    """
    if not isinstance(process, str):
        return process, objective
    usual_process, trained = usual(process)
    return usual_process, replace(CloudObjectiveConfig(), **trained) if objective is None else objective
