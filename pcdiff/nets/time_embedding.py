"""The embedding of time: sines and cosines of a label, and the small network behind them."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoidal(
    t: Tensor,
    dim: int,
    sin_first: bool = False,
    freq_shift: float = 0.0,
    max_period: float = 10_000.0,
    rounding: Literal["adm", "ddpm", "once"] = "adm",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return cosines and sines `(B, dim)` of labels `(B,)` (Vaswani et al., 2017, section 3.5).

    The frequencies fall geometrically from 1. They and the angles are float32, as in every published net: weights
    trained on rounded angles of a thousand radians are not served by exact ones.

    Args:
        t: labels `(B,)`, fractional ones too.
        dim: of the embedding; where it is odd, the last entry is 0.
        sin_first: sines before cosines, as in DDPM; ADM has the cosines first.
        freq_shift: 1 makes the last frequency exactly `1 / max_period`, as in DDPM; 0 stops short of it, as in ADM.
        max_period: in labels.
        rounding: whose float32 frequencies: ADM's code divides the exponent last, DDPM's first; PVD's takes them in
            float64 and rounds once. Near step 1000 their sines lie 6e-5 apart.
        dtype: of frequencies, angles and the result; published weights know float32.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=dtype, device=t.device)
    if rounding == "once":
        frequencies = torch.exp(steps.double() * (-math.log(max_period) / (half - freq_shift))).to(dtype)
    elif rounding == "adm":
        frequencies = torch.exp(-math.log(max_period) * steps / (half - freq_shift))
    else:
        frequencies = torch.exp(steps * (-math.log(max_period) / (half - freq_shift)))
    angles = t.to(dtype)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()] if sin_first else [angles.cos(), angles.sin()], dim=1)
    return F.pad(waves, (0, 1)) if dim % 2 else waves


def time_mlp(in_dim: int, dim: int) -> nn.Sequential:
    """Build the two layers that turn an embedding `(B, in_dim)` into `(B, dim)`; blocks apply the last SiLU."""
    return nn.Sequential(nn.Linear(in_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
