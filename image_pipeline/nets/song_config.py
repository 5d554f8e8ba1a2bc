"""What a DDPM++ or NCSN++ of Karras et al. is built from."""

import math
from dataclasses import dataclass

from pcdiff.errors import InputError, UnknownName, short
from pcdiff.nets.config_checks import check_factors, check_positive_integers, lists_to_tuples
from pcdiff.runtime.memory_limit import check_depth

EMBEDDINGS = ("positional", "fourier")
ENCODERS = ("standard", "skip", "residual")
DECODERS = ("standard", "skip")
SQRT2 = math.sqrt(2)
NUM_LABELS = 9
"""Numbers that say what `image_pipeline.data.augmentation` did to an image: the `augment_dim` that goes with it."""


@dataclass(frozen=True)
class SongUNetConfig:
    """The nets of Song et al. (2021), appendix H, in the form and by the names of Karras et al. (2022), appendix C.

    The defaults are DDPM++; NCSN++ has `noise_mult` 2, embedding `fourier`, encoder `residual` and the filter
    (1, 3, 3, 1).

    Raises:
        InputError: a value is out of range.
    """

    in_channels: int = 3
    """Channels of the input."""
    out_channels: int = 3
    """Channels of the output."""
    model_channels: int = 128
    """Channels that `channel_mult` multiplies."""
    channel_mult: tuple[float, ...] = (1, 2, 2, 2)
    """Channels at each level, from the full size down, in multiples of `model_channels`."""
    embed_mult: int = 4
    """Size of the embedding, in multiples of `model_channels`."""
    noise_mult: int = 1
    """Size of the label's sines and cosines, in multiples of `model_channels`: 1 in DDPM++, 2 in NCSN++."""
    num_blocks: int = 4
    """Residual blocks at each level (on the way up one more)."""
    attention_factors: tuple[int, ...] = (2,)
    """Downsample factors of the levels with attention; the middle has it always."""
    num_head_channels: int | None = None
    """Channels of an attention's head; one head by default."""
    dropout: float = 0.1
    """Share of a residual block's activations dropped in training."""
    embedding: str = "positional"
    """`positional` (sinusoids) or `fourier` (random frequencies)."""
    encoder: str = "standard"
    """What else is fed to the smaller levels: nothing, the image (`skip`), or a branch of its own (`residual`)."""
    decoder: str = "standard"
    """`skip` sums an image of each level; `standard` makes one at the end."""
    resample_filter: tuple[float, ...] = (1, 1)
    """The filter that images are halved and doubled with."""
    num_classes: int | None = None
    """Number of classes; one more index, `num_classes`, and no condition stand for none of them."""
    augment_dim: int = 0
    """Size of the augmentation label; 0 for a net without one, 9 for ours."""
    center_input: bool = False
    """Feed the net 2 x - 1 for x."""
    norm_eps: float = 1e-6
    """Added to a norm's variance."""
    attention_norm_groups: int | None = None
    """Groups of the norms that go with attention outside the middle: diffusers fixes 32; like others by default."""
    middle_divisor: float = SQRT2
    """The middle's sums are divided by it."""

    def __post_init__(self):
        """Turn lists into tuples and refuse what no net can have."""
        lists_to_tuples(self)
        check_depth("channel_mult", self.channel_mult)
        check_positive_integers(self, "in_channels out_channels model_channels embed_mult noise_mult num_blocks")
        if not isinstance(self.augment_dim, int) or self.augment_dim < 0:
            raise InputError(f"augment_dim must be at least 0, got {short(self.augment_dim)}")
        for name, known in (("embedding", EMBEDDINGS), ("encoder", ENCODERS), ("decoder", DECODERS)):
            if getattr(self, name) not in known:
                raise UnknownName(name, getattr(self, name), known)
        check_factors(self, "attention_factors", len(self.channel_mult))
        if not self.channel_mult or min(self.channels) < 4:
            raise InputError(f"channel_mult must give each level at least 4 channels, got {short(self.channels)}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels at each level, full size first."""
        return tuple(round(mult * self.model_channels) for mult in self.channel_mult)

    @property
    def embed_dim(self) -> int:
        """Size of the embedding."""
        return self.embed_mult * self.model_channels
