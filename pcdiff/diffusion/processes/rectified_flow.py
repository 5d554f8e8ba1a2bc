"""Rectified flow, the straight path of flow matching."""

import torch
from torch import Tensor

from pcdiff.diffusion.processes.base import Process


class RectifiedFlow(Process):
    r"""Straight lines from data to noise: `x_t = (1 - t) x_0 + t eps` (Liu et al., 2023, eq. 1).

    It is the optimal-transport path of Lipman et al. (2023), section 4.1. Those papers put the data at t = 1; here,
    as in every process, it is at t = 0. As an SDE, `f = -1 / (1 - t)` and `g^2 = 2 t / (1 - t)`, both infinite at
    t = 1; `velocity` is finite everywhere.

    Args:
        num_scales: N that it is discretized to.

    Raises:
        InputError: `num_scales` is not positive.

    Example:
        >>> RectifiedFlow().velocity(x0, eps, t)  # eps - x0
    """

    T = 1.0
    sample_eps = 1e-5

    def __init__(self, num_scales: int = 1000):
        super().__init__()
        self.num_scales = self._steps(num_scales)

    def alpha(self, t: Tensor) -> Tensor:
        """Return `1 - t` `(B,)`."""
        return 1 - self.checked(t).double()

    def sigma(self, t: Tensor) -> Tensor:
        """Return t `(B,)`."""
        return self.checked(t).double()

    def drift_rate(self, t: Tensor) -> Tensor:
        """Return `-1 / (1 - t)` `(B,)`."""
        return -1 / self.alpha(t)

    def diffusion(self, t: Tensor) -> Tensor:
        """Return `sqrt(2 t / (1 - t))` `(B,)`."""
        return (2 * self.sigma(t) / self.alpha(t)).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        """Return -1 `(B,)`."""
        return -torch.ones_like(self.checked(t), dtype=torch.float64)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """Return 1 `(B,)`."""
        return torch.ones_like(self.checked(t), dtype=torch.float64)

    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return t `(B,)`: `t / (1 - t) = exp(-log_snr / 2)`."""
        return torch.sigmoid(-log_snr.double() / 2)
