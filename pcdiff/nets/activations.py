"""Activations by name."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from pcdiff.errors import InputError

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "relu": F.relu,
    "mish": F.mish,
    "elu": F.elu,
    "lrelu": partial(F.leaky_relu, negative_slope=0.2),
    "swish": F.silu,  # the name in score_sde's configs
}


def activation(name: str, field: str = "activation") -> Activation:
    """Return an activation by name.

    Args:
        name: a key of `ACTIVATIONS`.
        field: of the config that has it, for the message.

    Raises:
        InputError: the name is unknown; the message lists the known ones.
    """
    if name not in tuple(ACTIVATIONS):  # a list, which JSON can have here, is no key of anything
        raise InputError(f"{field} must be one of {sorted(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]
