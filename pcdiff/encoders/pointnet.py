"""PointNet: a permutation-invariant encoder from a cloud to a shape latent (Qi et al., CVPR 2017)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.errors import InputError


@dataclass(frozen=True)
class PointNetConfig:
    """Sizes of PointNet; the defaults are the paper's."""

    widths: tuple[int, ...] = (128, 128, 256, 512)
    """Output widths of PointNet's pointwise layers."""
    head_widths: tuple[int, ...] = (256, 128)
    """Hidden widths of PointNet's heads for mean and log-variance."""

    RANGES: ClassVar[dict[str, str]] = {"at least 1": "widths head_widths"}


class PointNetEncoder(nn.Module):
    """Encode a cloud as the mean and log-variance of q(z | X) (Luo & Hu, CVPR 2021, section 4).

    A shared pointwise MLP, a maximum over the points, and one small MLP a head. The result does not depend on
    the order of the points, and any number of points may come in.

    Args:
        latent_dim: size F of the shape latent z.
        point_dim: coordinates of a point.
        widths: output widths of the pointwise layers; the last is the pooled feature's.
        head_widths: hidden widths of a head.
        variational: build the log-variance head too; without it the encoder is a deterministic code.

    Raises:
        InputError: `widths` is empty.
    """

    Config = PointNetConfig

    def __init__(
        self,
        latent_dim: int,
        point_dim: int = 3,
        widths: Sequence[int] = (128, 128, 256, 512),
        head_widths: Sequence[int] = (256, 128),
        variational: bool = True,
    ):
        super().__init__()
        if not widths:
            raise InputError("widths must name at least one layer of the encoder, got none")
        self.point_dim = point_dim
        sizes = [point_dim, *widths]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths)
        self.mean_head = _head(widths[-1], head_widths, latent_dim)
        self.log_variance_head = _head(widths[-1], head_widths, latent_dim) if variational else None

    def features(self, x: Tensor) -> Tensor:
        """Return the pooled feature `(B, widths[-1])` of clouds `(B, N, point_dim)`."""
        if x.dim() != 3 or x.shape[2] != self.point_dim or x.shape[1] == 0:
            raise InputError(f"x must be (B, N, {self.point_dim}) with N > 0, got {tuple(x.shape)}")
        batch, num_points = x.shape[:2]
        h = x.reshape(batch * num_points, -1)
        for layer, norm in zip(self.layers[:-1], self.norms[:-1], strict=True):
            h = F.relu(_normalized(h, layer, norm))
        h = _normalized(h, self.layers[-1], self.norms[-1])
        # max, not amax: its gradient goes to one index. amax compares values, which compiled bf16 code rounds apart
        return h.view(batch, num_points, -1).max(dim=1).values

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode clouds.

        Args:
            x: clouds `(B, N, point_dim)`.

        Returns:
            `mean (B, F)` and `log_variance (B, F)` (natural log; None if not variational).

        Raises:
            InputError: `x` is not `(B, N, point_dim)` or has no points.
        """
        feature = self.features(x)
        mean = self.mean_head(feature)
        if self.log_variance_head is None:
            return mean, None
        return mean, self.log_variance_head(feature)


def _normalized(h: Tensor, layer: nn.Linear, norm: nn.BatchNorm1d) -> Tensor:
    """Return `norm(layer(h))` of rows `h (M, in)`; in evaluation the norm, then linear, goes into the weights."""
    if norm.training:
        return norm(layer(h))
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias + (layer.bias - norm.running_mean) * scale
    return F.linear(h, layer.weight * scale[:, None], bias)


def _head(in_dim: int, hidden: Sequence[int], out_dim: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_dim, width), nn.BatchNorm1d(width), nn.ReLU()]
        in_dim = width
    return nn.Sequential(*layers, nn.Linear(in_dim, out_dim))


def reparameterize(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw z ~ N(mean, exp(log_variance)) so that gradients reach both (Kingma & Welling, 2014, eq. 10).

    Args:
        mean: `(B, F)`.
        log_variance: `(B, F)`, natural log.
        generator: source of the draw.

    Returns:
        z `(B, F)`.
    """
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + noise * (0.5 * log_variance).exp()
