"""What a set transformer is built from."""

from dataclasses import dataclass
from typing import Literal

from pcdiff.errors import InputError, OutOfRange, UnknownName
from pcdiff.nets.activations import check_layer_activation
from pcdiff.nets.config_checks import check_positive_integers

ATTENTIONS = ("inducers", "full")
ENTRIES = ("token", "added")


@dataclass(frozen=True)
class SetTransformerConfig:
    """Sizes of the set transformer; the defaults are GECCO's (Tyszkiewicz et al., 2023; 13.5 M parameters).

    Raises:
        InputError: a value is out of range, or two do not fit each other.

    Example:
        >>> SetTransformerConfig(width=128, depth=4, num_inducers=32, num_heads=4, activation="silu")  # for a CPU
        >>> SetTransformerConfig(attention="full", width=512, depth=12, mlp_ratio=4, activation="gelu")  # point-e's
    """

    attention: Literal["inducers", "full"] = "inducers"
    """`inducers`: learned queries read the points and the points read them, linear in the number of points; or
    `full`: every point reads every other, with tokens for time and condition before them."""
    width: int = 384
    """Channels of a point."""
    depth: int = 6
    """Layers."""
    num_heads: int = 8
    """Heads of an attention."""
    num_inducers: int = 64
    """Learned queries of each layer, with inducers."""
    mlp_ratio: int = 2
    """Hidden channels of the MLPs, in multiples of `width`."""
    activation: str = "gaussian"
    """Of the MLPs: gaussian (with a learned width: it needs no sines and cosines of coordinates), silu, gelu, relu,
    mish, elu or lrelu."""
    norm_groups: int = 32
    """Most groups of the norms that time and condition scale and shift, with inducers."""
    last_norm: bool = True
    """Normalize each point's channels before the last layer."""
    time_as: Literal["token", "added"] = "token"
    """How full attention receives the time: as a token before the points, or added to each of them."""
    cond_as: Literal["token", "added"] = "token"
    """How full attention receives the condition, likewise."""
    cond_unit_norm: bool = False
    """The condition has norm 1, as CLIP's vectors have: it is multiplied by the square root of its size."""
    token_dim: int = 0
    """Features of further tokens that full attention is conditioned on, such as CLIP's grid of an image; 0 is
    none."""
    point_tokens: bool = False
    """Full attention is conditioned on further points, such as a coarse cloud."""
    learned_variance: bool = False
    """Give two numbers for each coordinate, the second for the variance of the reverse steps."""
    checkpoint: bool = False
    """In training, compute every layer's activations anew in the backward pass: less memory, a third more time."""

    def __post_init__(self) -> None:
        check_positive_integers(self, "width depth num_heads num_inducers mlp_ratio norm_groups")
        check_layer_activation(self.activation)
        for name, known in (("attention", ATTENTIONS), ("time_as", ENTRIES), ("cond_as", ENTRIES)):
            if getattr(self, name) not in known:
                raise UnknownName(name, getattr(self, name), known)
        if self.width % self.num_heads:
            raise InputError(f"width must be a multiple of num_heads = {self.num_heads}, got {self.width}")
        if self.token_dim < 0:
            raise OutOfRange("token_dim", "at least 0", self.token_dim)
        if self.attention == "full":
            return
        if self.width % min(self.norm_groups, self.width):
            raise InputError(f"width must be a multiple of norm_groups = {self.norm_groups}, got {self.width}")
        if self.token_dim or self.point_tokens:
            raise InputError("token_dim and point_tokens go with attention full, got attention inducers")
