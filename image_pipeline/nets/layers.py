"""Layers as DDPM starts them, by variance scaling and near zero at the end, and their group norms."""

import math

import torch
from torch import Tensor, nn

from pcdiff.errors import InputError
from pcdiff.nets.attention import SelfAttention
from pcdiff.nets.resampling import Downsample, Upsample


def variance_scaling_(weight: Tensor, scale: float = 1.0) -> Tensor:
    """Fill a weight `(out, in, ...)` with uniform numbers of variance `2 scale / (fan_in + fan_out)`, in place.

    DDPM's start (Ho et al., 2020, appendix B and their code). Scale 0 stands for 1e-10 there: nothing to speak of,
    and yet the layers before it get a gradient from the first step on.
    """
    receptive = weight[0, 0].numel()
    fan_average = receptive * (weight.shape[0] + weight.shape[1]) / 2
    bound = math.sqrt(3 * max(scale, 1e-10) / fan_average)
    with torch.no_grad():
        return weight.uniform_(-bound, bound)


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    padding: int | None = None,
    scale: float = 1.0,
) -> nn.Conv2d:
    """Build a convolution with DDPM's start, bias 0; its padding keeps the size unless given."""
    padding = kernel // 2 if padding is None else padding
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
    variance_scaling_(layer.weight, scale)
    nn.init.zeros_(layer.bias)
    return layer


def linear(in_features: int, out_features: int, scale: float = 1.0) -> nn.Linear:
    """Build a linear layer with DDPM's start, bias 0."""
    layer = nn.Linear(in_features, out_features)
    variance_scaling_(layer.weight, scale)
    nn.init.zeros_(layer.bias)
    return layer


def start_resampling(layer: Downsample | Upsample) -> Downsample | Upsample:
    """Give the convolution of a layer that has one DDPM's start, bias 0; return the layer."""
    if layer.conv is not None:
        variance_scaling_(layer.conv.weight)
        nn.init.zeros_(layer.conv.bias)
    return layer


def start_attention(block: SelfAttention, scale: float = 0.0) -> None:
    """Give an attention DDPM's start; `scale` is its last layer's."""
    # queries, keys and values are each started by themselves, with a tenth of the variance, as score_sde does
    variance_scaling_(block.qkv.weight, 0.1 * 2)
    nn.init.zeros_(block.qkv.bias)
    variance_scaling_(block.proj.weight, scale)
    nn.init.zeros_(block.proj.bias)


def group_norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    """Build a group norm, eps 1e-6.

    Args:
        channels: of what it normalizes.
        groups: number of groups; NCSN++'s `min(channels // 4, 32)` by default.

    Raises:
        InputError: the groups do not divide the channels.
    """
    groups = min(channels // 4, 32) if groups is None else groups
    if groups == 0 or channels % groups:
        wanted = f"multiples of {groups}" if groups else "at least 4"
        raise InputError(f"nf and ch_mult must give channels that are {wanted} for a group norm, got {channels}")
    return nn.GroupNorm(groups, channels, eps=1e-6)
