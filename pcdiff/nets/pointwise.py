"""The pointwise denoising network: concat-squash layers that see one point and the cloud's context."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.errors import InputError


@dataclass(frozen=True)
class PointwiseConfig:
    """Sizes of the pointwise net; the defaults are the paper's."""

    widths: tuple[int, ...] = (128, 256, 512, 256, 128)
    """Hidden widths of the pointwise denoising net."""
    residual: bool = True
    """Add the denoising net's input to its output."""
    frequencies: int = 0
    """Octaves of sines and cosines fed to the denoising net beside each coordinate; the paper has none."""

    RANGES: ClassVar[dict[str, str]] = {"at least 1": "widths", "at least 0": "frequencies"}


class PointwiseNet(nn.Module):
    r"""Concat-squash MLP applied to every point alike (Luo & Hu, CVPR 2021, section 5.1 and supplement).

    Layer l computes `h = (W h + b) * sigmoid(G c + g) + S c` with the context `c = [tau, sin tau, cos tau, z]`,
    where tau is the time value the denoiser feeds (beta_t in the paper). The gates and shifts of **all** layers
    depend on the cloud alone, so they are two matrix products a cloud, not a point.

    Args:
        cond_dim: size F of the condition, such as the shape latent; 0 for none.
        point_dim: coordinates of a point.
        widths: hidden widths.
        residual: add the input to the output.
        frequencies: sines and cosines of every coordinate fed beside it, at octaves from a quarter period per unit
            up (Tancik et al., 2020); 0, as in the paper, feeds the coordinates alone. A plain MLP learns sharp
            edges slowly; with them it does so within a short run.
    """

    Config = PointwiseConfig
    pointwise = True

    def __init__(
        self,
        cond_dim: int,
        point_dim: int = 3,
        widths: Sequence[int] = (128, 256, 512, 256, 128),
        residual: bool = True,
        frequencies: int = 0,
    ):
        super().__init__()
        self.frequencies = frequencies
        self.cond_dim = cond_dim
        self.point_dim = point_dim
        self.residual = residual
        sizes = [point_dim * (1 + 2 * frequencies), *widths, point_dim]
        self.out_sizes = sizes[1:]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(sizes))
        self.gate = nn.Linear(cond_dim + 3, sum(self.out_sizes))
        self.shift = nn.Linear(cond_dim + 3, sum(self.out_sizes), bias=False)

    def context(self, t: Tensor, cond: Tensor) -> Tensor:
        """Return the context `(B, F + 3)` of times `(B,)` and conditions `(B, F)`."""
        t = t.to(cond.dtype)[:, None]
        return torch.cat([t, t.sin(), t.cos(), cond], dim=1)

    def features(self, x: Tensor) -> Tensor:
        """Return coordinates `(B, N, D)` with their sines and cosines beside them."""
        if self.frequencies == 0:
            return x
        octaves = math.pi / 2 * 2.0 ** torch.arange(self.frequencies, device=x.device, dtype=x.dtype)
        angles = (x.unsqueeze(-1) * octaves).flatten(2)
        return torch.cat([x, angles.sin(), angles.cos()], dim=2)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Predict the noise of every point.

        Args:
            x: noisy clouds `(B, N, point_dim)`, any N.
            t: time values `(B,)`.
            cond: conditions `(B, F)`, such as shape latents; None where F is 0.

        Returns:
            A tensor like `x`.

        Raises:
            InputError: a shape does not fit.
        """
        if x.dim() != 3 or x.shape[2] != self.point_dim:
            raise InputError(f"x must be (B, N, {self.point_dim}), got {tuple(x.shape)}")
        if cond is None and self.cond_dim == 0:
            cond = x.new_zeros(len(x), 0)
        if cond is None or cond.shape != (len(x), self.cond_dim):
            got = None if cond is None else tuple(cond.shape)
            raise InputError(f"cond must be (B, F) = {(len(x), self.cond_dim)}, got {got}")
        context = self.context(t, cond)
        gates = torch.sigmoid(self.gate(context)).split(self.out_sizes, dim=1)
        shifts = self.shift(context).split(self.out_sizes, dim=1)
        h = self.features(x)
        for i, layer in enumerate(self.layers):
            h = concat_squash(h, layer, gates[i], shifts[i])
            if i < len(self.layers) - 1:
                h = F.leaky_relu_(h)
        return x + h if self.residual else h


def concat_squash(h: Tensor, layer: nn.Linear, gate: Tensor, shift: Tensor) -> Tensor:
    """Return `(W h + b) * gate + shift` of features `h (B, N, in)`, gates and shifts `(B, out)`: `(B, N, out)`.

    Where a cloud has at least as many points as the layer has inputs, the gate goes into the cloud's own weights,
    `(gate W) h + (gate b + shift)`, and no point is touched but by the product: forwards and backwards the layer is
    bound by arithmetic, not by memory, and keeps one tensor of the points' size for the gradient, not two.
    """
    if h.shape[1] < layer.in_features:
        return torch.addcmul(shift.unsqueeze(1), layer(h), gate.unsqueeze(1))
    weight = layer.weight * gate.unsqueeze(2)
    bias = torch.addcmul(shift, layer.bias, gate)
    return torch.baddbmm(bias.unsqueeze(1), h, weight.mT)
