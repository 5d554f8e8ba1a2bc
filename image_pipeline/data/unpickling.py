"""Open a pickle of arrays and plain containers without letting it run code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pcdiff.errors import InputError


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for `codecs.encode`: how Python 3 writes bytes in the old protocols."""
    if encoding != "latin1":  # other codecs decompress, which could fill the memory
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return text.encode("latin1")


# All that the pickle of an array names, in the modules of numpy 1 and 2. `_reconstruct` makes an empty array, whose
# `__setstate__` checks the bytes it is given; `_frombuffer`, of protocol 5, refuses objects.
_RECONSTRUCT, _FROMBUFFER = np.empty(0).__reduce__()[0], np.empty(1).__reduce_ex__(5)[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROMBUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROMBUFFER,
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
        return _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # from damaged bytes the unpickler raises anything: IndexError, MemoryError, ...
        raise InputError(
            f"{path}: truncated, damaged or no pickle ({type(error).__name__}); fetch it again"
        ) from None
