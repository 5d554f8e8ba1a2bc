"""EDM's process: time is the noise level itself."""

import math

import torch
from torch import Tensor

from pcdiff.diffusion.processes.base import Process
from pcdiff.errors import InputError


class EDMProcess(Process):
    r"""alpha = 1 and sigma(t) = t (Karras et al., 2022, section 3; table 1, column "ours").

    Args:
        sigma_min: where sampling ends.
        sigma_max: where sampling starts, T; training may draw larger times.
        num_scales: N that it is discretized to.

    Raises:
        InputError: not `0 < sigma_min < sigma_max < inf`, or `num_scales` is not positive.

    Example:
        >>> EDMProcess().sigma(torch.tensor([3.0]))  # 3
    """

    exploding = True
    grid = "edm"
    even_steps = False

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, num_scales: int = 1000):
        super().__init__()
        if not 0 < sigma_min < sigma_max < math.inf:
            raise InputError(
                f"sigma_min and sigma_max must be 0 < sigma_min < sigma_max < inf, got {sigma_min}, {sigma_max}"
            )
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self.T = self.sigma_max
        self.train_eps = self.sample_eps = self.sigma_min
        self.num_scales = self._steps(num_scales)

    @property
    def t_end(self) -> float:
        """Infinity: any noise level is a time."""
        return math.inf

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1 `(B,)`."""
        return torch.ones_like(self.checked(t), dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        """Return t `(B,)`."""
        return self.checked(t).double()

    def drift_rate(self, t: Tensor) -> Tensor:
        """Return 0 `(B,)`."""
        return torch.zeros_like(self.checked(t), dtype=torch.float64)

    def diffusion(self, t: Tensor) -> Tensor:
        """Return `sqrt(2 t)` `(B,)`."""
        return (2 * self.sigma(t)).sqrt()

    def sigma_dot(self, t: Tensor) -> Tensor:
        """Return 1 `(B,)`."""
        return torch.ones_like(self.checked(t), dtype=torch.float64)

    def discretize(
        self, x: Tensor, t: Tensor, num_steps: int | None = None, index: int | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return SMLD's step from the level dt below, `G^2 = t^2 - (t - dt)^2` (Song et al., 2021, eq. 8)."""
        below = (self.sigma(t) - self.last_time() / self._steps(num_steps)).clamp(min=0)
        return torch.zeros_like(x), (self.sigma(t).square() - below.square()).sqrt()

    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return `exp(-log_snr / 2)` `(B,)`."""
        return (-log_snr.double() / 2).exp()
