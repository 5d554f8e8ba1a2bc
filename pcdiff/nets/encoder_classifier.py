"""The encoding half of a UNet as a classifier of noisy images, for classifier guidance."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.errors import InputError, UnknownName
from pcdiff.nets.activations import activation
from pcdiff.nets.attention import differentiable_attention
from pcdiff.nets.unet_blocks import conv
from pcdiff.nets.unet_config import UNetConfig
from pcdiff.nets.unet_encoder import UNetEncoder
from pcdiff.nets.unet_levels import norm

POOLS = ("attention", "adaptive", "spatial", "spatial_v2")
HIDDEN = 2048  # width of the spatial pools' hidden layer in ADM


@dataclass(frozen=True)
class ClassifierConfig(UNetConfig):
    """The classifier of ADM (Dhariwal & Nichol, 2021, section 4): `out_channels` is the number of classes.

    Raises:
        InputError: a value is out of range, or two do not fit each other.
    """

    pool: str = "attention"
    """`attention` (over positions), `adaptive` (their mean), `spatial` or `spatial_v2` (means at all levels)."""
    image_size: int = 64
    """Size of every dimension; the attention pool learns an embedding of each position."""

    def __post_init__(self):
        """Refuse what no classifier can have."""
        super().__post_init__()
        if self.pool not in POOLS:
            raise UnknownName("pool", self.pool, POOLS)
        if self.image_size < 1 or self.image_size % 2 ** (len(self.channels) - 1):
            factor = 2 ** (len(self.channels) - 1)
            raise InputError(f"image_size must be positive and divisible by {factor}, got {self.image_size}")


class AttentionPool(nn.Module):
    """Let the mean attend to every position, and read the answer off it (Dhariwal & Nichol, 2021, section 4.3).

    Args:
        positions: number of positions P.
        channels: C.
        num_heads: heads.
        out_channels: size of the answer.
    """

    def __init__(self, positions: int, channels: int, num_heads: int, out_channels: int):
        super().__init__()
        self.num_heads = num_heads
        self.positions = nn.Parameter(torch.randn(channels, positions + 1) / channels**0.5)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out_channels)` of `x` `(B, C, *dims)`.

        Raises:
            InputError: `x` has another number of positions.
        """
        tokens = x.flatten(2)
        if tokens.shape[2] + 1 != self.positions.shape[1]:
            wanted = self.positions.shape[1] - 1
            raise InputError(f"the attention pool was built for {wanted} positions, got {tokens.shape[2]}")
        tokens = torch.cat([tokens.mean(dim=2, keepdim=True), tokens], dim=2) + self.positions.to(x.dtype)
        qkv = self.qkv(tokens.transpose(1, 2)).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, P + 1, c)
        # the mean alone is asked
        return self.proj(F.scaled_dot_product_attention(q[:, :, :1], k, v).flatten(1))


class EncoderClassifier(UNetEncoder):
    """Logits of the classes of a noisy image (Dhariwal & Nichol, 2021, section 4 and table 4).

    Args:
        config: what to build.

    Raises:
        InputError: channels do not divide into groups or heads.

    Example:
        >>> net = EncoderClassifier(ClassifierConfig(out_channels=10, num_head_channels=64, image_size=32))
        >>> net(torch.randn(4, 3, 32, 32), torch.full((4,), 500)).log_softmax(dim=1).shape
        torch.Size([4, 10])
    """

    Config = ClassifierConfig
    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig):
        super().__init__(config)
        channels = config.channels[-1]
        if config.pool.startswith("spatial"):
            first = nn.Linear(sum(self.skip_channels) + channels, HIDDEN)
            last = nn.Linear(HIDDEN, config.out_channels)
            middle = [nn.ReLU()] if config.pool == "spatial" else [norm(config, HIDDEN), nn.SiLU()]
            self.head: nn.Module = nn.Sequential(first, *middle, last)
            return
        self.norm_out = norm(config, channels)
        if config.pool == "attention":
            positions = (config.image_size // 2 ** (len(config.channels) - 1)) ** config.rank
            self.head = AttentionPool(positions, channels, config.heads(channels), config.out_channels)
        else:
            self.head = conv(config.rank, channels, config.out_channels, kernel=1, zero=True)

    @differentiable_attention
    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return logits `(B, out_channels)`.

        Args:
            x: `(B, in_channels, *dims)`.
            t: time labels `(B,)`.
            cond: classes, where the net's config has any.

        Raises:
            InputError: a shape or a class does not fit.
        """
        outputs, h, _ = self.encode(x, t, cond)
        if self.config.pool.startswith("spatial"):
            means = [output.to(x.dtype).flatten(2).mean(dim=2) for output in (*outputs, h)]
            return self.head(torch.cat(means, dim=1))
        h = activation(self.config.activation)(self.norm_out(h.to(x.dtype)))
        if self.config.pool == "attention":
            return self.head(h)
        return self.head(h.flatten(2).mean(dim=2).view(*h.shape[:2], *[1] * self.config.rank)).flatten(1)
