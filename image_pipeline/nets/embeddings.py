"""How a score net reads its label `(B,)`: sines and cosines at random frequencies, and two linear layers."""

import math

import torch
from torch import Tensor, nn

from image_pipeline.nets.layers import linear
from pcdiff.nets.activations import Activation


class FourierFeatures(nn.Module):
    """Sines, then cosines of `2 pi W u` at random frequencies W, u = log sigma (Song et al., 2021, appendix H.2).

    Args:
        channels: number of frequencies; the output is `(B, 2 channels)`.
        scale: standard deviation of W (Tancik et al., 2020).
    """

    def __init__(self, channels: int, scale: float = 16.0):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(channels) * scale)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the angles, float32 at least: they are large."""
        return torch.promote_types(self.frequencies.dtype, torch.float32)

    def forward(self, u: Tensor) -> Tensor:
        """Return the features `(B, 2 channels)` of labels `(B,)`."""
        angles = u.to(self.dtype)[:, None] * self.frequencies.to(self.dtype) * 2 * math.pi
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeMLP(nn.Module):
    """Two linear layers with an activation after each, from features `(B, F)` to every block's embedding.

    Args:
        in_features: F.
        channels: width of both layers.
        act: the activation.
    """

    def __init__(self, in_features: int, channels: int, act: Activation):
        super().__init__()
        self.first = linear(in_features, channels)
        self.second = linear(channels, channels)
        self.act = act

    def forward(self, features: Tensor) -> Tensor:
        """Return the embedding `(B, channels)`, activated once here and not in every block."""
        h = self.first(features.to(self.first.weight.dtype))
        return self.act(self.second(self.act(h)))
