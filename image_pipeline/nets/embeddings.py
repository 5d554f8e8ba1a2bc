"""How a net reads its label `(B,)`: sines and cosines at fixed or random frequencies, then two linear layers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image_pipeline.nets.layers import Activation, linear


def sinusoidal(t: Tensor, channels: int) -> Tensor:
    """Return sines, then cosines `(B, channels)` of labels `(B,)` at frequencies 1 down to 1e-4.

    Vaswani et al. (2017, section 3.5) in the form of DDPM's code, whose last frequency is exactly 1e-4. Always
    float32: half precision cannot tell step 998 from 999. `pcdiff.nets.time_embedding` divides last, as ADM does:
    that rounds otherwise, and near step 1000 its sines lie 6e-5 off those that these nets were trained on.
    """
    half = channels // 2
    decay = -math.log(10000) / (half - 1)
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * decay)
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, channels % 2))


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
