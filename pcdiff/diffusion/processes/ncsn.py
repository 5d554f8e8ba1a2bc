"""NCSN's list of noise levels, a variance-exploding chain."""

import torch
from torch import Tensor

from pcdiff.diffusion.processes.chain import Chain, interpolate, inverse, slope
from pcdiff.errors import InputError


class NoiseLevels(Chain):
    r"""L noise levels, alpha = 1 (Song & Ermon, 2019, section 4.1; Song et al., 2021, eq. 8).

    Times are 0..L: 0 is data, t = 1 the smallest level and L the largest; NCSN's own label counts from the largest,
    label = L - t (`time_input="level"`). Between integers sigma^2 is linear.

    Args:
        sigmas: `(L,)`, positive and strictly rising or strictly falling.

    Raises:
        InputError: `sigmas` is not so.

    Example:
        >>> NoiseLevels(geometric_sigmas(1.0, 0.01, 10)).sigma(torch.tensor([10, 1]))  # 1 and 0.01
    """

    exploding = True
    sigmas: Tensor

    def __init__(self, sigmas: Tensor):
        sigmas = torch.as_tensor(sigmas).double()
        if sigmas.dim() != 1 or len(sigmas) == 0:
            raise InputError(f"sigmas must be (L,), got shape {tuple(sigmas.shape)}")
        if sigmas[0] > sigmas[-1]:
            sigmas = sigmas.flip(0)
        if not (sigmas[0] > 0 and (sigmas.diff() > 0).all() and sigmas[-1].isfinite()):
            raise InputError("sigmas must be positive and all rise or all fall, without repeats")
        super().__init__(len(sigmas))
        self.register_buffer("sigmas", torch.cat([sigmas.new_zeros(1), sigmas]), persistent=False)

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1 `(B,)`."""
        return torch.ones_like(self.checked(t), dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        """Return sigma_t `(B,)`."""
        t = self.checked(t)
        return interpolate(self.sigmas.square(), t).sqrt() if t.is_floating_point() else self.sigmas[t]

    def drift_rate(self, t: Tensor) -> Tensor:
        """Return 0 `(B,)`."""
        return torch.zeros_like(self.checked(t), dtype=torch.float64)

    def diffusion(self, t: Tensor) -> Tensor:
        """Return `sqrt(sigma_t^2 - sigma_{t-1}^2)` `(B,)`."""
        return slope(self.sigmas.square(), self.checked(t)).sqrt()

    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return t `(B,)`, fractional: `sigma^2 = exp(-log_snr)`."""
        return inverse(self.sigmas.square(), (-log_snr.double()).exp())

    def discretize(
        self, x: Tensor, t: Tensor, num_steps: int | None = None, index: int | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return SMLD's step: f = 0, `G = sqrt(sigma_t^2 - sigma_{t-1}^2)`; the levels are the steps."""
        self.own_steps(num_steps)
        return torch.zeros_like(x), self.diffusion(t)


def geometric_sigmas(first: float, last: float, num_levels: int) -> Tensor:
    """Return levels `(L,)` in geometric progression (Song & Ermon, 2019, section 4.1).

    Raises:
        InputError: an end is not positive, or there is no level.
    """
    if not (first > 0 and last > 0 and num_levels >= 1):
        raise InputError(f"first, last and num_levels must be positive, got {first}, {last}, {num_levels}")
    start, end = torch.tensor([first, last], dtype=torch.float64).log().tolist()
    return torch.linspace(start, end, num_levels, dtype=torch.float64).exp()
