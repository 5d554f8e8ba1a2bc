"""What every normalizing flow has: two directions with their log-determinants, and the density they give."""

import math

import torch
from torch import Tensor, nn

from pcdiff.errors import InputError


class Flow(nn.Module):
    """Base: subclasses give `forward` and `inverse` between the latent z and the base w ~ N(0, I).

    `log p(z) = log N(w; 0, I) + log |det dw/dz|` with `w = flow(z)`. A flow whose class says `conditional` gives
    p(z | c) of a vector c, such as that of a class: its constructor takes `cond_dim`, and its methods `cond`, the
    vectors `(B, cond_dim)`; the methods of any other are called without it. One that says `guidable` can be drawn
    from with classifier-free guidance, too.

    Args:
        dim: size F of the latent.
        cond_dim: size of c; 0 for none.
    """

    conditional = False
    guidable = False

    def __init__(self, dim: int, cond_dim: int = 0):
        super().__init__()
        self.dim, self.cond_dim = dim, cond_dim

    def check(self, name: str, v: Tensor, cond: Tensor | None = None) -> None:
        """Refuse what is no batch of vectors of this flow's size, or conditions that do not go with it.

        Raises:
            InputError: `v` is not `(B, F)`, or `cond` not `(B, cond_dim)`, None where that is 0.
        """
        if v.dim() != 2 or v.shape[1] != self.dim:
            raise InputError(f"{name} must be (B, {self.dim}), got {tuple(v.shape)}")
        expected = (len(v), self.cond_dim) if self.cond_dim else None
        got = None if cond is None else tuple(cond.shape)
        if got != expected:
            raise InputError(f"cond must be {expected}, got {got}")

    def forward(
        self, z: Tensor, generator: torch.Generator | None = None, cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map latents to the base.

        Args:
            z: `(B, F)`.
            generator: source of the draws of a flow that estimates its log-determinant in training.
            cond: conditions `(B, cond_dim)`, of a flow that takes them.

        Returns:
            `w (B, F)` and `log |det dw/dz| (B,)`.

        Raises:
            InputError: `z` is not `(B, F)`.
        """
        raise NotImplementedError

    def inverse(
        self, w: Tensor, generator: torch.Generator | None = None, cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map base vectors to latents.

        Args:
            w: `(B, F)`.
            generator: as in `forward`.
            cond: as in `forward`.

        Returns:
            `z (B, F)` and `log |det dz/dw| (B,)`.

        Raises:
            InputError: `w` is not `(B, F)`.
        """
        raise NotImplementedError

    def to_latent(self, w: Tensor, cond: Tensor | None = None) -> Tensor:
        """Map base vectors `(B, F)` to latents alone, where their density is not asked for."""
        return self.inverse(w, **given(cond))[0]

    def to_base(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Map latents `(B, F)` to base vectors alone, where their density is not asked for."""
        return self(z, **given(cond))[0]

    def sample(
        self,
        w: Tensor,
        generator: torch.Generator | None = None,
        cond: Tensor | None = None,
        guidance: float = 1.0,
        null: Tensor | None = None,
    ) -> Tensor:
        """Draw latents from base vectors w ~ N(0, I) `(B, F)`: `to_latent`, where a prior has no quicker way.

        Args:
            w: base vectors.
            generator: source of further draws, where some are made.
            cond: as in `forward`.
            guidance: scale of classifier-free guidance, of a `guidable` prior; 1 is none.
            null: the conditions that stand for none `(B, cond_dim)`, where there is guidance.
        """
        return self.to_latent(w, **given(cond))

    def draw_probes(self, count: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Draw what the log-densities of `count` latents are estimated with in training, `(count, ...)`.

        None where nothing is estimated.
        """
        return None

    def log_prob(
        self,
        z: Tensor,
        generator: torch.Generator | None = None,
        probes: Tensor | None = None,
        cond: Tensor | None = None,
    ) -> Tensor:
        """Return the log-density `(B,)` in nats of latents `z (B, F)`.

        Args:
            z: latents.
            generator: as in `forward`.
            probes: of `draw_probes`, in place of a draw.
            cond: as in `forward`.
        """
        w, log_det = self(z, generator, **given(cond))
        return standard_normal_log_prob(w) + log_det

    def exact_log_prob(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return the log-density `(B,)` in nats of latents `z (B, F)` with nothing drawn, in training too."""
        return self.log_prob(z, **given(cond))


def given(cond: Tensor | None) -> dict[str, Tensor]:
    """Return the keyword that a flow's method gets: none where there is no condition, as it may not know it."""
    return {} if cond is None else {"cond": cond}


def standard_normal_log_prob(w: Tensor) -> Tensor:
    """Return log N(w; 0, I) `(B,)` in nats of vectors `(B, F)`."""
    return -0.5 * (w.square() + math.log(2 * math.pi)).sum(dim=1)
