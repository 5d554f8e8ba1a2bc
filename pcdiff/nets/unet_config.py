"""What a UNet is built from."""

import math
from dataclasses import dataclass

from pcdiff.errors import InputError, OutOfRange, UnknownName, short
from pcdiff.nets.activations import activation
from pcdiff.nets.config_checks import check_factors, check_positive_integers, lists_to_tuples
from pcdiff.runtime.memory_limit import check_depth

DOWNSAMPLES = ("conv", "pool", "resblock")
UPSAMPLES = ("conv", "nearest", "resblock")


@dataclass(frozen=True)
class UNetConfig:
    """The UNet of ADM (Dhariwal & Nichol, 2021), of which DDPM's and Improved DDPM's are settings.

    Plain JSON builds it, `UNetConfig(**json.loads(text))`: lists become tuples.

    Raises:
        InputError: a value is out of range, or two do not fit each other.

    Example:
        >>> UNetConfig(model_channels=32, channel_mult=(1, 2), attention_factors=(2,), num_head_channels=16)
    """

    in_channels: int = 3
    """Channels of the input."""
    out_channels: int = 3
    """Channels of the output; twice `in_channels` where the variance is learned."""
    rank: int = 2
    """Dimensions beside batch and channels: 1 (signals), 2 (images) or 3 (volumes)."""
    model_channels: int = 128
    """Channels that `channel_mult` multiplies, and size of the time's sines and cosines."""
    channel_mult: tuple[float, ...] = (1, 2, 2, 2)
    """Channels at each level, from the full size down, in multiples of `model_channels`."""
    num_res_blocks: int = 2
    """Residual blocks at each level (on the way up one more)."""
    attention_factors: tuple[int, ...] = (2,)
    """Downsample factors (1, 2, 4, ...) of the levels with attention; the middle has it always."""
    up_attention_factors: tuple[int, ...] | None = None
    """Those of the way up, where they differ."""
    num_heads: int = 1
    """Heads of an attention."""
    num_heads_upsample: int | None = None
    """Heads of an attention on the way up, where they differ."""
    num_head_channels: int | None = None
    """Channels of a head; if given, it decides the number of heads everywhere."""
    scale_shift_norm: bool = True
    """The embedding scales and shifts normalized activations (adaptive group norm); else it is added to them."""
    downsample: str | tuple[str, ...] = "conv"
    """`conv`, `pool` or `resblock`, for all levels or one a level (the last level's is not used)."""
    upsample: str | tuple[str, ...] = "conv"
    """`conv`, `nearest` or `resblock`, for all levels or one a level, full size first (that one is not used)."""
    asymmetric_padding: bool = False
    """Strided convolutions pad the far end only, as DDPM's own do."""
    num_classes: int | None = None
    """Number of classes; none by default."""
    class_bias: bool = False
    """Every residual block has its own embedding of the class, added after its first convolution, in place of one
    that joins the time's (abarankab's DDPM)."""
    null_class: bool = False
    """One more class, `num_classes`, stands for none (classifier-free guidance); no condition means it."""
    time_embed_dim: int | None = None
    """Size of the embedding; four times `model_channels` by default."""
    sin_first: bool = False
    """Sines before cosines in the time's embedding, as in DDPM."""
    time_scale: float = 1.0
    """The time label is multiplied by it before its sines and cosines."""
    freq_shift: float = 0.0
    """Shift of the embedding's frequencies: 1 in DDPM, 0 in ADM."""
    norm_groups: int = 32
    """Most groups of a group norm."""
    norm_min_channels: int = 1
    """Fewest channels of a norm's group."""
    norm_eps: float = 1e-5
    """Added to a norm's variance."""
    middle_norm_groups: int | None = None
    """Groups of the norm before the middle's attention; as elsewhere by default, 0 leaves it out."""
    activation: str = "silu"
    """After every norm and before the blocks' share of the time's embedding: a key of
    `pcdiff.nets.activations.ACTIVATIONS`."""
    center_input: bool = False
    """Feed the net 2 x - 1 for x."""
    pad: int = 0
    """Zeros around the input, on every side; the output is cut back."""
    dropout: float = 0.0
    """Share of a residual block's activations dropped in training."""
    checkpoint: bool = False
    """Compute blocks again in the backward pass instead of keeping their activations."""

    def __post_init__(self):
        """Turn lists into tuples and refuse what no net can have."""
        lists_to_tuples(self)
        check_depth("channel_mult", self.channel_mult)
        self._check_numbers()
        levels = len(self.channel_mult)
        for name, known in (("downsample", DOWNSAMPLES), ("upsample", UPSAMPLES)):
            kinds = self._per_level(name)
            if len(kinds) != levels or not set(kinds) <= set(known):
                raise UnknownName(name, getattr(self, name), known, f", or {levels} of them")
        check_factors(self, "attention_factors up_attention_factors", levels)
        for name in ("null_class", "class_bias"):
            if getattr(self, name) and self.num_classes is None:
                raise InputError(f"{name} needs num_classes")
        activation(self.activation)
        if not isinstance(self.pad, int) or isinstance(self.pad, bool) or self.pad < 0:
            raise InputError(f"pad must be an integer of at least 0, got {self.pad!r}")
        if not 0 < self.time_scale < math.inf:
            raise InputError(f"time_scale must be positive and finite, got {self.time_scale!r}")

    def _check_numbers(self) -> None:
        counts = "in_channels out_channels model_channels num_res_blocks num_heads norm_groups norm_min_channels"
        optional = "num_heads_upsample num_head_channels num_classes time_embed_dim"
        check_positive_integers(self, counts, optional)
        if self.rank not in (1, 2, 3):
            raise InputError(f"rank must be 1, 2 or 3, got {short(self.rank)}")
        if self.model_channels % 2:
            raise InputError(f"model_channels must be even, got {self.model_channels}")
        if not self.channel_mult or min(self.channels) < 1:
            raise InputError(f"channel_mult must give each level channels, got {short(self.channel_mult)}")
        if not 0 <= self.dropout < 1:
            raise OutOfRange("dropout", "in [0, 1)", self.dropout)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels at each level, full size first."""
        return tuple(round(mult * self.model_channels) for mult in self.channel_mult)

    @property
    def embed_dim(self) -> int:
        """Size of the embedding of time and class."""
        return self.time_embed_dim or 4 * self.model_channels

    def _per_level(self, name: str) -> tuple[str, ...]:
        value = getattr(self, name)
        return (value,) * len(self.channel_mult) if isinstance(value, str) else value

    def downsample_at(self, level: int) -> str:
        """Return how the level is left on the way down."""
        return self._per_level("downsample")[level]

    def upsample_at(self, level: int) -> str:
        """Return how the level is left on the way up."""
        return self._per_level("upsample")[level]

    def attention_at(self, level: int, up: bool = False) -> bool:
        """Return whether the level has attention, on the way down or up."""
        factors = self.up_attention_factors if up else None
        return 2**level in (self.attention_factors if factors is None else factors)

    def heads(self, channels: int, up: bool = False) -> int:
        """Return the number of heads of an attention over so many channels.

        Raises:
            InputError: they do not divide the channels.
        """
        if self.num_head_channels is not None:
            heads = channels // self.num_head_channels
            fits = heads * self.num_head_channels == channels
        else:
            heads = (self.num_heads_upsample or self.num_heads) if up else self.num_heads
            fits = channels % heads == 0
        if not fits:
            asked = f"num_head_channels {self.num_head_channels}" if self.num_head_channels else f"{heads} heads"
            raise InputError(f"{channels} channels cannot be split as {asked} asks")
        return heads
