"""Other people's weights into our nets: renamed, transposed where layouts differ, checked to the last key."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.errors import InputError
from pcdiff.interop.checks import listed
from pcdiff.nets.attention import SelfAttention
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.torch_files import check_named_tensors, load_without_code

Names = dict[str, tuple[str, ...]]
"""By a net's own name of a tensor, the file's name, or the names of those that are stacked to it."""


def named_tensors(value: Any, what: str) -> dict[str, Tensor]:
    """Return a state dict without the prefix `module.` that `DataParallel` leaves.

    Raises:
        InputError: it is no dict of tensors by name.
    """
    check_named_tensors(value, what)
    wrapped = bool(value) and all(key.startswith("module.") for key in value)
    return {key.removeprefix("module.") if wrapped else key: tensor for key, tensor in value.items()}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors by name that `torch.save` wrote, without running any code.

    Raises:
        InputError: the file is missing, damaged, would run code, or holds anything else.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(f"{path}: no such file; expected a state dict (.pt, .pth)")
    return named_tensors(load_without_code(path), f"{path}: a state dict")


def names_of(net: nn.Module, modules: Iterable[tuple[str, str]], parts: Mapping[str, str]) -> Names:
    """Return their key for each of our parameters.

    Args:
        net: ours.
        modules: pairs of our module's, or parameter's, name and theirs; a later pair wins.
        parts: what a block's parts, `conv1` and so on, are called there.
    """
    keys = list(net.state_dict())
    names: Names = {}
    for ours, theirs in modules:
        for key in keys:
            if key == ours:
                names[key] = (theirs,)
            elif key.startswith(f"{ours}."):
                part, _, leaf = key[len(ours) + 1 :].rpartition(".")
                names[key] = (".".join(filter(None, (theirs, parts.get(part, part), leaf))),)
    return names


def fill(
    net: nn.Module,
    names: Names,
    weights: Mapping[str, Tensor],
    order: Callable[[Tensor, int], Tensor] | None = None,
) -> None:
    """Load `weights` into `net`, in its own precision; a matrix stands for a 1x1 convolution and the other way.

    Args:
        net: the net.
        names: of every tensor in the net's state dict.
        weights: by the file's names.
        order: gets the rows of an attention's `qkv` and its number of heads, and returns them in our order: all
            queries, all keys, all values, each head by head. None: they stand so.

    Raises:
        InputError: a name is left over or missing (all are listed), or a shape does not fit.
    """
    expected = {theirs for parts in names.values() for theirs in parts}
    left_over, missing = sorted(set(weights) - expected), sorted(expected - set(weights))
    if left_over or missing:
        # not `listed`: who opens a file needs to see every one
        raise InputError(f"weights do not fit the config; left over: {left_over}, missing: {missing}")
    state, misfits = net.state_dict(), []
    assert set(names) == set(state), sorted(set(names) ^ set(state))
    for ours, parts in names.items():
        shape, found = tuple(state[ours].shape), [weights[theirs] for theirs in parts]
        wanted = _matrix((shape[0] // len(parts), *shape[1:]) if len(parts) > 1 else shape)
        bad = [theirs for theirs, part in zip(parts, found, strict=True) if _matrix(tuple(part.shape)) != wanted]
        misfits += [f"{theirs} has shape {tuple(weights[theirs].shape)}, expected {wanted}" for theirs in bad]
        if not bad:
            state[ours] = (torch.cat(found) if len(found) > 1 else found[0]).reshape(shape)
    if misfits:
        raise InputError(f"weights do not fit the config: {listed(misfits)}")
    if order is not None:
        _reorder_heads(net, state, order)
    net.load_state_dict(state)


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the matrix that a 1x1 convolution of this shape is; other shapes as they are."""
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape


def _reorder_heads(net: nn.Module, state: dict[str, Tensor], order: Callable[[Tensor, int], Tensor]) -> None:
    for name, module in net.named_modules():
        if isinstance(module, SelfAttention):
            for leaf in ("weight", "bias"):
                key = f"{name}.qkv.{leaf}"
                state[key] = order(state[key], module.num_heads)


def by_head(rows: Tensor, num_heads: int) -> Tensor:
    """Return rows that stand head by head, each its queries, keys and values (ADM's legacy order), in our order."""
    return rows.unflatten(0, (num_heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def by_channel(rows: Tensor, num_heads: int) -> Tensor:
    """Return rows that stand head by head, channel by channel, q k v of each together (EDM), in our order."""
    return rows.unflatten(0, (num_heads, -1, 3)).movedim(2, 0).flatten(0, 2)
