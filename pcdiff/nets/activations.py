"""Activations by name."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.errors import UnknownName

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "relu": F.relu,
    "mish": F.mish,
    "elu": F.elu,
    "lrelu": partial(F.leaky_relu, negative_slope=0.2),
    "swish": F.silu,  # the name in score_sde's configs
    "gelu": F.gelu,
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
        raise UnknownName(field, name, sorted(ACTIVATIONS))
    return ACTIVATIONS[name]


class GaussianActivation(nn.Module):
    """`exp(-x^2 / (2 a^2))` with a learned width a, shifted and scaled (Ramasinghe & Lucey, 2022; GECCO's code).

    With it a net of coordinates learns sharp edges without their sines and cosines. The shift 0.7 and the scale
    0.28 are about the mean and standard deviation of its values where x ~ N(0, 1) and a = 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.width = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x`."""
        return ((x.square() / (-2 * self.width.square())).exp() - 0.7) / 0.28


class Activate(nn.Module):
    """An activation of `ACTIVATIONS` as a layer."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.function = activation(name)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x`."""
        return self.function(x)

    def extra_repr(self) -> str:
        """Return the name."""
        return self.name


def activation_layer(name: str) -> nn.Module:
    """Return an activation by name as a layer: `gaussian`, with its learned width, or a key of `ACTIVATIONS`.

    Raises:
        InputError: the name is unknown; the message lists the known ones.
    """
    check_layer_activation(name)
    return GaussianActivation() if name == "gaussian" else Activate(name)


def check_layer_activation(name: str, field: str = "activation") -> None:
    """Refuse a name that `activation_layer` does not know.

    Raises:
        InputError: the message lists the known ones.
    """
    known = sorted({*ACTIVATIONS, "gaussian"})
    if name not in known:
        raise UnknownName(field, name, known)
