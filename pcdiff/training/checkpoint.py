"""Checkpoints: one safetensors file each, written atomically, read without running code.

The tensors' names: `model.*` the weights, `ema.*` their moving average, `optimizer.*` the
optimizer's state. The file's metadata carries JSON: the resolved config, the step, the data set's identity.
"""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pcdiff.config import check, run_from_dict
from pcdiff.errors import InputError, short
from pcdiff.interop import checkpoints as foreign
from pcdiff.models import PointCloudModel, build_model
from pcdiff.runtime.atomic_write import replacing
from pcdiff.runtime.json_files import parse_json, shown
from pcdiff.runtime.memory_limit import built_for
from pcdiff.runtime.paths import is_file

FORMAT = "pcdiff-1"


# the prior of clouds' latents was called flow in version 0.1
_FIRST_PRIOR = re.compile(r"^(model|ema)\.flow\.")


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint; a failed write leaves the previous file intact and no other file.

    Args:
        path: the file.
        tensors: tensors by name, on any device.
        metadata: JSON-ready facts.

    Raises:
        InputError: the folder cannot be written to or the disk is full.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    checksums = {name: _checksum(tensor) for name, tensor in tensors.items()}
    header = {"format": FORMAT, "json": json.dumps(metadata), "crc32": json.dumps(checksums)}
    with replacing(path) as draft:
        try:
            save_file(tensors, draft, metadata=header)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from None


def read(path: Path, prefixes: tuple[str, ...] = ("",)) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint's tensors, on the CPU, and its metadata.

    Args:
        path: the file.
        prefixes: read only tensors whose names start with one of these.

    Raises:
        InputError: the file is missing, truncated, damaged, or not one of ours.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118 - no dict
            # A copy: what is given is a view of the file, which someone may cut off or write over later.
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: truncated or not a safetensors file ({error}); use another checkpoint") from None
    if header.get("format") != FORMAT:
        raise InputError(f"{path}: expected a {FORMAT} checkpoint, got format {header.get('format')!r}")
    # checkpoints of the first days have no checksums
    metadata, checksums = (
        parse_json(header.get(key, least), f"{path}: damaged: its metadata", "use another checkpoint")
        for key, least in (("json", ""), ("crc32", "{}"))
    )
    if not isinstance(metadata, dict) or not isinstance(checksums, dict):
        raise InputError(
            f"{path}: damaged: its metadata is {shown(metadata)}, not named facts; use another checkpoint"
        )
    for name, tensor in tensors.items():
        if checksums.get(name, _checksum(tensor)) != _checksum(tensor):
            raise InputError(f"{path}: damaged: {name} is not what was written; use another checkpoint")
    return {_FIRST_PRIOR.sub(r"\1.prior.", name): tensor for name, tensor in tensors.items()}, metadata


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.flatten().view(torch.uint8).numpy())


def locate(path: Path, which: str = "auto") -> Path:
    """Return the checkpoint file of a run's folder, or the file itself.

    Args:
        path: a run's folder, or a checkpoint file.
        which: `best`, `last`, or `auto` (best where there is one).

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    if is_file(path):
        return path
    if path.suffix == ".safetensors":
        raise InputError(f"{path}: no such file; expected a checkpoint, or a run's folder")
    names = ("best", "last") if which == "auto" else (which,)
    for name in names:
        if is_file(file := path / "checkpoints" / f"{name}.safetensors"):
            return file
    raise InputError(f"{path}: no checkpoint ({' or '.join(names)}) in this run; expected {path}/checkpoints/")


def load(path: str | Path, which: str = "auto", ema: bool = True) -> PointCloudModel:
    """Rebuild a trained model from a run's folder or a checkpoint file.

    Args:
        path: a run's folder, or one of its `checkpoints/*.safetensors`; or another project's checkpoint, see
            `pcdiff.interop.checkpoints`.
        which: in a run's folder: `best`, `last`, or `auto` (best where there is one).
        ema: take the moving average of the weights where the checkpoint has one.

    Returns:
        The model in evaluation mode, on the CPU; `model.metadata` holds the step, data set and scores.

    Raises:
        InputError: nothing there, a truncated or damaged file, or weights that do not fit their config.

    Example:
        >>> model = pcdiff.load("runs/airplane")
        >>> clouds = model.sample(4, 2048, generator=torch.Generator().manual_seed(0))
    """
    file = locate(Path(path), which)
    if file.suffix in foreign.SUFFIXES:
        return foreign.load(file)
    tensors, metadata = read(file, ("model.", "ema."))
    prefix = "ema." if ema and any(name.startswith("ema.") for name in tensors) else "model."
    config = run_from_dict(metadata.get("config"), str(file))
    try:
        check(config)
        model = built_for(of_prefix(tensors, prefix), lambda: build_model(config))
    except InputError as error:
        raise InputError(f"{file}: its config is damaged: {error}") from None
    load_weights(model, tensors, prefix, str(file))
    check_facts(metadata, str(file))
    model.metadata = metadata
    return model.eval()


def check_facts(metadata: Mapping[str, Any], source: str, needed: Sequence[str] = ()) -> None:
    """Refuse metadata whose step, data set or statistics are of another kind, or lack what is needed of a data set.

    Args:
        metadata: of a checkpoint.
        source: for messages.
        needed: facts of the data set that must be there, such as `fingerprint`; and with any of them the step.

    Raises:
        InputError: names what is wrong or missing.
    """
    step, dataset, statistics = (metadata.get(key) for key in ("step", "dataset", "statistics"))
    if type(step) is not int and (step is not None or needed):
        raise InputError(f"{source}: damaged: step must be a count, got {short(step)}")
    facts = dataset if isinstance(dataset, dict) else {}
    known = isinstance(dataset, dict | None) and isinstance(facts.get("categories", []), list)
    known = known and all(isinstance(facts[key], str | None) for key in ("name", "fingerprint") if key in facts)
    if not known or not all(isinstance(name, str) for name in facts.get("categories", [])):
        raise InputError(f"{source}: damaged: dataset must be a data set's identity, got {short(dataset)}")
    if missing := [key for key in needed if facts.get(key) is None]:
        raise InputError(f"{source}: no record of what it was trained on: its dataset lacks {', '.join(missing)}")
    if not isinstance(statistics, dict | None):
        raise InputError(f"{source}: damaged: statistics must be named facts, got {short(statistics)}")


def of_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_weights(model: torch.nn.Module, tensors: Mapping[str, Tensor], prefix: str, source: str) -> None:
    """Put the tensors named `prefix + name` into `model`, strictly.

    Raises:
        InputError: keys left over or missing, or a shape that does not fit; the message lists them.
    """
    weights = of_prefix(tensors, prefix)
    own = model.state_dict()
    left_over, missing = sorted(set(weights) - set(own)), sorted(set(own) - set(weights))
    shapes = [
        f"{k} {tuple(v.shape)} not {tuple(own[k].shape)}"
        for k, v in weights.items()
        if k in own and v.shape != own[k].shape
    ]
    if left_over or missing or shapes:
        raise InputError(
            f"{source}: does not fit this model; left over: {left_over}, missing: {missing}, shapes: {shapes}"
        )
    model.load_state_dict(weights)
