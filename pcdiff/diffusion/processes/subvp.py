"""The sub-variance-preserving SDE."""

import torch
from torch import Tensor

from pcdiff.diffusion.processes.base import Process
from pcdiff.diffusion.processes.vp import VP


class SubVP(VP):
    r"""Sub-VP: the drift of `VP`, less noise: `sigma = 1 - alpha^2` (Song et al., 2021, eq. 12 and 29).

    `g^2 = beta (1 - exp(-2 int_0^t beta)) = beta (1 - alpha^4)`.

    Args:
        beta_min: rate at t = 0.
        beta_max: rate at t = 1.
        num_scales: N that it is discretized to.

    Example:
        >>> SubVP().sigma(torch.tensor([1.0]))  # nearly 1
    """

    def sigma(self, t: Tensor) -> Tensor:
        """Return `1 - alpha^2` `(B,)`."""
        return -torch.expm1(2 * self._log_alpha(t))

    def diffusion(self, t: Tensor) -> Tensor:
        """Return `sqrt(beta (1 - alpha^4))` `(B,)`."""
        return (self.beta(t) * -torch.expm1(4 * self._log_alpha(t))).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        """Return `log(alpha^2 / (1 - alpha^2)^2)` `(B,)`."""
        log_alpha = self._log_alpha(t)
        return 2 * (log_alpha - (-torch.expm1(2 * log_alpha)).log())

    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return t `(B,)`: with r the SNR, sigma solves `r sigma^2 + sigma = 1`."""
        log_snr = log_snr.double()
        sigma = 2 / (1 + (1 + 4 * log_snr.exp()).sqrt())
        # int beta = -log alpha^2, from whichever form does not cancel
        integral = torch.where(sigma < 0.5, -torch.log1p(-sigma), -log_snr - 2 * sigma.log())
        return self._t_of_integral(integral)

    def discretize(
        self, x: Tensor, t: Tensor, num_steps: int | None = None, index: int | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return Euler-Maruyama's step: no chain of DDPM's kind has these marginals."""
        return Process.discretize(self, x, t, num_steps)
