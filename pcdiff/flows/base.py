"""What every normalizing flow has: two directions with their log-determinants, and the density they give."""

import math

import torch
from torch import Tensor, nn

from pcdiff.errors import InputError


class Flow(nn.Module):
    """Base: subclasses give `forward` and `inverse` between the latent z and the base w ~ N(0, I).

    `log p(z) = log N(w; 0, I) + log |det dw/dz|` with `w = flow(z)`.

    Args:
        dim: size F of the latent.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def check(self, name: str, v: Tensor) -> None:
        """Refuse what is no batch of vectors of this flow's size.

        Raises:
            InputError: `v` is not `(B, F)`.
        """
        if v.dim() != 2 or v.shape[1] != self.dim:
            raise InputError(f"{name} must be (B, {self.dim}), got {tuple(v.shape)}")

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to the base.

        Args:
            z: `(B, F)`.
            generator: source of the draws of a flow that estimates its log-determinant in training.

        Returns:
            `w (B, F)` and `log |det dw/dz| (B,)`.

        Raises:
            InputError: `z` is not `(B, F)`.
        """
        raise NotImplementedError

    def inverse(self, w: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Map base vectors to latents.

        Args:
            w: `(B, F)`.
            generator: as in `forward`.

        Returns:
            `z (B, F)` and `log |det dz/dw| (B,)`.

        Raises:
            InputError: `w` is not `(B, F)`.
        """
        raise NotImplementedError

    def to_latent(self, w: Tensor) -> Tensor:
        """Map base vectors `(B, F)` to latents alone, where their density is not asked for."""
        return self.inverse(w)[0]

    def to_base(self, z: Tensor) -> Tensor:
        """Map latents `(B, F)` to base vectors alone, where their density is not asked for."""
        return self(z)[0]

    def draw_probes(self, count: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Draw what the log-determinants of `count` latents are estimated with in training, `(count, F)`.

        None where nothing is estimated.
        """
        return None

    def log_prob(self, z: Tensor, generator: torch.Generator | None = None, probes: Tensor | None = None) -> Tensor:
        """Return the log-density `(B,)` in nats of latents `z (B, F)`.

        Args:
            z: latents.
            generator: as in `forward`.
            probes: of `draw_probes`, in place of a draw.
        """
        w, log_det = self(z, generator)
        return standard_normal_log_prob(w) + log_det

    def exact_log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density `(B,)` in nats of latents `z (B, F)` with nothing drawn, in training too."""
        return self.log_prob(z)


def standard_normal_log_prob(w: Tensor) -> Tensor:
    """Return log N(w; 0, I) `(B,)` in nats of vectors `(B, F)`."""
    return -0.5 * (w.square() + math.log(2 * math.pi)).sum(dim=1)
