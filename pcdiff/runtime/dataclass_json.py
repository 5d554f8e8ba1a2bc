"""Configs as JSON and back, and how two of them differ."""

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pcdiff.errors import InputError, UnknownField, WrongType, short

T = TypeVar("T")


def to_json(config: Any) -> str:
    """Return a config dataclass as JSON text."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str) + "\n"


def differences(config: Any, default: Any) -> dict[str, Any]:
    """Return the fields in which a config differs from another of its class, by dotted name.

    Example:
        >>> differences(RunConfig(seed=1, data=DataConfig(rotate=True)), RunConfig())
        {'seed': 1, 'data.rotate': True}
    """
    found: dict[str, Any] = {}
    for name, value in vars(config).items():
        other = getattr(default, name, None)
        if dataclasses.is_dataclass(value):
            found |= {f"{name}.{inner}": each for inner, each in differences(value, other).items()}
        elif value != other:
            found[name] = value
    return found


def from_dict(cls: type[T], values: dict[str, Any], source: str) -> T:
    """Rebuild a config dataclass from its JSON dict, in which fields may have the names of its `FORMER_NAMES`.

    Args:
        cls: the dataclass.
        values: what `to_json` wrote.
        source: where the values come from, for the error.

    Raises:
        UnknownField: a field is unknown.
        WrongType: a field's value is of another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{source}: expected the fields of {cls.__name__}, got {short(values)}")
    former = getattr(cls, "FORMER_NAMES", {})
    values = {former.get(name, name): value for name, value in values.items()}
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        message = f"{source}: unknown fields {unknown} for {cls.__name__}; known: {sorted(fields)}"
        raise UnknownField(message, unknown, sorted(fields))
    kinds = get_type_hints(cls)  # of a module whose annotations are texts too
    rebuilt: dict[str, Any] = {}
    for name, value in values.items():
        kind = kinds[name]
        if dataclasses.is_dataclass(kind):
            rebuilt[name] = from_dict(kind, value, source)
        elif not _fits(value, kind):
            expected = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
            raise WrongType(f"{source}: {name}", expected, value)
        elif kind in (Path, Path | None):
            rebuilt[name] = None if value is None else Path(value)
        elif kind == tuple[Path, ...]:
            rebuilt[name] = tuple(map(Path, value))
        elif isinstance(value, list):
            rebuilt[name] = tuple(value)
        else:
            rebuilt[name] = value
    return cls(**rebuilt)


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a JSON value fits a field of type `kind`."""
    if get_origin(kind) in (types.UnionType, Union):  # the latter where one of them is a Literal
        return any(_fits(value, k) for k in get_args(kind))
    if get_origin(kind) is Literal:
        return any(value == known and type(value) is type(known) for known in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(_fits(v, get_args(kind)[0]) for v in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, str if kind is Path else kind)
