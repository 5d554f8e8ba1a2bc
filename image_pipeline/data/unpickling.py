"""Open a pickle of arrays and plain containers without letting it run code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pcdiff.errors import InputError
from pcdiff.interop.pickles import check_memo


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for `codecs.encode`: how Python 3 writes bytes in the old protocols."""
    if encoding != "latin1":  # other codecs decompress, which could fill the memory
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return text.encode("latin1")


def _frombuffer(buffer: bytes | bytearray, dtype: np.dtype, shape: tuple, order: Literal["C", "F"]) -> np.ndarray:
    """Stand in for numpy's own, of protocol 5, whose array shares memory that the rest of the pickle may change."""
    if not isinstance(buffer, bytes | bytearray) or not isinstance(dtype, np.dtype):
        raise pickle.UnpicklingError("an array of something else than bytes")
    return np.frombuffer(bytes(buffer), dtype).reshape(shape, order=order).copy()


# All that the pickle of an array names, in the modules of numpy 1 and 2. `_reconstruct` makes an empty array, whose
# `__setstate__` checks the bytes it is given.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise InputError(f"refused to open: it asks for {module}.{name}, which could run code")
        return _ALLOWED[module, name]


def load_arrays(path: Path) -> Any:
    """Load numbers, strings, bytes, lists, dicts and numpy arrays; refuse everything else.

    Strings that Python 2 wrote (the keys of CIFAR's batches) come as `bytes`.

    Raises:
        InputError: it is truncated, damaged, no pickle, or asks for anything that could run code.
    """
    try:
        file = io.BytesIO(path.read_bytes())
        check_memo(file)
        return _Unpickler(file, encoding="bytes").load()
    except InputError as error:
        raise error.within(path) from None
    except Exception as error:  # from damaged bytes the unpickler raises anything: IndexError, MemoryError, ...
        raise InputError(
            f"{path}: truncated, damaged or no pickle ({type(error).__name__}); fetch it again"
        ) from None
