"""The embedding of time: sines and cosines of a label, and the small network behind them."""

import math

import torch
from torch import Tensor, nn


def sinusoidal(
    t: Tensor, dim: int, sin_first: bool = False, freq_shift: float = 0.0, max_period: float = 10_000.0
) -> Tensor:
    """Return cosines and sines `(B, dim)` of labels `(B,)` (Vaswani et al., 2017, section 3.5).

    The frequencies fall geometrically from 1. They and the angles are float32, as in every published net: weights
    trained on rounded angles of a thousand radians are not served by exact ones.

    Args:
        t: labels `(B,)`, fractional ones too.
        dim: even.
        sin_first: sines before cosines, as in DDPM; ADM has the cosines first.
        freq_shift: 1 makes the last frequency exactly `1 / max_period`, as in DDPM; 0 stops short of it, as in ADM.
        max_period: in labels.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) * steps / (half - freq_shift))
    return torch.cat([angles.sin(), angles.cos()] if sin_first else [angles.cos(), angles.sin()], dim=1)


def time_mlp(in_dim: int, dim: int) -> nn.Sequential:
    """Build the two layers that turn an embedding `(B, in_dim)` into `(B, dim)`; blocks apply the last SiLU."""
    return nn.Sequential(nn.Linear(in_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
