"""The prior N(0, I): the identity between latent and base, as in a variational autoencoder."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcdiff.flows.base import Flow


@dataclass(frozen=True)
class StandardNormalConfig:
    """The standard normal prior has no options."""


class StandardNormal(Flow):
    """The identity: the latent is the base, w = z ~ N(0, I) (Kingma & Welling, 2014); DPM's `gaussian` model.

    It has nothing that a condition could change.

    Args:
        dim: size F of the latent.

    Example:
        >>> log_p = StandardNormal(8).log_prob(torch.randn(2, 8))  # (2,) in nats
    """

    Config = StandardNormalConfig

    def forward(
        self, z: Tensor, generator: torch.Generator | None = None, cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return `z` itself and a log-determinant of zero, `(B,)`; see `Flow.forward`."""
        self.check("z", z, cond)
        return z, z.new_zeros(len(z))

    def inverse(
        self, w: Tensor, generator: torch.Generator | None = None, cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return `w` itself and a log-determinant of zero, `(B,)`; see `Flow.inverse`."""
        self.check("w", w, cond)
        return w, w.new_zeros(len(w))
