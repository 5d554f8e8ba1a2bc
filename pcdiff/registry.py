"""Choices by name: one look at a name and its options, for every registry of this folder."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from pcdiff.errors import InputError
from pcdiff.runtime.call_checks import check_kinds


def check_options(
    kind: str, known: dict[str, Callable[..., Any]], name: str, options: dict[str, Any], given: Sequence[str] = ()
) -> None:
    """Refuse a name that is not `known`, or options that it does not take.

    Args:
        kind: what is chosen, as the message calls it.
        known: the registry.
        name: a key of it.
        options: keyword arguments for it.
        given: parameters that are no options: the caller gives them later.

    Raises:
        InputError: the name or an option is unknown (the message lists the known ones), or an option is of another
            kind than its annotation says.
    """
    if name not in known:
        raise InputError(f"{kind} must be one of {sorted(known)}, got {name!r}")
    takes = [key for key in inspect.signature(known[name]).parameters if key not in given]
    if unknown := sorted(set(options) - set(takes)):
        raise InputError(f"{kind} {name!r} takes {takes}, got {unknown}")
    check_kinds(known[name], options)


def build(kind: str, known: dict[str, Callable[..., Any]], name: str, options: dict[str, Any]) -> Any:
    """Build one of the `known` by name.

    Raises:
        InputError: the name or an option is unknown (the message lists the known ones), or one is missing.
    """
    check_options(kind, known, name, options)
    parameters = inspect.signature(known[name]).parameters
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in options]
    if missing:
        raise InputError(f"{kind} {name!r} needs {missing}")
    return known[name](**options)
