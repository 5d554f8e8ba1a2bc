"""Read the network pickles of NVlabs/edm and its relatives without running any code in them.

Such a pickle carries the source of its classes, which the project's own unpickler executes. Here nothing is
executed or imported: an object becomes a plain record of its class's name and its state, and only tensors, numbers
and containers are rebuilt.
"""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcdiff.errors import InputError
from pcdiff.interop.pickles import check_memo


@dataclass
class Record:
    """What stood for an object: its class's name and its state; never the object itself."""

    class_name: str = ""
    state: dict[str, Any] = field(default_factory=dict)

    def __setstate__(self, state: Any) -> None:
        """Keep the object's state as the pickle has it."""
        self.state = state if isinstance(state, dict) else {}

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments the object was constructed with."""
        return dict(self.state.get("_init_kwargs") or {})

    def child(self, name: str) -> "Record":
        """Return the module of that name within this one.

        Raises:
            InputError: there is none.
        """
        child = (self.state.get("_modules") or {}).get(name)
        if not isinstance(child, Record):
            raise InputError(f"{self.class_name or 'network'} has no module {name!r}")
        return child

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Return parameters and buffers by name, as a state dict would."""
        found = {}
        for kind in ("_parameters", "_buffers"):
            for name, value in (self.state.get(kind) or {}).items():
                if isinstance(value, Tensor):
                    found[prefix + str(name)] = value
        for name, value in (self.state.get("_modules") or {}).items():
            if isinstance(value, Record):
                found |= value.tensors(f"{prefix}{name}.")
        return found


def read(path: str | Path) -> Any:
    """Read a pickle of tensors, plain values and persistent objects; each object becomes a `Record`.

    Raises:
        InputError: the file is missing or damaged, or asks for anything else, which could run code.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            check_memo(file)
            return _Reader(file).load()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a network pickle (.pkl)") from None
    except InputError as error:
        raise error.within(path) from None
    except Exception as error:  # from damaged bytes the unpickler raises anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: truncated, damaged or no network pickle ({reason})") from None


class _Reader(pickle.Unpickler):
    """An unpickler for which a name is a key of a table of its own, and nothing else is ever looked up."""

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file)
        # made anew for every file: an instruction of the pickle may write attributes to what it was given
        own_record = type("Record", (Record,), {})

        def persistent(meta: dict[str, Any]) -> Record:
            return own_record(str(meta["class_name"]), dict(meta["state"]))

        self._known: dict[str, Callable] = {
            "torch_utils.persistence._reconstruct_persistent_obj": persistent,
            "torch.nn.modules.container.ModuleDict": own_record,
            "torch.nn.modules.container.ModuleList": own_record,
            "torch._utils._rebuild_tensor_v2": lambda *args: _tensor(*args),
            "torch._utils._rebuild_parameter": lambda data, *_: _checked(data, Tensor),
            "torch.storage._load_from_bytes": lambda data: _storage(data),
            "collections.OrderedDict": type("OrderedDict", (dict,), {}),
            "dnnlib.util.EasyDict": type("EasyDict", (dict,), {}),
            "builtins.set": lambda items=(): set(items),
            "numpy.dtype": lambda code, *_: _NumberType(code),
            "numpy.core.multiarray.scalar": lambda kind, data: _number(kind, data),
            "numpy._core.multiarray.scalar": lambda kind, data: _number(kind, data),  # since numpy 2.0
        }

    def find_class(self, module: str, name: str) -> Any:
        """Return our own stand-in for a name, or refuse."""
        known = self._known.get(f"{module}.{name}")
        if known is None:
            raise InputError(f"refused to open: it asks for {module}.{name}, which could run code")
        return known


class _NumberType:
    """The type of a numpy number, such as `f8`."""

    def __init__(self, code: str):
        self.code = _checked(code, str)

    def __setstate__(self, state: Any) -> None:
        """Take note of the byte order, the one thing of it that matters to a number."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.code = f">{self.code}"


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise InputError(f"damaged: expected a {kind.__name__}, got a {type(value).__name__}")
    return value


def _number(kind: _NumberType, data: bytes) -> Any:
    code = np.dtype(_checked(kind, _NumberType).code)
    if code.kind not in "biuf" or len(_checked(data, bytes)) != code.itemsize:
        raise InputError(f"damaged: expected one number of type {code}, got {len(data)} bytes")
    return np.frombuffer(data, code)[0].item()


def _storage(data: bytes) -> Tensor:
    """Return the numbers `(n,)` of a storage that `torch.save` wrote into the pickle."""
    try:
        stored = torch.load(io.BytesIO(_checked(data, bytes)), map_location="cpu", weights_only=True)
    except Exception:  # the bytes are of a pickle again, so anything may be raised
        raise InputError("refused to open: a tensor's numbers are damaged, or could run code") from None
    if not isinstance(stored, torch.storage.TypedStorage):
        raise InputError(f"damaged: expected a tensor's storage, got a {type(stored).__name__}")
    return torch.tensor([], dtype=stored.dtype).set_(stored._untyped_storage)


def _tensor(numbers: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    # `as_strided` refuses what reaches past the storage
    return _checked(numbers, Tensor).as_strided(tuple(size), tuple(stride), offset).clone()
