"""The variance-exploding SDE, NCSN's noise levels in continuous time."""

import math

import torch
from torch import Tensor

from pcdiff.diffusion.processes.base import Process
from pcdiff.diffusion.processes.vp import at_step
from pcdiff.errors import InputError


class VE(Process):
    r"""Variance exploding: `sigma(t) = sigma_min (sigma_max / sigma_min)^t`, alpha = 1 (Song et al., 2021, eq. 31).

    Args:
        sigma_min: noise at t = 0.
        sigma_max: noise at t = 1, the prior's standard deviation: about the largest distance in the data
            (Song & Ermon, 2020, technique 1), for point clouds too.
        num_scales: N of the chain it is discretized to.

    Raises:
        InputError: not `0 < sigma_min < sigma_max < inf`, or `num_scales` is not positive.

    Example:
        >>> VE(0.01, 50.0).prior_sample((2, 2048, 3)).std()  # about 50
    """

    T = 1.0
    exploding = True
    sample_eps = 1e-5

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0, num_scales: int = 1000):
        super().__init__()
        if not 0 < sigma_min < sigma_max < math.inf:
            raise InputError(
                f"sigma_min and sigma_max must be 0 < sigma_min < sigma_max < inf, got {sigma_min}, {sigma_max}"
            )
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self.log_ratio = math.log(self.sigma_max / self.sigma_min)
        self.num_scales = self._steps(num_scales)

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1 `(B,)`."""
        return torch.ones_like(self.checked(t), dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        """Return `sigma_min (sigma_max / sigma_min)^t` `(B,)`."""
        return self.sigma_min * (self.checked(t).double() * self.log_ratio).exp()

    def drift_rate(self, t: Tensor) -> Tensor:
        """Return 0 `(B,)`."""
        return torch.zeros_like(self.checked(t), dtype=torch.float64)

    def diffusion(self, t: Tensor) -> Tensor:
        """Return `sigma(t) sqrt(2 log(sigma_max / sigma_min))` `(B,)`."""
        return self.sigma(t) * math.sqrt(2 * self.log_ratio)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """Return `sigma(t) log(sigma_max / sigma_min)` `(B,)`."""
        return self.sigma(t) * self.log_ratio

    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return t `(B,)`: `log sigma = -log_snr / 2` is linear in t."""
        return ((-log_snr.double() / 2 - math.log(self.sigma_min)) / self.log_ratio).clamp(0, self.T)

    def discretize(
        self, x: Tensor, t: Tensor, num_steps: int | None = None, index: int | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return SMLD's step: f = 0, `G = sqrt(sigma_i^2 - sigma_{i-1}^2)`, sigma_{-1} = 0 (Song et al., eq. 8).

        Raises:
            InputError: `num_steps` is below 2: one level is not both sigma_min and sigma_max.
        """
        num_steps = self._steps(num_steps)
        if num_steps == 1:
            raise InputError("num_steps must be at least 2 to cut VE into levels, got 1")
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        variance = torch.linspace(low, high, num_steps, dtype=torch.float64, device=t.device).mul(2).exp()
        steps = torch.diff(variance, prepend=variance.new_zeros(1)).sqrt()
        return torch.zeros_like(x), at_step(steps, self.checked(t), index)
