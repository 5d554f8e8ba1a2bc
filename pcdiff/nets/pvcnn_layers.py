"""The layers of point-voxel nets: shared MLPs, voxel convolutions, set abstraction, feature propagation.

Features are `(B, C, N)`, coordinates `(B, N, 3)`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.nets.pvcnn_config import NORM_GROUPS
from pcdiff.ops import (
    ball_query,
    devoxelize,
    farthest_point_sample,
    three_nn_interpolate,
    voxel_coordinates,
    voxelize,
)


class Norm(nn.GroupNorm):
    """Group norm in `NORM_GROUPS` groups; also of a single number, which becomes 0 and which PyTorch's refuses."""

    def __init__(self, channels: int):
        super().__init__(NORM_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x` `(B, C, *dims)`."""
        # With the channels last in memory PyTorch's norm on the CPU loses digits of float32 (1e-4 in PVD's nets),
        # and fails in forward mode.
        return torch.group_norm(x.contiguous(), self.num_groups, self.weight, self.bias, self.eps)


def shared_mlp(in_channels: int, widths: Sequence[int]) -> nn.Sequential:
    """Build layers `(B, C, N) -> (B, C', N)` that treat all points alike (Qi et al., PointNet, CVPR 2017)."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv1d(in_channels, width, 1), Norm(width), nn.SiLU()]
        in_channels = width
    return nn.Sequential(*layers)


class NormedAttention(nn.Module):
    """Attention of one head over all positions, with norm and activation after the residual sum, as PVD has it.

    Args:
        channels: C.
        scaled: divide the products by the root of C; PVD does not.
    """

    def __init__(self, channels: int, scaled: bool):
        super().__init__()
        self.scale = channels**-0.5 if scaled else 1.0
        self.q, self.k, self.v, self.out = (nn.Linear(channels, channels) for _ in range(4))
        self.norm = Norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x` `(B, C, *dims)`."""
        tokens = x.flatten(2).transpose(1, 2)  # (B, P, C)
        q, k, v = (layer(tokens).unsqueeze(1) for layer in (self.q, self.k, self.v))
        attended = self.out(F.scaled_dot_product_attention(q, k, v, scale=self.scale).squeeze(1))
        return F.silu(self.norm(attended.transpose(1, 2).unflatten(2, x.shape[2:]) + x))


class ChannelGate(nn.Module):
    """Squeeze and excitation: channels weighed by what the whole volume holds (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, reduction: int = 8):
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x` `(B, C, r, r, r)`."""
        weights = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3, 4))))))
        return x * weights[:, :, None, None, None]


class PointVoxelConv(nn.Module):
    """Features from a convolution of the points' voxels and from a layer of the points (Liu et al., PVCNN, 2019).

    Args:
        in_channels: C.
        out_channels: C'.
        resolution: r, voxels along each side.
        dropout: between the two convolutions.
        attention: attend over all voxels.
        scaled: see `NormedAttention`.
        gate: squeeze and excitation of the voxels.
        legacy: pass no gradient to the coordinates.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resolution: int,
        dropout: float,
        attention: bool = False,
        scaled: bool = False,
        gate: bool = True,
        legacy: bool = True,
    ):
        super().__init__()
        self.resolution, self.legacy = resolution, legacy
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.norm1 = Norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.norm2 = Norm(out_channels)
        self.attention = NormedAttention(out_channels, scaled) if attention else nn.SiLU()
        self.gate = ChannelGate(out_channels) if gate else nn.Identity()
        self.points = shared_mlp(in_channels, [out_channels])

    def forward(self, features: Tensor, coords: Tensor) -> Tensor:
        """Return features `(B, C', N)` of features `(B, C, N)` at coordinates `(B, N, 3)`."""
        places = voxel_coordinates(coords, self.resolution, legacy=self.legacy)
        voxels = voxelize(features.transpose(1, 2), places, self.resolution)
        voxels = self.dropout(F.silu(self.norm1(self.conv1(voxels))))
        voxels = self.gate(self.attention(self.norm2(self.conv2(voxels))))
        return devoxelize(voxels, places, legacy=self.legacy).transpose(1, 2) + self.points(features)


class SetAbstraction(nn.Module):
    """Fewer points, each with what lies around it (Qi et al., PointNet++, 2017).

    Args:
        in_channels: C.
        widths: of its layers; C' is the last.
        num_centers: M.
        radius: of the neighbourhood, in the unit of the coordinates.
        num_neighbors: most points in it.
        repeat_centers: M centres of a smaller cloud, too: the first point stands for those that lack.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        num_centers: int,
        radius: float,
        num_neighbors: int,
        repeat_centers: bool,
    ):
        super().__init__()
        self.num_centers, self.radius, self.num_neighbors = num_centers, radius, num_neighbors
        self.repeat_centers = repeat_centers
        self.mlp = shared_mlp(3 + in_channels, widths)

    def forward(self, features: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Return features `(B, C', M)` and coordinates `(B, M, 3)` of the centres.

        Args:
            features: `(B, C, N)`.
            coords: `(B, N, 3)`.
        """
        centers = coords.gather(1, self._centers(coords)[:, :, None].expand(-1, -1, 3))
        index = ball_query(centers, coords, self.radius, self.num_neighbors).flatten(1)  # (B, M k)
        near = coords.gather(1, index[:, :, None].expand(-1, -1, 3)).unflatten(1, (-1, self.num_neighbors))
        offsets = (near - centers.unsqueeze(2)).flatten(1, 2).transpose(1, 2)
        grouped = features.gather(2, index[:, None].expand(-1, features.shape[1], -1))
        h = self.mlp(torch.cat([offsets.to(grouped.dtype), grouped], dim=1))
        # max, not amax: of equal neighbours, and a first hit that fills up is equal, one has the gradient
        return h.unflatten(2, (-1, self.num_neighbors)).max(dim=3).values, centers

    def _centers(self, coords: Tensor) -> Tensor:
        count = min(self.num_centers, coords.shape[1])
        index = farthest_point_sample(coords, count, start=0)
        if not self.repeat_centers or count == self.num_centers:
            return index
        return F.pad(index, (0, self.num_centers - count))  # index 0 is the first point


class FeaturePropagation(nn.Module):
    """Features of a coarse level at the points of a finer one (Qi et al., PointNet++, 2017, section 3.4).

    Args:
        in_channels: of the coarse features, the time's among them, and of the skip together.
        widths: of its layers.
        legacy: pass no gradient to the coordinates.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], legacy: bool):
        super().__init__()
        self.legacy = legacy
        self.mlp = shared_mlp(in_channels, widths)

    def forward(self, features: Tensor, coarse: Tensor, fine: Tensor, skip: Tensor) -> Tensor:
        """Return features `(B, C', N)` at the fine points.

        Args:
            features: `(B, C, M)` at the coarse points.
            coarse: `(B, M, 3)`.
            fine: `(B, N, 3)`.
            skip: features `(B, S, N)` that the finer level had; S may be 0.
        """
        h = three_nn_interpolate(fine, coarse, features.transpose(1, 2), legacy=self.legacy).transpose(1, 2)
        return self.mlp(torch.cat([h, skip.to(h.dtype)], dim=1))
