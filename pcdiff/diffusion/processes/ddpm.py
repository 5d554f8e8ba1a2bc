"""DDPM's chain: variances beta_1..beta_T, the schedules that give them, and shorter chains through them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.diffusion.processes.chain import Chain, interpolate, inverse, slope
from pcdiff.errors import InputError, OutOfRange
from pcdiff.registry import Registry


class DiscreteProcess(Chain):
    r"""DDPM's chain of T steps with variances beta_1..beta_T (Ho et al., 2020, eq. 2; Luo & Hu, 2021).

    Times are integers 0..T: 0 is data, T is (nearly) noise. Between integers log alpha is linear and
    `sigma^2 = 1 - alpha^2`, so `g^2 = -2 f` there.

    Args:
        betas: `(T,)`, each in (0, 1).

    Raises:
        InputError: not `(T,)`, or a beta outside (0, 1).

    Example:
        >>> DiscreteProcess(linear_betas(1000)).sigma(torch.tensor([1000]))  # nearly 1
    """

    betas: Tensor
    alpha_bars: Tensor

    def __init__(self, betas: Tensor):
        betas = betas.double()
        if betas.dim() != 1 or len(betas) == 0:
            raise InputError(f"betas must be (T,), got shape {tuple(betas.shape)}")
        if not ((betas > 0) & (betas < 1)).all():
            raise InputError(f"betas must be in (0, 1), got {float(betas.min()):g} to {float(betas.max()):g}")
        super().__init__(len(betas))
        # Index 0 is the data itself. float64: differences such as 1 - alpha_bar_1 cancel in float32.
        betas = torch.cat([betas.new_zeros(1), betas])
        alpha_bars = torch.cumprod(1 - betas, dim=0)
        self.register_buffer("betas", betas, persistent=False)
        self.register_buffer("alpha_bars", alpha_bars, persistent=False)

    def beta(self, t: Tensor) -> Tensor:
        """Return beta_t `(B,)` at times `(B,)`."""
        return interpolate(self.betas, self.checked(t))

    def _alpha_bar(self, t: Tensor) -> Tensor:
        t = self.checked(t)
        return interpolate(self.alpha_bars.log(), t).exp() if t.is_floating_point() else self.alpha_bars[t]

    def alpha(self, t: Tensor) -> Tensor:
        """Return `sqrt(alpha_bar_t)` `(B,)` at times `(B,)`."""
        return self._alpha_bar(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Return `sqrt(1 - alpha_bar_t)` `(B,)` at times `(B,)`."""
        return (1 - self._alpha_bar(t)).sqrt()

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return `sqrt(alpha_bar_t)` and `sqrt(1 - alpha_bar_t)` `(B,)` at times `(B,)`."""
        alpha_bar = self._alpha_bar(t)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def drift_rate(self, t: Tensor) -> Tensor:
        """Return `log(1 - beta_t) / 2` `(B,)`."""
        return slope(self.alpha_bars.log(), self.checked(t)) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        """Return `sqrt(-log(1 - beta_t))` `(B,)`."""
        return (-2 * self.drift_rate(t)).sqrt()

    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return t `(B,)`, fractional: alpha_bar is the logistic function of the log-SNR."""
        return inverse(-self.alpha_bars.log(), softplus(-log_snr.double()))

    def positive_posterior_variance(self, t: Tensor, s: Tensor) -> Tensor:
        """Return the posterior variance `(B,)`, and the one of the step before the last where that is 0.

        So ADM cuts its log-variance off at the step that reaches the data (the code of Nichol & Dhariwal, 2021).
        """
        _, _, variance, forward_variance = self.kernel(t, s)
        if self.num_steps == 1:
            return torch.where(variance > 0, variance, forward_variance)
        second, first = (torch.full_like(t, k) for k in (2, 1))
        return torch.where(variance > 0, variance, self.kernel(second, first)[2])

    def discretize(
        self, x: Tensor, t: Tensor, num_steps: int | None = None, index: int | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return `f = (sqrt(1 - beta_t) - 1) x`, `G = sqrt(beta_t)`: the chain itself (Ho et al., 2020, eq. 2)."""
        self.own_steps(num_steps)
        beta = self.beta(t)
        return append_dims((1 - beta).sqrt() - 1, x) * x, beta.sqrt()

    def step_alpha(self, t: Tensor, num_steps: int | None = None, index: int | Tensor | None = None) -> Tensor:
        """Return `1 - beta_t` `(B,)`."""
        self.own_steps(num_steps)
        return 1 - self.beta(t)

    def respaced(self, times: Tensor) -> "RespacedProcess":
        """Return the shorter chain that visits only `times` (Nichol & Dhariwal, 2021, section 4).

        Args:
            times: integers in 1..T, strictly rising, such as `spaced_times` gives.

        Raises:
            InputError: `times` is not so.
        """
        return RespacedProcess(self, times)


class RespacedProcess(DiscreteProcess):
    r"""A chain through some times of a longer one, with its marginals.

    Its variances are `beta_i = 1 - alpha_bar_i / alpha_bar_{i-1}`. A net trained on the longer
    chain is asked there (`trained_at`) (Nichol & Dhariwal, 2021, eq. 19).

    Args:
        parent: the longer chain.
        times: integers in 1..T of the parent, strictly rising.

    Raises:
        InputError: `times` is not so.
    """

    times: Tensor

    def __init__(self, parent: DiscreteProcess, times: Tensor):
        times = torch.as_tensor(times, device=parent.device)
        integers = times.dim() == 1 and len(times) > 0 and not times.is_floating_point()
        if not integers or times[0] < 1 or times[-1] > parent.num_steps or not (times.diff() > 0).all():
            wanted = f"integers in 1..{parent.num_steps}, strictly rising"
            raise InputError(f"times must be {wanted}, got {times.tolist()}")
        alpha_bars = parent.alpha_bars[times]
        super().__init__(1 - alpha_bars / torch.cat([alpha_bars.new_ones(1), alpha_bars[:-1]]))
        self.parent = parent
        self.register_buffer("times", torch.cat([times.new_zeros(1), times]), persistent=False)

    def trained_at(self, t: Tensor) -> tuple[Process, Tensor]:
        """Return the parent and its times."""
        times = self.times.double() if t.is_floating_point() else self.times
        return self.parent, interpolate(times, self.checked(t))


def spaced_times(num_steps: int, spacing: str) -> Tensor:
    """Return the times in 1..T, rising, that a shorter chain visits (ADM's notation of a spacing).

    Args:
        num_steps: T of the longer chain.
        spacing: `"ddim25"`: 25 times at one whole stride from 1 (Song, Meng & Ermon, 2021, DDIM); or counts such as
            `"25"` or `"10,10,5"`: the chain is cut into as many equal parts, each crossed in so many even steps.

    Raises:
        InputError: `spacing` is not of that form, or asks for more times than there are.
    """
    if spacing.startswith("ddim") and spacing[4:].isdecimal():
        count = int(spacing[4:])
        for stride in range(1, num_steps + 1):
            if len(range(0, num_steps, stride)) == count:
                return torch.arange(0, num_steps, stride) + 1
        raise InputError(f"spacing {spacing!r} has no whole stride over {num_steps} steps")
    counts = [int(part) for part in spacing.split(",") if part.strip().isdecimal()]
    if len(counts) != len(spacing.split(",")):
        raise InputError(f"spacing must be like 'ddim25', '25' or '10,10,5', got {spacing!r}")
    times, start = [], 1
    for k, count in enumerate(counts):
        size = num_steps // len(counts) + (k < num_steps % len(counts))
        if not 1 <= count <= size:
            raise InputError(f"spacing {spacing!r} asks for {count} of the {size} steps in part {k + 1}")
        step = (size - 1) / (count - 1) if count > 1 else 1.0
        # ADM adds the stride up: where a time falls on a half, the sum's rounding decides which way it goes
        at = 0.0
        for _ in range(count):
            times.append(start + round(at))
            at += step
        start += size
    return torch.tensor(times)


def linear_betas(num_steps: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """Return betas `(T,)` rising linearly from `beta_1` to `beta_T` (Ho et al., 2020, section 4)."""
    return torch.linspace(beta_1, beta_T, num_steps, dtype=torch.float64)


def cosine_betas(num_steps: int, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """Return betas `(T,)` whose alpha_bar is a squared cosine (Nichol & Dhariwal, 2021, eq. 17)."""
    t = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    alpha_bar = ((t + offset) / (1 + offset) * math.pi / 2).cos().square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


def warm_betas(num_steps: int, beta_1: float = 1e-5, beta_T: float = 0.008, warm: float = 0.1) -> Tensor:
    """Return betas `(T,)` that rise linearly over the first steps, then stay at `beta_T` (PVD's airplanes).

    Args:
        num_steps: T.
        beta_1: first variance.
        beta_T: variance from the end of the rise on.
        warm: share of the steps that it takes, rounded down; a rise of no steps leaves all at `beta_T`.
    """
    rise = int(num_steps * warm)
    return torch.cat([linear_betas(rise, beta_1, beta_T), linear_betas(num_steps - rise, beta_T, beta_T)])


SCHEDULES: Registry[Callable[..., Tensor]] = Registry(
    "schedule",
    {
        "linear": lambda num_steps, beta_1, beta_T, warm=0.1: linear_betas(num_steps, beta_1, beta_T),
        "cosine": lambda num_steps, beta_1, beta_T, warm=0.1: cosine_betas(num_steps),
        "warm": warm_betas,
    },
)


def discrete_process(
    schedule: str, num_steps: int, beta_1: float = 1e-4, beta_T: float = 0.02, warm: float = 0.1
) -> DiscreteProcess:
    """Build a DDPM chain from a schedule's name.

    Args:
        schedule: a key of `SCHEDULES`.
        num_steps: number of steps T.
        beta_1: first variance (linear and warm).
        beta_T: last variance (linear and warm).
        warm: share of the steps over which the variances rise, in (0, 1] (warm only).

    Raises:
        InputError: the name is unknown or a value is out of range.
    """
    betas = SCHEDULES.lookup(schedule)
    if num_steps < 1:
        raise OutOfRange("num_steps", "at least 1", num_steps)
    if not 0 < warm <= 1:
        raise OutOfRange("warm", "in (0, 1]", warm)
    return DiscreteProcess(betas(num_steps, beta_1, beta_T, warm))
