"""Put foreign weights into a net, strictly: each under its own name, all of them, of the right shape."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from image_pipeline.models import build_model
from pcdiff.errors import InputError
from pcdiff.interop.checks import listed

Names = dict[str, tuple[str, ...]]
"""By a net's own name of a tensor, the file's name, or the names of those that are stacked to it."""


def named_tensors(value: Any, what: str) -> dict[str, Tensor]:
    """Return a state dict without the prefix `module.` that `DataParallel` leaves.

    Raises:
        InputError: it is no dict of tensors by name.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{what} must be a dict of tensors by name, got a {type(value).__name__}")
    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            kinds = f"{type(key).__name__}: {type(tensor).__name__}"
            raise InputError(f"{what} must be a dict of tensors by name, got an entry {kinds}")
    wrapped = bool(value) and all(key.startswith("module.") for key in value)
    return {key.removeprefix("module.") if wrapped else key: tensor for key, tensor in value.items()}


def built(name: str, fields: Mapping[str, Any]) -> nn.Module:
    """Build the net that weights go into; its own start, soon overwritten, costs the caller no random number.

    Args:
        name: a key of `MODELS`.
        fields: of its config.

    Raises:
        InputError: the config is refused, or its net does not fit into memory.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return build_model(name, **fields)
    except (RuntimeError, TypeError, MemoryError, OverflowError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"config: no {name} can be built of it: {reason}") from None


def fill(net: nn.Module, names: Names, weights: Mapping[str, Tensor]) -> None:
    """Load `weights` into `net`.

    score_sde keeps the matrix of a 1x1 convolution ("NIN") as `W (in, out)`; such are turned, and shaped as the net
    has them.

    Args:
        net: the net.
        names: of every tensor in the net's state dict.
        weights: by the file's names.

    Raises:
        InputError: a name is left over or missing (they are listed), or a shape does not fit.
    """
    expected = {theirs for parts in names.values() for theirs in parts}
    left_over, missing = sorted(set(weights) - expected), sorted(expected - set(weights))
    if left_over or missing:
        raise InputError(
            f"weights do not fit the config; left over: {listed(left_over)}; missing: {listed(missing)}"
        )
    state = net.state_dict()
    assert set(names) == set(state), sorted(set(names) ^ set(state))
    for ours, parts in names.items():
        found = [weights[theirs] for theirs in parts]
        turned = [
            t.t() if name.endswith(".W") and t.dim() == 2 else t for name, t in zip(parts, found, strict=True)
        ]
        shape = tuple(state[ours].shape)
        flat = shape[:2] if shape[2:] == (1, 1) and turned[0].dim() == 2 else shape
        one = (flat[0] // len(parts), *flat[1:])
        for theirs, tensor in zip(parts, turned, strict=True):
            if tuple(tensor.shape) != one:
                wanted = one[::-1] if theirs.endswith(".W") else one
                got = tuple(weights[theirs].shape)
                raise InputError(f"weights do not fit the config: {theirs} has shape {got}, expected {wanted}")
        state[ours] = (turned[0] if len(turned) == 1 else torch.cat(turned)).reshape(shape)
    net.load_state_dict(state)
