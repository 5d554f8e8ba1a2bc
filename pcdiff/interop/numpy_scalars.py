"""Read numpy's numbers from pickled files without numpy's own pickling, which could do more than make a number."""

import re
from typing import Any

import numpy as np


class ScalarType:
    """Replacement of a pickled `numpy.dtype`: a plain number's type, nothing else.

    Args:
        code: numpy's own, such as `f8`.
        align: not asked.
        copy: not asked.

    Raises:
        ValueError: it is not a plain number's.
    """

    def __init__(self, code: str, align: Any = None, copy: Any = None):
        if not isinstance(code, str) or not re.fullmatch(r"f[248]|[iu][1248]|b1", code):
            raise ValueError(f"numpy type {code!r} is not a plain number's")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Take the byte order, the only part of the state that a number has."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {order!r} of a numpy type is none")
        self.dtype = self.dtype.newbyteorder(order)


def read_scalar(kind: ScalarType, data: bytes) -> float | int | bool:
    """Return the Python number of a pickled numpy scalar.

    Raises:
        ValueError: it is not one plain number.
    """
    if not isinstance(kind, ScalarType) or not isinstance(data, bytes) or len(data) != kind.dtype.itemsize:
        raise ValueError("a numpy scalar in the file is not one plain number")
    return np.frombuffer(data, kind.dtype)[0].item()


NUMPY_SCALARS = (
    (ScalarType, "numpy.dtype"),
    (read_scalar, "numpy._core.multiarray.scalar"),
    (read_scalar, "numpy.core.multiarray.scalar"),  # its place before numpy 2
)
"""For `load_without_code`: the names under which numpy pickles a number, and what reads it here."""
