"""What the configs of UNets check of themselves."""

from dataclasses import fields
from typing import Any

from pcdiff.errors import InputError, short


def lists_to_tuples(config: Any) -> None:
    """Turn the lists of a frozen config, as JSON has them, into tuples."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list):
            object.__setattr__(config, field.name, tuple(value))


def check_positive_integers(config: Any, names: str, optional: str = "") -> None:
    """Refuse fields that are no positive integers.

    Args:
        config: what has them.
        names: of the fields, apart by spaces.
        optional: of fields that may be None too.

    Raises:
        InputError: names the first that is none.
    """
    for name in (*names.split(), *optional.split()):
        value = getattr(config, name)
        if value is None and name in optional.split():
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} must be a positive integer, got {short(value)}")


def check_factors(config: Any, names: str, levels: int) -> None:
    """Refuse downsample factors that no level has.

    Args:
        config: what has the fields, tuples of integers or None.
        names: of the fields, apart by spaces.
        levels: of the net; level k is downsampled by 2^k.

    Raises:
        InputError: names the field, the known factors and the unknown ones.
    """
    factors = {2**level for level in range(levels)}
    for name in names.split():
        unknown = sorted(set(getattr(config, name) or ()) - factors)
        if unknown:
            raise InputError(f"{name} must be among {sorted(factors)} with {levels} levels, got {short(unknown)}")
