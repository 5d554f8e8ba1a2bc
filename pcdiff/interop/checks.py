"""What every cloud must be, whatever file it came from, and the messages about bad files."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np

from pcdiff.errors import InputError

_MOST_LISTED = 8


def check_form(shape: Sequence[int], dtype: np.dtype, name: str) -> None:
    """Check what can be checked before any coordinate is read: `(n, P, 3)` or `(P, 3)`, floats, not empty.

    Raises:
        InputError: anything else.
    """
    if len(shape) not in (2, 3) or shape[-1] != 3:
        expected = "expected clouds (n, P, 3) or one cloud (P, 3)"
        raise InputError(f"{name}: {expected}, got shape {tuple(shape)}{_hint(shape)}")
    if dtype.kind != "f":
        raise InputError(f"{name}: expected float coordinates, got dtype {dtype}")
    if 0 in shape:
        raise InputError(f"{name}: holds no point, shape {tuple(shape)}")


def _hint(shape: Sequence[int]) -> str:
    if len(shape) in (2, 3) and shape[-1] > 3:
        return "; swap the last two axes" if shape[-2] == 3 else "; keep the columns x, y, z only"
    return ""


def checked_clouds(stored: np.ndarray | list[np.ndarray], name: str) -> tuple[list[np.ndarray], list[str]]:
    """Return the clouds of an array `(n, P, 3)` or `(P, 3)`, or of a list of `(P_i, 3)`, with a name each.

    Returns:
        C-contiguous arrays `(P_i, 3)`, float64 where the stored ones are, else float32; and `name[i]`, or `name`
        alone for one `(P, 3)`.

    Raises:
        InputError: a shape or dtype does not fit, nothing is there, or a coordinate is NaN, infinite or beyond
            float32.
    """
    if isinstance(stored, list):
        names = [f"{name}[{i}]" for i in range(len(stored))]
        if not stored:
            raise InputError(f"{name}: holds no cloud")
        for array, each in zip(stored, names, strict=True):
            check_form(array.shape, array.dtype, each)
            if array.ndim != 2:
                raise InputError(f"{each}: expected one cloud (P, 3) a list entry, got shape {array.shape}")
        clouds = [_floats(array) for array in stored]
    else:
        check_form(stored.shape, stored.dtype, name)
        names = [name] if stored.ndim == 2 else [f"{name}[{i}]" for i in range(len(stored))]
        clouds = list(_floats(stored if stored.ndim == 3 else stored[None]))
    for cloud, each in zip(clouds, names, strict=True):
        _check_finite(cloud, each)
    return clouds, names


def _floats(array: np.ndarray) -> np.ndarray:
    """Return a copy that keeps double precision: clouds far from the origin are centered before they lose it."""
    precision = np.float64 if array.dtype.itemsize > 4 else np.float32
    return np.array(array, dtype=precision, order="C")


def _check_finite(cloud: np.ndarray, name: str) -> None:
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, and is reported as such
        bad = np.flatnonzero(~np.isfinite(cloud.astype(np.float32, copy=False)).all(axis=1))
    if bad.size:
        raise InputError(
            f"{name}: NaN or inf in {bad.size} of {len(cloud)} points, first in point {bad[0]}; "
            "repair or remove them"
        )


def check_count(name: str, value: Any) -> None:
    """Raise `InputError` unless `value` is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} must be a positive integer, got {value!r}")


def listed(names: Iterable[object]) -> str:
    """Return names for a one-line message: at most eight, and how many more there are."""
    names = [str(name) if str(name).isprintable() else ascii(name) for name in names]
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return (", ".join(names[:_MOST_LISTED]) or "none") + more


class TruncatedError(ValueError):
    """A file ends before what it promises."""


@contextmanager
def unreadable(name: str, what: str) -> Iterator[None]:
    """Tell whatever a parser raises on damaged bytes as one `InputError`: they raise almost anything.

    Raises:
        InputError: the block failed; its own `InputError`s pass as they are.
    """
    try:
        yield
    except InputError:
        raise
    except PermissionError:
        raise InputError(f"{name}: no permission to read it") from None
    except TruncatedError as error:
        raise InputError(f"{name}: truncated {what.partition(' ')[2]} ({error}); fetch it again") from None
    except Exception as error:
        text = f"no {error}" if isinstance(error, KeyError) else str(error)
        reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"{name}: truncated, damaged or not {what} ({reason})") from None
