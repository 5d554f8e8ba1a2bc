"""A chain's denoiser in the continuous noise levels of EDM's process, asked at whole steps alone."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser, clipped
from pcdiff.diffusion.processes.base import append_dims
from pcdiff.diffusion.processes.edm import EDMProcess
from pcdiff.errors import InputError


class WholeSteps(Denoiser):
    """The estimate of x_0 of a chain's denoiser for data plus noise of any level (k-diffusion; point-e's code).

    x of level sigma goes in as `x / sqrt(1 + sigma^2)`, at the whole step whose own level is sigma or the next
    below, beyond the chain's ends at its first or last. The estimate is made as if x stood at that step exactly:
    between two steps it is off, as it is in the code whose samples these are.

    Args:
        denoiser: of a chain whose variances add up to 1.
        sigma_min: smallest noise level of the process.
        sigma_max: largest.
        clip: bounds that the estimate of x_0 is cut to, such as (-1, 1).

    Raises:
        InputError: the denoiser's process is no chain.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sigma_min: float = 0.001,
        sigma_max: float = 120.0,
        clip: tuple[float, float] | None = None,
    ):
        chain = denoiser.process
        if chain.num_steps is None:
            raise InputError(f"whole steps are a chain's, got the process {type(chain).__name__}")
        super().__init__(EDMProcess(sigma_min, sigma_max))
        self.denoiser, self.clip = denoiser, clip
        steps = torch.arange(1, chain.num_steps + 1, device=chain.device)
        # not persistent: it follows from the chain
        self.register_buffer("alpha_bars", chain.alpha(steps).square(), persistent=False)

    def steps(self, sigma: Tensor) -> Tensor:
        """Return the whole steps `(B,)`, 1 to T, of noise levels `(B,)`."""
        alpha_bar = 1 / (1 + sigma.double().square())
        rising = self.alpha_bars.flip(0)
        # how many of the falling table are at least alpha_bar
        count = len(rising) - torch.searchsorted(rising, alpha_bar)
        return count.clamp(1, len(rising))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Estimate x_0, like `x (B, *dims)`, from data plus noise of the levels `t (B,)`."""
        scale = append_dims((1 + t.double().square()).rsqrt(), x)
        return clipped(self.denoiser(scale * x, self.steps(t), cond), self.clip)
