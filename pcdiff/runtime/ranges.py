"""Ranges of a config's fields, by the words that messages use for them."""

from collections.abc import Callable, Mapping
from typing import Any

from pcdiff.errors import OutOfRange

MOST_STEPS = 1_000_000
"""Longest chain, or finest discretization, that settings may ask for; published ones have 4,000."""

RANGES: dict[str, Callable[[float], bool]] = {
    "at least 1": lambda v: v >= 1,
    "at least 0": lambda v: v >= 0,
    "above 0": lambda v: v > 0,
    "in (0, 1)": lambda v: 0 < v < 1,
    "in [0, 1)": lambda v: 0 <= v < 1,
    "in (0, 1]": lambda v: 0 < v <= 1,
    "in [0, 1]": lambda v: 0 <= v <= 1,
    "in 0..2^63 - 1": lambda v: 0 <= v < 2**63,
    f"at most {MOST_STEPS:,}": lambda v: v <= MOST_STEPS,
}
"""What a number must be; NaN is in none of them."""


def check_ranges(fields: Mapping[str, Any], ranges: Mapping[str, str], prefix: str = "") -> None:
    """Refuse values out of range.

    Args:
        fields: values by name, numbers or tuples of them; None, and what `ranges` does not name, is left alone.
        ranges: names, separated by blanks, by a key of `RANGES`.
        prefix: what names begin with in messages.

    Raises:
        OutOfRange: names the first field that does not fit, what was expected and what came.
    """
    for expected, names in ranges.items():
        for name in names.split():
            value = fields.get(name)
            for each in value if isinstance(value, tuple) else (value,):
                if each is not None and not RANGES[expected](each):
                    raise OutOfRange(f"{prefix}{name}", expected, each)
