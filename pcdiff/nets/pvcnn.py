"""The point-voxel net: points on four levels, each level's voxels convolved."""

from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.errors import InputError
from pcdiff.nets.attention import computed_again, differentiable_attention
from pcdiff.nets.pvcnn_branch import TimeGate, TransformerBranch
from pcdiff.nets.pvcnn_config import PVCNNConfig, widths
from pcdiff.nets.pvcnn_layers import (
    FeaturePropagation,
    NormedAttention,
    PointVoxelConv,
    SetAbstraction,
    shared_mlp,
)
from pcdiff.nets.time_embedding import sinusoidal


class DownLevel(nn.Module):
    """Point-voxel convolutions at one level, then the set abstraction that leaves it."""

    def __init__(self, config: PVCNNConfig, level: int, in_channels: int):
        super().__init__()
        count, width = config.built_blocks(level), config.down_channels[level]
        attends = level in config.attention_levels
        self.blocks = nn.ModuleList()
        for k in range(count):
            self.blocks.append(
                _block(config, in_channels, width, config.down_resolutions[level], attends and k == 0)
            )
            in_channels = width
        self.abstraction = SetAbstraction(
            in_channels,
            widths(config.down_widths[level]),
            config.centers[level],
            config.radii[level],
            config.neighbors[level],
            config.repeat_centers,
        )

    def forward(self, features: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Return features `(B, C', M)` and coordinates `(B, M, 3)` of the next level; see `SetAbstraction`."""
        for block in self.blocks:
            features = block(features, coords)
        return self.abstraction(features, coords)


class UpLevel(nn.Module):
    """The way back to a finer level, then its point-voxel convolutions."""

    def __init__(self, config: PVCNNConfig, index: int, in_channels: int):
        super().__init__()
        self.propagation = FeaturePropagation(in_channels, widths(config.up_widths[index]), config.legacy_gradients)
        width = widths(config.up_widths[index])[-1]
        attends = len(config.centers) - 1 - index in config.up_attention_levels
        self.blocks = nn.ModuleList(
            _block(config, width, width, config.up_resolutions[index], attends and k == 0)
            for k in range(config.up_blocks[index])
        )

    def forward(self, features: Tensor, coarse: Tensor, fine: Tensor, skip: Tensor) -> Tensor:
        """Return features `(B, C', N)` at the fine points; see `FeaturePropagation`."""
        features = self.propagation(features, coarse, fine, skip)
        for block in self.blocks:
            features = block(features, fine)
        return features


def _block(config: PVCNNConfig, in_channels: int, out_channels: int, resolution: int, attends: bool) -> nn.Module:
    return PointVoxelConv(
        in_channels,
        out_channels,
        resolution,
        config.dropout,
        attention=attends,
        scaled=config.scaled_attention,
        gate=config.gate_after_attention or not attends,
        legacy=config.legacy_gradients,
    )


class PVCNN(nn.Module):
    """PVD's net (Zhou, Du & Wu, 3D Shape Generation and Completion through Point-Voxel Diffusion, ICCV 2021).

    Points are thinned level by level (PointNet++), and at each level features pass through voxels (PVCNN). The
    embedding of time and condition joins every point's features before every level but the first. With
    `branch_depth` a transformer reads one level too, and a gate of the time weighs it (TIGER, CVPR 2024).

    Args:
        config: what to build; PVD's by default.
        cond_dim: size F of the condition; 0 for none.
        point_dim: numbers of a point, the first three its coordinates.

    Raises:
        InputError: `point_dim` is less than 3.

    Example:
        >>> with torch.device("meta"):  # PVD's sizes, without the work
        ...     net = PVCNN(PVCNNConfig())
        >>> sum(parameter.numel() for parameter in net.parameters())
        27649987
    """

    Config = PVCNNConfig
    pointwise = False

    def __init__(self, config: PVCNNConfig | None = None, cond_dim: int = 0, point_dim: int = 3):
        super().__init__()
        config = PVCNNConfig() if config is None else config
        if point_dim < 3:
            raise InputError(f"point_dim must be at least 3 for a net of voxels, got {point_dim}")
        self.config, self.cond_dim, self.point_dim = config, cond_dim, point_dim
        time = config.time_dim
        self.time = nn.Sequential(nn.Linear(time, time), nn.LeakyReLU(0.1), nn.Linear(time, time))
        self.cond = nn.Linear(cond_dim, time) if cond_dim else None
        levels = len(config.centers)
        self.down, skips, channels = nn.ModuleList(), [], point_dim
        for level in range(levels):
            skips.append(channels)
            joined = time if level or config.time_at_first_level else 0
            self.down.append(DownLevel(config, level, channels + joined))
            channels = widths(config.down_widths[level])[-1]
        self.attention = NormedAttention(channels, config.scaled_attention) if config.global_attention else None
        if not config.outer_skip:
            skips[0] -= 3
        reads = widths(config.down_widths[config.branch_level])[-1] if config.branch_depth else 0
        self.up = nn.ModuleList()
        for index in range(levels):
            self.up.append(UpLevel(config, index, channels + time + skips.pop()))
            channels = widths(config.up_widths[index])[-1]
        self.branch = self.gate = None
        if config.branch_depth:
            fused = widths(config.up_widths[self._fused_after])[-1]
            self.branch = TransformerBranch(config, reads, fused, cond_dim)
            self.gate = TimeGate(fused, time)
        self.head = nn.Sequential(
            shared_mlp(channels, [config.head_width]),
            nn.Dropout(config.head_dropout),
            nn.Conv1d(config.head_width, point_dim, 1),
        )

    @property
    def _fused_after(self) -> int:
        """Which step up ends at the points that the branch reads."""
        return len(self.config.centers) - 2 - self.config.branch_level

    @differentiable_attention
    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return the prediction, like `x`.

        Args:
            x: clouds `(B, N, point_dim)`, any N.
            t: time labels `(B,)`; PVD's are steps counted from 0, the label `step`.
            cond: conditions `(B, F)`; None where F is 0.

        Raises:
            InputError: a shape does not fit.
        """
        self._check(x, cond)
        time = self.embedding(t, cond, x.dtype)
        features, coords = x.transpose(1, 2), x[..., :3]
        left: list[tuple[Tensor, Tensor]] = []  # features and coordinates as each level is entered
        for level, down in enumerate(self.down):
            left.append((features, coords))
            joined = level or self.config.time_at_first_level
            features, coords = self._run(down, _with_time(features, time) if joined else features, coords)
        if self.attention is not None:
            features = self.attention(features)
        read = left[self.config.branch_level + 1] if self.branch is not None else None
        for index, up in enumerate(self.up):
            skip, fine = left.pop()
            if not left and not self.config.outer_skip:
                skip = skip[:, 3:]
            features = self._run(up, _with_time(features, time), coords, fine, skip)
            coords = fine
            if read is not None and index == self._fused_after:
                assert self.branch is not None
                assert self.gate is not None
                features = self.gate(features, self._run(self.branch, *read, t, cond), time)
        return self.head(features).transpose(1, 2).to(x.dtype)

    def embedding(self, t: Tensor, cond: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return the embedding `(B, time_dim)` of labels `(B,)` and conditions `(B, F)`.

        Angles are float32, as PVD's are, or float64 in a net of that.
        """
        size, exact = self.config.time_dim, torch.promote_types(dtype, torch.float32)
        waves = sinusoidal(t, size, sin_first=True, freq_shift=1, rounding="once", dtype=exact)
        time = self.time(waves.to(dtype))
        return time if self.cond is None else time + self.cond(cond)

    def _run(self, part: nn.Module, *inputs: Any) -> Any:
        if self.config.checkpoint and torch.is_grad_enabled():
            return computed_again(part, *inputs)
        return part(*inputs)

    def _check(self, x: Tensor, cond: Tensor | None) -> None:
        if x.dim() != 3 or x.shape[2] != self.point_dim or x.shape[1] < 1:
            raise InputError(f"x must be (B, N, {self.point_dim}), got {tuple(x.shape)}")
        expected = (len(x), self.cond_dim) if self.cond_dim else None
        got = None if cond is None else tuple(cond.shape)
        if got != expected and not (expected is None and got == (len(x), 0)):
            raise InputError(f"cond must be {'None' if expected is None else f'(B, F) = {expected}'}, got {got}")


def _with_time(features: Tensor, time: Tensor) -> Tensor:
    return torch.cat([features, time.to(features.dtype)[:, :, None].expand(-1, -1, features.shape[2])], dim=1)
