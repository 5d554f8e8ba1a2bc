"""Ranges of a config's fields, checked in one line each."""

from collections.abc import Callable
from typing import Any

from pcdiff.errors import InputError


def check_ranges(fields: dict[str, Any], ranges: dict[str, tuple[str, Callable[[float], bool]]]) -> None:
    """Refuse values out of range.

    Args:
        fields: values by name, numbers or tuples of them; None is left alone.
        ranges: what is expected, in words: the names it holds for, and whether a value fits.

    Raises:
        InputError: names the first field that does not fit, what was expected and what came.
    """
    for expected, (names, fits) in ranges.items():
        for name in names.split():
            values = fields[name] if isinstance(fields[name], tuple) else (fields[name],)
            for value in values:
                if value is not None and not fits(value):
                    raise InputError(f"{name} must be {expected}, got {value}")
