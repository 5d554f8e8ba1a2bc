"""The variance-preserving SDE, DDPM's chain in continuous time."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.errors import InputError


class VP(Process):
    r"""Variance preserving: `dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw` (Song et al., 2021, eq. 11, 32-33).

    `beta(t) = beta_min + t (beta_max - beta_min)` on [0, 1], `alpha^2 = exp(-int_0^t beta)`,
    `sigma^2 = 1 - alpha^2`.

    Args:
        beta_min: rate at t = 0.
        beta_max: rate at t = 1.
        num_scales: N of the chain it is discretized to.

    Raises:
        InputError: not `0 < beta_min <= beta_max < inf`, or `num_scales` is not positive.

    Example:
        >>> VP().perturb(torch.zeros(2, 2048, 3), torch.tensor([0.1, 1.0]), torch.randn(2, 2048, 3))
    """

    T = 1.0

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, num_scales: int = 1000):
        super().__init__()
        if not 0 < beta_min <= beta_max < math.inf:
            wanted = "0 < beta_min <= beta_max < inf"
            raise InputError(f"beta_min and beta_max must be {wanted}, got {beta_min}, {beta_max}")
        self.beta_min, self.beta_max = float(beta_min), float(beta_max)
        self.num_scales = self._steps(num_scales)

    def beta(self, t: Tensor) -> Tensor:
        """Return `beta_min + t (beta_max - beta_min)` `(B,)`."""
        return self.beta_min + self.checked(t).double() * (self.beta_max - self.beta_min)

    def _log_alpha(self, t: Tensor) -> Tensor:
        t = self.checked(t).double()
        return -t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2) / 2

    def alpha(self, t: Tensor) -> Tensor:
        """Return `exp(-int_0^t beta / 2)` `(B,)`."""
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Return `sqrt(1 - alpha^2)` `(B,)`."""
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def drift_rate(self, t: Tensor) -> Tensor:
        """Return `-beta(t) / 2` `(B,)`."""
        return -self.beta(t) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        """Return `sqrt(beta(t))` `(B,)`."""
        return self.beta(t).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        """Return `log(alpha^2 / (1 - alpha^2))` `(B,)`."""
        log_alpha = self._log_alpha(t)
        return 2 * log_alpha - (-torch.expm1(2 * log_alpha)).log()

    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return t `(B,)`: alpha^2 is the logistic function of the log-SNR, and int beta a parabola in t."""
        return self._t_of_integral(softplus(-log_snr.double()))

    def _t_of_integral(self, integral: Tensor) -> Tensor:
        # the parabola's root in the form that does not cancel
        slope = self.beta_max - self.beta_min
        root = 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).sqrt())
        return root.clamp(0, self.T)

    def discretize(
        self, x: Tensor, t: Tensor, num_steps: int | None = None, index: int | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return DDPM's step: `f = (sqrt(1 - beta_i) - 1) x`, `G = sqrt(beta_i)` (Song et al., 2021, eq. 10).

        Raises:
            InputError: `num_steps` is not above beta_max, where beta_i would pass 1.
        """
        beta = self._step_beta(t, num_steps, index)
        return append_dims((1 - beta).sqrt() - 1, x) * x, beta.sqrt()

    def step_alpha(self, t: Tensor, num_steps: int | None = None, index: int | Tensor | None = None) -> Tensor:
        """Return `1 - beta_i` `(B,)`, of sub-VP too, whose drift is the same.

        Raises:
            InputError: `num_steps` is not above beta_max, where beta_i would pass 1.
        """
        return 1 - self._step_beta(t, num_steps, index)

    def _step_beta(self, t: Tensor, num_steps: int | None, index: int | Tensor | None) -> Tensor:
        num_steps = self._steps(num_steps)
        if num_steps <= self.beta_max:
            raise InputError(f"num_steps must be above beta_max {self.beta_max:g} for this chain, got {num_steps}")
        low, high = self.beta_min / num_steps, self.beta_max / num_steps
        table = torch.linspace(low, high, num_steps, dtype=torch.float64, device=t.device)
        return at_step(table, self.checked(t), index)


def at_step(table: Tensor, t: Tensor, index: int | Tensor | None) -> Tensor:
    """Return a table's values `(B,)` at steps `index` from 0, or at times `t (B,)` in [0, 1]; see `VP`.

    By time it is cut off: score_sde's N times lie above whole numbers by less than one where N < 1 / eps.
    """
    if index is None:
        index = (t * (len(table) - 1)).long()
    return table[torch.as_tensor(index, device=t.device).expand(len(t))]
