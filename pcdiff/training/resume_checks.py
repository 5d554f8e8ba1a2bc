"""What a checkpoint must have for a run to resume from it: kinds and ranges of all that is read."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pcdiff.errors import InputError, short

_ADAM = {"step", "exp_avg", "exp_avg_sq"}
_STATE = re.compile(r"optimizer\.(\d{1,9})\.(\w+)")
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


@dataclass(frozen=True)
class Progress:
    """How far a training had come.

    Attributes:
        step: optimizer steps made.
        best: scores of the best validation and its `step`; None before the first.
        stale: validations since.
        validated: the step of the last validation.
        scaler: the state of the loss's scale; empty without one.
        dataset: the identity of what was trained on, with its `fingerprint`; None where it has none.
    """

    step: int
    best: dict[str, float] | None
    stale: int
    validated: int
    scaler: dict[str, float]
    dataset: dict[str, Any] | None


def progress_of(metadata: Mapping[str, Any], path: Path) -> Progress:
    """Return the training's state in a checkpoint's metadata.

    Raises:
        InputError: something is missing or of another kind; it is named.
    """
    dataset, best = metadata.get("dataset"), metadata.get("best")
    scaler = metadata.get("scaler") or {}
    found = Progress(
        step=_count(metadata, "step", path),
        best=best,
        stale=_count({"stale": 0, **metadata}, "stale", path),
        validated=_count({"validated": metadata.get("step"), **metadata}, "validated", path),
        scaler=scaler,
        dataset=dataset,
    )
    if best is not None and not (_is_scores(best) and "score" in best and type(best.get("step")) is int):
        raise _wrong(path, "best", "scores by name with their step, or null", best)
    if not isinstance(dataset, Mapping | None) or not isinstance((dataset or {}).get("fingerprint", ""), str):
        raise _wrong(path, "dataset", "a data set's identity", dataset)
    if metadata.get("scaler") not in (None, {}):
        good = _is_scores(scaler) and set(scaler) == _SCALER and all(map(math.isfinite, scaler.values()))
        if not good or scaler["scale"] <= 0:
            raise _wrong(path, "scaler", f"numbers for {sorted(_SCALER)}", metadata["scaler"])
    return found


def optimizer_state(
    tensors: Mapping[str, Tensor], parameters: Sequence[Tensor], path: Path
) -> dict[int, dict[str, Tensor]]:
    """Return the optimizer's state by the parameters' indices, from a checkpoint's tensors.

    Raises:
        InputError: a tensor is of no parameter, or of another shape than it.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if not name.startswith("optimizer."):
            continue
        match = _STATE.fullmatch(name)
        if match is None or int(match[1]) >= len(parameters):
            raise InputError(f"{path}: {name} belongs to none of the model's {len(parameters)} parameters")
        expected = parameters[int(match[1])].shape
        if tensor.dim() and tensor.shape != expected:
            raise InputError(f"{path}: {name} must be {tuple(expected)}, got {short(tuple(tensor.shape))}")
        state.setdefault(int(match[1]), {})[match[2]] = tensor
    return state


def check_adam(state: Mapping[int, Mapping[str, Tensor]], path: Path) -> None:
    """Refuse a state that Adam cannot continue from.

    Raises:
        InputError: something of a parameter's state is missing, or is not Adam's.
    """
    for index, kept in state.items():
        if set(kept) != _ADAM:
            raise InputError(
                f"{path}: damaged: the optimizer must keep {', '.join(sorted(_ADAM))} of parameter {index}, got "
                f"{', '.join(sorted(kept))}; use another checkpoint"
            )


def _count(metadata: Mapping[str, Any], name: str, path: Path) -> int:
    value = metadata.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        raise _wrong(path, name, "a count", value)
    return value


def _is_scores(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return all(isinstance(number, int | float) and not isinstance(number, bool) for number in value.values())


def _wrong(path: Path, name: str, expected: str, value: Any) -> InputError:
    return InputError(f"{path}: damaged: {name} must be {expected}, got {short(value)}; use another checkpoint")
