"""Parts by name that are built from a config of their own: nets, encoders, priors; also from outside the package.

A part is a class. It is registered under a name, or it is anybody's: `FILE.py:CLASS` or `package.module:CLASS`. Its
config is a frozen dataclass: its attribute `Config`, or one made from its constructor's keyword arguments. The
constructor takes the config itself where it has a parameter `config`, and the config's fields as keyword arguments
otherwise; what the rest of a model determines (sizes of points, latent and condition) comes as further keyword
arguments, where the constructor has parameters of these names.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from pcdiff.errors import InputError, UnknownName
from pcdiff.runtime.user_modules import FLAG, imported, is_place

_KINDS = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
_MADE: dict[type, type] = {}


def find(kind: str, known: Mapping[str, type], name: str) -> type:
    """Return the class of a name; no module is imported for it.

    Args:
        kind: what it is, for messages.
        known: the registered ones.
        name: a key of `known`, or `FILE.py:CLASS` or `package.module:CLASS` of a module that has been imported. The
            file may have moved.

    Raises:
        InputError: the name is unknown, or its module has not been imported; the message shows how to.
    """
    if name in known:
        return known[name]
    if not is_place(name):
        raise UnknownName(kind, name, sorted(known), ", or FILE.py:CLASS")
    found = imported(name)
    if found is None:
        place, _, cls = name.rpartition(":")
        how = f"give {FLAG} {place}" if place.endswith(".py") else f"import {cls} of {place} first"
        raise InputError(f"{kind} {name}: its code is not part of pcdiff, and is not run unasked; {how}")
    return found


def config_class(cls: type) -> type:
    """Return the dataclass that a part is built from: its `Config`, or one of its constructor's keyword arguments.

    Raises:
        InputError: an argument without a default has no annotation or default, so no flag can set it.
    """
    own = getattr(cls, "Config", None)
    if isinstance(own, type) and dataclasses.is_dataclass(own):
        return own
    if cls not in _MADE:
        fields = []
        for name, parameter in _parameters(cls).items():
            if name in GIVEN:
                continue
            if parameter.default is inspect.Parameter.empty:
                raise InputError(f"{cls.__name__}: its argument {name!r} has no default; give it one")
            annotated = parameter.annotation
            kind = type(parameter.default) if annotated is inspect.Parameter.empty else annotated
            fields.append((name, kind, dataclasses.field(default=parameter.default)))
        _MADE[cls] = dataclasses.make_dataclass(f"{cls.__name__}Config", fields, frozen=True)
    return _MADE[cls]


GIVEN = ("point_dim", "cond_dim", "latent_dim", "dim", "variational")
"""What a model gives its parts: sizes of a point, of a net's condition (0 is none), of the latent (by either name),
and whether an encoder needs a variance."""


def build_part(cls: type, config: Any, **given: Any) -> Any:
    """Build a part from its config and from what the rest of the model determines.

    Args:
        cls: the class.
        config: of `config_class(cls)`.
        **given: some of `GIVEN`; each goes to a constructor that has a parameter of its name.

    Raises:
        InputError: a value does not fit.
    """
    takes = _parameters(cls)
    given = {name: value for name, value in given.items() if name in takes}
    if "config" in takes:
        return cls(config, **given)
    return cls(**vars(config), **given)


def config_of(part: Any) -> Any:
    """Return the config that a part was built from, read off its attributes.

    Raises:
        InputError: an argument of its constructor is no attribute of the part, so that it cannot be built again.
    """
    made_from = config_class(type(part))
    own = getattr(part, "config", None)
    if isinstance(own, made_from):
        return own
    values = {}
    for field in dataclasses.fields(made_from):
        if not hasattr(part, field.name):
            raise InputError(
                f"{type(part).__name__}: keep its argument {field.name!r} as an attribute, self.{field.name}, so "
                "that a checkpoint can record what to build; or hand over the class and its options"
            )
        values[field.name] = getattr(part, field.name)
    return made_from(**values)


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    found = inspect.signature(cls).parameters
    return {name: p for name, p in found.items() if p.kind in _KINDS}
