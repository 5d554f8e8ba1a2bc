"""Forward processes: how data turns into noise.

A process is a signal scale alpha(t) and a noise scale sigma(t): `x_t = alpha(t) x_0 + sigma(t) eps`. In the DDPM
papers' symbols alpha(t) is `sqrt(alpha_bar_t)` and sigma(t) is `sqrt(1 - alpha_bar_t)`. Nothing here knows whether
x is a cloud `(B, N, 3)` or an image `(B, C, H, W)`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pcdiff.errors import InputError


def append_dims(v: Tensor, like: Tensor) -> Tensor:
    """Reshape `v (B,)` to `(B, 1, ..., 1)` so that it multiplies `like (B, *dims)`, in `like`'s dtype."""
    return v.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


class Process(nn.Module):
    """Base of all forward processes: `alpha(t)` and `sigma(t)`, and what follows from them alone."""

    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal scale `(B,)` at times `(B,)`."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise scale `(B,)` at times `(B,)`."""
        raise NotImplementedError

    def time_grid(self, num_steps: int | None = None) -> Tensor:
        """Return the decreasing times `(num_steps + 1,)` a sampler visits, from noise to data."""
        raise NotImplementedError

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw from q(x_t | x_0) in closed form (Ho et al., 2020, eq. 4).

        Args:
            x0: data `(B, *dims)`.
            t: times `(B,)`.
            noise: standard normal, like `x0`.

        Returns:
            x_t, like `x0`.
        """
        return append_dims(self.alpha(t), x0) * x0 + append_dims(self.sigma(t), x0) * noise

    def posterior(self, x0: Tensor, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return mean and variances of q(x_s | x_t, x_0) for any s < t (Kingma et al., VDM, 2021, appendix A.2).

        With neighbouring s = t - 1 this is eq. 10-11 of Luo & Hu (2021) and eq. 6-7 of Ho et al. (2020).

        Args:
            x0: data `(B, *dims)`.
            x: x_t, like `x0`.
            t: times `(B,)`.
            s: earlier times `(B,)`.

        Returns:
            The mean like `x0`; the posterior variance `(B,)` (gamma_t in Luo & Hu); the variance `(B,)` of the
            forward kernel q(x_t | x_s) (beta_t), the other common choice for the reverse chain's variance.
        """
        alpha_s, sigma_s, sigma_t = self.alpha(s), self.sigma(s), self.sigma(t)
        alpha_ts = self.alpha(t) / alpha_s
        forward_variance = (sigma_t.square() - (alpha_ts * sigma_s).square()).clamp(min=0)
        x_weight = alpha_ts * sigma_s.square() / sigma_t.square()
        x0_weight = alpha_s * forward_variance / sigma_t.square()
        mean = append_dims(x_weight, x) * x + append_dims(x0_weight, x0) * x0
        return mean, forward_variance * sigma_s.square() / sigma_t.square(), forward_variance


class DiscreteProcess(Process):
    r"""DDPM's chain of T steps with variances beta_1..beta_T (Luo & Hu, 2021, eq. 1-2; Ho et al., 2020, eq. 2).

    Times are integers 0..T: 0 is data, T is (nearly) noise.

    Args:
        betas: `(T,)`, each in (0, 1).

    Raises:
        InputError: not `(T,)`, or a beta outside (0, 1).
    """

    def __init__(self, betas: Tensor):
        super().__init__()
        betas = betas.double()
        if betas.dim() != 1 or len(betas) == 0:
            raise InputError(f"betas must be (T,), got shape {tuple(betas.shape)}")
        if not ((betas > 0) & (betas < 1)).all():
            raise InputError(f"betas must lie in (0, 1), got {float(betas.min()):g} to {float(betas.max()):g}")
        self.num_steps = len(betas)
        # Index 0 stands for the data itself. float64: differences such as 1 - alpha_bar_1 cancel in float32.
        betas = torch.cat([betas.new_zeros(1), betas])
        alpha_bars = torch.cumprod(1 - betas, dim=0)
        self.register_buffer("betas", betas, persistent=False)
        self.register_buffer("alpha_bars", alpha_bars, persistent=False)

    def beta(self, t: Tensor) -> Tensor:
        """Return beta_t `(B,)` at integer times `(B,)`."""
        return self.betas[t]

    def alpha(self, t: Tensor) -> Tensor:
        """Return `sqrt(alpha_bar_t)` `(B,)` at integer times `(B,)`."""
        return self.alpha_bars[t].sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Return `sqrt(1 - alpha_bar_t)` `(B,)` at integer times `(B,)`."""
        return (1 - self.alpha_bars[t]).sqrt()

    def time_grid(self, num_steps: int | None = None) -> Tensor:
        """Return `num_steps + 1` evenly spaced integer times from T down to 0; all of them by default.

        Raises:
            InputError: `num_steps` is not in 1..T.
        """
        num_steps = self.num_steps if num_steps is None else num_steps
        if not 1 <= num_steps <= self.num_steps:
            raise InputError(f"num_steps must be in 1..{self.num_steps} for this chain, got {num_steps}")
        return torch.linspace(self.num_steps, 0, num_steps + 1).round().long().to(self.betas.device)


def linear_betas(num_steps: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """Return betas `(T,)` rising linearly from `beta_1` to `beta_T` (Ho et al., 2020, section 4)."""
    return torch.linspace(beta_1, beta_T, num_steps, dtype=torch.float64)


def cosine_betas(num_steps: int, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """Return betas `(T,)` whose alpha_bar is a squared cosine (Nichol & Dhariwal, 2021, eq. 17)."""
    t = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    alpha_bar = ((t + offset) / (1 + offset) * math.pi / 2).cos().square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "linear": lambda num_steps, beta_1, beta_T: linear_betas(num_steps, beta_1, beta_T),
    "cosine": lambda num_steps, beta_1, beta_T: cosine_betas(num_steps),
}


def discrete_process(schedule: str, num_steps: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> DiscreteProcess:
    """Build a DDPM chain from a schedule's name.

    Args:
        schedule: a key of `SCHEDULES`.
        num_steps: number of steps T.
        beta_1: first variance (linear only).
        beta_T: last variance (linear only).

    Raises:
        InputError: the name is unknown or a value is out of range.
    """
    if schedule not in SCHEDULES:
        raise InputError(f"schedule must be one of {sorted(SCHEDULES)}, got {schedule!r}")
    if num_steps < 1:
        raise InputError(f"num_steps must be at least 1, got {num_steps}")
    return DiscreteProcess(SCHEDULES[schedule](num_steps, beta_1, beta_T))
