"""Other people's weights into our nets: renamed, reshaped where that says the same, and checked to the last key."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.errors import InputError
from pcdiff.interop.checks import listed
from pcdiff.interop.torch_files import load_without_code
from pcdiff.nets.attention import SelfAttention

# our key -> theirs; several are stacked in their order
Names = dict[str, tuple[str, ...]]


def read_config(config: Mapping[str, Any] | str | Path, what: str) -> tuple[dict[str, Any], str]:
    """Return a config given as a mapping or as a JSON file, without keys that start with `_`, and what to call it.

    Raises:
        InputError: the file is missing, no JSON, or no mapping.
    """
    name = what
    if not isinstance(config, Mapping):
        name = str(config)
        try:
            config = json.loads(Path(config).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{name}: cannot read the JSON of {what} ({reason})") from None
        if not isinstance(config, dict):
            raise InputError(f"{name}: {what} must be a JSON object, got a {type(config).__name__}")
    return {key: value for key, value in config.items() if not key.startswith("_")}, name


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors by name that `torch.save` wrote, without running any code.

    Raises:
        InputError: the file is missing, damaged, would run code, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a state dict (.pt, .pth)")
    weights = load_without_code(path)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path}: expected a state dict, tensors by name")
    return {str(key): value for key, value in weights.items()}


def names_of(net: nn.Module, modules: Iterable[tuple[str, str]], parts: Mapping[str, str]) -> Names:
    """Return their key for each of our parameters.

    Args:
        net: ours.
        modules: pairs of our module's, or parameter's, name and theirs; a later pair wins.
        parts: what a block's parts, `conv1` and so on, are called there.
    """
    keys, names = list(net.state_dict()), {}
    for ours, theirs in modules:
        for key in keys:
            if key == ours:
                names[key] = (theirs,)
            elif key.startswith(f"{ours}."):
                part, _, leaf = key[len(ours) + 1 :].rpartition(".")
                names[key] = (".".join(filter(None, (theirs, parts.get(part, part), leaf))),)
    return names


def translate(net: nn.Module, weights: Mapping[str, Tensor], names: Names, what: str) -> dict[str, Tensor]:
    """Return their weights under our names, in our shapes.

    Raises:
        InputError: a key is left over or missing (all are listed), or a shape does not fit.
    """
    ours = net.state_dict()
    wanted = [key for theirs in names.values() for key in theirs]
    left_over, missing = sorted(set(weights) - set(wanted)), sorted(set(wanted) - set(weights))
    if left_over or missing:
        # not `listed`: a loader's user needs to see every one
        raise InputError(f"{what}: weights do not fit the config; left over: {left_over}, missing: {missing}")
    out, misfits = {}, []
    for key, value in ours.items():
        given = torch.cat([weights[name] for name in names[key]])
        same = given.numel() == value.numel() and _without_ones(given) == _without_ones(value)
        if not same:
            misfits.append(f"{' + '.join(names[key])} {tuple(given.shape)} for {tuple(value.shape)}")
        else:
            # a 1x1 convolution is a linear layer
            out[key] = given.reshape(value.shape)
    if misfits:
        raise InputError(f"{what}: shapes do not fit the config: {listed(misfits)}")
    return out


def _without_ones(value: Tensor) -> list[int]:
    return [size for size in value.shape if size != 1]


def fill(net: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Put translated weights into the net, in its own precision, and return it for evaluation."""
    net.load_state_dict(weights)
    return net.eval()


def reorder_heads(net: nn.Module, weights: dict[str, Tensor], order: Callable[[Tensor, int], Tensor]) -> None:
    """Reorder the rows of every attention's `qkv` in place: all queries, all keys, all values is ours.

    Args:
        net: ours.
        weights: under our names.
        order: gets rows and the number of heads, and returns them in our order.
    """
    for name, module in net.named_modules():
        if isinstance(module, SelfAttention):
            for leaf in ("weight", "bias"):
                key = f"{name}.qkv.{leaf}"
                weights[key] = order(weights[key], module.num_heads)


def by_head(rows: Tensor, num_heads: int) -> Tensor:
    """Return rows that stand head by head, each its queries, keys and values (ADM's legacy order), in our order."""
    return rows.unflatten(0, (num_heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def by_channel(rows: Tensor, num_heads: int) -> Tensor:
    """Return rows that stand head by head, channel by channel, q k v of each together (EDM), in our order."""
    return rows.unflatten(0, (num_heads, -1, 3)).movedim(2, 0).flatten(0, 2)
