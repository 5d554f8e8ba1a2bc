"""NaN and infinity are never written: checks of what a model generates and of results."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pcdiff.errors import InputError


def check_finite(made: Tensor, what: str) -> Tensor:
    """Return what a model made `(n, *dims)` as it is, or refuse it.

    Args:
        made: one row each.
        what: the rows in words, for the message: "images".

    Raises:
        InputError: numbers are NaN or infinite; the message has the number of rows.
    """
    whole = made.isfinite().flatten(1).all(dim=1) if made.dim() > 1 else made.isfinite()
    if not whole.all():
        raise InputError(
            f"the model gave NaN or infinite numbers in {int((~whole).sum())} of {len(made)} {what}; nothing is "
            "written. Try more steps, another sampler, or another checkpoint"
        )
    return made


def not_finite(content: Any, name: str = "") -> str | None:
    """Return the name of the first number in nested plain values that is NaN or infinite, such as `scores/fid`."""
    if isinstance(content, float) and not math.isfinite(content):
        return name
    parts: Sequence[tuple[Any, Any]] = ()
    if isinstance(content, Mapping):
        parts = tuple(content.items())
    elif isinstance(content, list | tuple):
        parts = tuple(enumerate(content))
    for key, value in parts:
        if (found := not_finite(value, f"{name}/{key}" if name else str(key))) is not None:
            return found
    return None
