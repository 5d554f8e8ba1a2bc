"""Denoisers: the only thing a sampler sees. Whatever the net predicts, out come x_0, eps and the score."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pcdiff.diffusion.process import Process, append_dims
from pcdiff.errors import InputError


class Denoiser(nn.Module):
    """Base: subclasses give `forward` (the estimate of x_0); eps and score follow from the process."""

    def __init__(self, process: Process):
        super().__init__()
        self.process = process

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Estimate x_0, like `x (B, *dims)`, from x_t at times `t (B,)` under the condition `cond`."""
        raise NotImplementedError

    def eps(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Estimate the noise in `x_t = alpha x_0 + sigma eps`, like `x`."""
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        return (x - append_dims(alpha, x) * self(x, t, cond)) / append_dims(sigma, x)

    def score(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Estimate `grad log p_t(x) = -eps / sigma`, like `x` (Song et al., 2021, section 3.3)."""
        return -self.eps(x, t, cond) / append_dims(self.process.sigma(t), x)


TIME_INPUTS: dict[str, Callable[[Process, Tensor], Tensor]] = {
    "beta": lambda process, t: process.beta(t),
    "index": lambda process, t: t.float(),
    "log_snr": lambda process, t: (process.alpha(t) / process.sigma(t)).log() / 2,
}


class EpsDenoiser(Denoiser):
    """A net that predicts the noise (Ho et al., 2020, eq. 11).

    Args:
        net: `net(x, tau, cond) -> eps`, like `x`.
        process: the forward process.
        time_input: what tau is: `"beta"` (beta_t, as DPM feeds its net), `"index"` (t itself), or `"log_snr"`
            (`log(alpha^2 / sigma^2) / 4`, which spreads the chain over a few units, as EDM's c_noise does; beta_t
            hardly varies, so a net learns slowly to tell one beta from the next).

    Raises:
        InputError: unknown `time_input`, or `"beta"` with a process that has no `beta`.
    """

    def __init__(self, net: nn.Module, process: Process, time_input: str = "beta"):
        super().__init__(process)
        known = sorted(name for name in TIME_INPUTS if name != "beta" or hasattr(process, "beta"))
        if time_input not in known:
            raise InputError(f"time_input must be one of {known} for this process, got {time_input!r}")
        self.net = net
        self.time_input = time_input

    def tau(self, t: Tensor) -> Tensor:
        """Return the time values `(B,)` that the net is fed at times `(B,)`."""
        # looked up at every call: a deep copy, such as the moving average, must read its own process
        return TIME_INPUTS[self.time_input](self.process, t)

    def eps(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return the net's noise estimate, like `x`."""
        return self.net(x, self.tau(t), cond)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return `(x - sigma eps) / alpha`, the estimate of x_0, like `x`."""
        eps = self.eps(x, t, cond).to(x.dtype)
        sigma, alpha = self.process.sigma(t), self.process.alpha(t)
        return (x - append_dims(sigma, x) * eps) / append_dims(alpha, x)
