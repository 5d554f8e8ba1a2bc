"""Affine coupling flow: the prior of the shape latent in generation (Dinh et al., Real NVP, ICLR 2017)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pcdiff.errors import OutOfRange
from pcdiff.flows.base import Flow


class AffineCoupling(nn.Module):
    r"""One coupling layer: scale and shift half of the vector, driven by the other half.

    With the driven part a and the driver b: `a' = a * sigmoid(s(b) + 2) + m(b)`, `b' = b`. The Jacobian is
    triangular, so its log-determinant is the sum of `log sigmoid(s(b) + 2)` (Real NVP, eq. 6). The scale lies in
    (0, 1) and starts near `sigmoid(2)`, which keeps the inverse well conditioned.

    Args:
        dim: size of the vector. Of an odd size the first half is the larger one, whichever is driven, so that two
            layers that swap drive every coordinate.
        hidden_dim: width of the two hidden layers.
        swap: drive the first half by the second; by default the second by the first.
        cond_dim: size of a condition that drives too; 0 for none.
    """

    def __init__(self, dim: int, hidden_dim: int = 256, swap: bool = False, cond_dim: int = 0):
        super().__init__()
        if dim < 2:
            raise OutOfRange("dim", "at least 2 for a coupling layer", dim)
        self.dim = dim
        self.swap = swap
        self.driven = dim - dim // 2 if swap else dim // 2
        self.net = nn.Sequential(
            nn.Linear(dim - self.driven + cond_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 2 * self.driven),
        )

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.swap:
            driven, driver = z.split([self.driven, self.dim - self.driven], dim=1)
        else:
            driver, driven = z.split([self.dim - self.driven, self.driven], dim=1)
        return driven, driver

    def _join(self, driven: Tensor, driver: Tensor) -> Tensor:
        return torch.cat([driven, driver] if self.swap else [driver, driven], dim=1)

    def _scale_shift(self, driver: Tensor, cond: Tensor | None) -> tuple[Tensor, Tensor]:
        inputs = driver if cond is None else torch.cat([driver, cond], dim=1)
        raw_scale, shift = self.net(inputs).chunk(2, dim=1)
        return nn.functional.logsigmoid(raw_scale + 2.0), shift

    def forward(self, z: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map `z (B, F)` toward the base; return it and the log-determinant `(B,)`."""
        driven, driver = self._split(z)
        log_scale, shift = self._scale_shift(driver, cond)
        return self._join(driven * log_scale.exp() + shift, driver), log_scale.sum(dim=1)

    def inverse(self, w: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map `w (B, F)` back; return it and the inverse's log-determinant `(B,)`."""
        driven, driver = self._split(w)
        log_scale, shift = self._scale_shift(driver, cond)
        return self._join((driven - shift) * (-log_scale).exp(), driver), -log_scale.sum(dim=1)


@dataclass(frozen=True)
class CouplingConfig:
    """Sizes of the coupling flow; the defaults are the paper's."""

    depth: int = 14
    """Coupling layers of the flow prior (layers)."""
    hidden_dim: int = 256
    """Hidden width of a coupling layer."""

    RANGES: ClassVar[dict[str, str]] = {"at least 1": "depth hidden_dim"}


class CouplingFlow(Flow):
    r"""Stack of affine coupling layers between the latent z and w ~ N(0, I) (Luo & Hu, CVPR 2021, section 4.1).

    `log p(z) = log N(w; 0, I) + log |det dw/dz|` with `w = flow(z)`.

    Args:
        dim: size F of the latent.
        depth: number of coupling layers; the halves swap at every layer.
        hidden_dim: width of a layer's hidden layers.
        cond_dim: size of a condition c of p(z | c), an input of every layer's network (Ardizzone et al., 2019,
            arXiv 1907.02392); 0 for none.

    Example:
        >>> flow = CouplingFlow(8, depth=4)
        >>> w, log_det = flow(torch.randn(2, 8))
        >>> z, _ = flow.inverse(w)
    """

    Config = CouplingConfig
    conditional = True

    def __init__(self, dim: int, depth: int = 14, hidden_dim: int = 256, cond_dim: int = 0):
        super().__init__(dim, cond_dim)
        self.layers = nn.ModuleList(
            AffineCoupling(dim, hidden_dim, swap=i % 2 == 0, cond_dim=cond_dim) for i in range(depth)
        )

    def forward(
        self, z: Tensor, generator: torch.Generator | None = None, cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map latents to the base; see `Flow.forward`. Nothing is drawn."""
        self.check("z", z, cond)
        log_det = z.new_zeros(len(z))
        for layer in self.layers:
            z, layer_log_det = layer(z, cond)
            log_det = log_det + layer_log_det
        return z, log_det

    def inverse(
        self, w: Tensor, generator: torch.Generator | None = None, cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map base vectors to latents; see `Flow.inverse`. Nothing is drawn."""
        self.check("w", w, cond)
        log_det = w.new_zeros(len(w))
        for layer in reversed(self.layers):
            w, layer_log_det = layer.inverse(w, cond)
            log_det = log_det + layer_log_det
        return w, log_det
