"""Open what `torch.save` wrote without running any code in it."""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcdiff.errors import InputError


def load_without_code(path: Path, *allowed: type | tuple[Callable, str]) -> Any:
    """Load a file of tensors and plain containers onto the CPU; refuse everything that could run code.

    Args:
        path: a file written by `torch.save`.
        allowed: further harmless classes that it may hold, or replacements by name:
            `(callable, "module.name")`.

    Raises:
        InputError: it is truncated, damaged, no torch file, or asks for anything else.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # from damaged bytes the unpickler raises anything: IndexError, struct.error, ...
        raise InputError(f"{path}: {_why_unreadable(error)}") from None


def check_named_tensors(value: Any, what: str) -> None:
    """Refuse what is no state dict.

    Args:
        value: what a file held.
        what: how messages call it.

    Raises:
        InputError: it is no dict of tensors by name.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{what} must be a dict of tensors by name, got a {type(value).__name__}")
    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            kinds = f"{type(key).__name__}: {type(tensor).__name__}"
            raise InputError(f"{what} must be a dict of tensors by name, got an entry {kinds}")


def put_weights(net: torch.nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load a net's state dict strictly.

    Raises:
        InputError: keys are left over or missing, or a shape does not fit.
    """
    own = net.state_dict()
    left_over, missing = sorted(set(weights) - set(own)), sorted(set(own) - set(weights))
    if left_over or missing:
        raise InputError(f"does not fit {what}; left over: {left_over}, missing: {missing}")
    for name, value in weights.items():
        if value.shape != own[name].shape:
            raise InputError(f"does not fit {what}: {name} is {tuple(value.shape)}, not {tuple(own[name].shape)}")
    net.load_state_dict(weights)


def _why_unreadable(error: Exception) -> str:
    text = str(error)
    code = re.search(r"GLOBAL ([\w.]+)|Trying to call reduce|Can only create new object|Can only build", text)
    if isinstance(error, pickle.UnpicklingError) and code:
        what = f"it asks for {code[1]}" if code[1] else "it holds more than tensors"
        return f"refused to open: {what}, which could run code (or the file is damaged)"
    # Only torch's first sentence: the next ones advise to open the file unsafely.
    first = re.split(r"\. |[\r\n]", text)[0]
    reason = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return f"truncated, damaged or not a torch file ({reason}); fetch it again"
