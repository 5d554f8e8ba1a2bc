"""A transformer beside a point-voxel net's convolutions, and the gate of the time between them (TIGER)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.nets.pvcnn_config import PVCNNConfig
from pcdiff.nets.pvcnn_layers import Norm
from pcdiff.nets.time_embedding import sinusoidal, time_mlp

_FREQUENCIES = 256


class PositionBias(nn.Module):
    """A factor in (0, 1) for the attention between each two points, from their positions alone."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Conv1d(width, width, 1), Norm(width)) for _ in range(2))

    def forward(self, position: Tensor) -> Tensor:
        """Return factors `(B, N, N)` of position codes `(B, N, width)`."""
        position = position.transpose(1, 2)
        return torch.sigmoid(self.first(position).transpose(1, 2) @ self.second(position))


class BranchBlock(nn.Module):
    """A block of DiT (Peebles & Xie, 2023, adaLN-Zero) whose attention is multiplied by the positions' factors."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.bias = PositionBias(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, position: Tensor, time: Tensor) -> Tensor:
        """Return a tensor like `x` `(B, N, width)`, given position codes like it and the time `(B, width)`."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(time)[:, None].chunk(6, dim=2)
        x = x + gate * self._attention(self.norm(x) * (1 + scale) + shift, position)
        return x + mlp_gate * self.mlp(self.norm(x) * (1 + mlp_scale) + mlp_shift)

    def _attention(self, x: Tensor, position: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, N, c)
        logits = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3) * self.bias(position)[:, None]
        weights = F.dropout(logits.softmax(dim=3), self.dropout, self.training)
        return F.dropout(self.proj((weights @ v).transpose(1, 2).flatten(2)), self.dropout, self.training)


class TransformerBranch(nn.Module):
    """Attention over the points of one level (Ren et al., TIGER, CVPR 2024).

    Args:
        config: of the net.
        in_channels: of the level's features.
        out_channels: of the branch.
        cond_dim: size of the condition; 0 for none.
    """

    def __init__(self, config: PVCNNConfig, in_channels: int, out_channels: int, cond_dim: int):
        super().__init__()
        width = config.branch_width
        self.embed = nn.Sequential(nn.LayerNorm(in_channels), nn.Linear(in_channels, width), nn.LayerNorm(width))
        self.time = time_mlp(_FREQUENCIES, width)
        self.cond = nn.Linear(cond_dim, width) if cond_dim else None
        self.blocks = nn.ModuleList(
            BranchBlock(width, config.branch_heads, config.branch_dropout) for _ in range(config.branch_depth)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, out_channels)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.width = width

    def forward(self, features: Tensor, coords: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """Return features `(B, out_channels, N)`.

        Args:
            features: `(B, in_channels, N)`.
            coords: `(B, N, 3)`.
            t: time labels `(B,)`.
            cond: conditions `(B, cond_dim)`; None where that is 0.
        """
        position = position_code(coords, self.width)
        x = self.embed(features.transpose(1, 2)) + position
        time = self.time(sinusoidal(t, _FREQUENCIES, dtype=coords.dtype))
        if self.cond is not None:
            time = time + self.cond(cond)
        time = F.silu(time)
        for block in self.blocks:
            x = block(x, position, time)
        shift, scale = self.modulation(time)[:, None].chunk(2, dim=2)
        return self.out(self.norm(x) * (1 + scale) + shift).transpose(1, 2)


def position_code(coords: Tensor, width: int) -> Tensor:
    """Return sines and cosines `(B, N, width)` in turn, of one number a point: its coordinates as digits.

    The number is 10000 x + 100 y + z (TIGER's code; its paper has the digits the other way round and base 1000).
    """
    # not as a product of matrices: its rounding, which the sines see a thousandfold, would be the processor's
    number = coords[..., 0] * 10_000 + coords[..., 1] * 100 + coords[..., 2]
    steps = torch.arange(0, width, 2, dtype=coords.dtype, device=coords.device)
    angles = number.unsqueeze(2) * torch.exp(-math.log(10_000.0) / width * steps)
    return torch.stack([angles.sin(), angles.cos()], dim=3).flatten(2)


class TimeGate(nn.Module):
    """Weighs a transformer's features against a convolution's, channel by channel, by the time (TIGER)."""

    def __init__(self, channels: int, time_dim: int):
        super().__init__()
        self.mask = nn.Sequential(
            nn.Linear(time_dim, time_dim),
            Norm(time_dim),
            nn.LeakyReLU(0.1),
            nn.Linear(time_dim, channels),
        )
        self.conv, self.transformer = (
            nn.Sequential(nn.Conv1d(channels, channels, 1), Norm(channels), nn.Sigmoid()) for _ in range(2)
        )
        self.out = nn.Sequential(
            nn.Conv1d(channels, channels, 1),
            Norm(channels),
            nn.LeakyReLU(0.1),
            nn.Conv1d(channels, channels, 1),
        )

    def forward(self, conv: Tensor, transformer: Tensor, time: Tensor) -> Tensor:
        """Return features `(B, C, N)` of those of the two, like them, and the time `(B, time_dim)`."""
        share = torch.sigmoid(self.mask(time))[:, :, None]
        return self.out(share * self.conv(conv) + (1 - share) * self.transformer(transformer))
