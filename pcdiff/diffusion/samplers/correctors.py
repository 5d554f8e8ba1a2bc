"""Correctors: Langevin steps at one noise level. A new one is a class and a line in `CORRECTORS`."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.diffusion.samplers.base import Corrector, Noise, Stateful
from pcdiff.errors import InputError, OutOfRange
from pcdiff.registry import Registry


class LangevinStep(Stateful):
    """Base: `num_steps` steps `x + drift_share a score + sqrt(2 drift_share a) z`; subclasses size a.

    Args:
        num_steps: steps at every noise level.

    Attributes:
        stochastic: whether it draws noise.
        drift_share: share of a that the score is moved by.

    Raises:
        InputError: `num_steps` is not positive.
    """

    stochastic = True
    drift_share = 1.0

    def __init__(self, num_steps: int = 1):
        if num_steps < 1:
            raise OutOfRange("num_steps of a corrector", "at least 1", num_steps)
        self.num_steps = num_steps

    def size(self, process: Process, t: Tensor, score: Tensor, z: Tensor) -> Tensor:
        """Return a `(B,)`."""
        raise NotImplementedError

    def __call__(self, denoiser: Denoiser, x: Tensor, t: Tensor, cond: Any, noise: Noise) -> Tensor:
        """Return x_t after the steps, like `x (B, *dims)`, at times `t (B,)`.

        Raises:
            InputError: samples are too small for this size of steps.
        """
        for _ in range(self.num_steps):
            score = denoiser.score(x, t, cond)
            z = noise(x)
            a = self.drift_share * self.size(denoiser.process, t, score, z)
            x = x + append_dims(a, x) * score + append_dims((2 * a).sqrt(), x) * z
        return x


class Langevin(LangevinStep):
    """Langevin's steps at a signal-to-noise ratio: `a = 2 alpha_t (snr |z| / |score|)^2`.

    Song et al. (2021), algorithms 4-5; alpha_t is that of one of the process's own `num_scales` steps. Where a
    score is 0 and has no ratio, the step is that of `AnnealedLangevin`.

    A step that depends on x and z leaves another law than p_t: of a Gaussian in d numbers, its stationary variance
    is `((d + 2) / d)^2` times the true one as snr goes to 0 (the law is p_t's, at (d + 2) / d times its
    temperature, over a). With the steps in use it is a little more, measured at snr 0.16: 1.62 times at d = 8, 1.09
    at 64, 1.05 at 192. For d = 3 and 4 it is not finite at all, as rare small scores throw samples far, though
    short runs may not show it. For d <= 2 there is no stationary law, and `"ald"`, whose step depends on neither x
    nor z, is the one to take.

    Args:
        snr: the ratio r.
        num_steps: steps at every noise level.
        legacy: take the norms' means over the batch, as score_sde's code does, so that a sample depends on its
            neighbors; by default every sample has its own. In the bias, d is then about the batch's numbers.

    Raises:
        InputError: `snr` or `num_steps` is not positive; in a run, samples (or with `legacy` batches) have fewer
            than 3 numbers.
    """

    def __init__(self, snr: float = 0.16, num_steps: int = 1, legacy: bool = False):
        super().__init__(num_steps)
        self.snr, self.legacy = positive("snr", snr), legacy

    def size(self, process: Process, t: Tensor, score: Tensor, z: Tensor) -> Tensor:
        """Return a `(B,)`.

        Raises:
            InputError: there are fewer than 3 numbers to take a norm of: the step's mean is infinite.
        """
        numbers = score.numel() if self.legacy else score[0].numel()
        if numbers < 3:
            what = "batches" if self.legacy else "samples"
            raise InputError(f"corrector 'langevin' needs {what} of at least 3 numbers, got {numbers}; take 'ald'")
        score_norm, z_norm = (v.flatten(1).norm(dim=1) for v in (score, z))
        if self.legacy:
            score_norm, z_norm = score_norm.mean(), z_norm.mean()
        ratio = torch.where(score_norm > 0, z_norm / score_norm, process.sigma(t).to(score_norm.dtype))
        return 2 * process.step_alpha(t) * (self.snr * ratio).square()


class AnnealedLangevin(Langevin):
    """Langevin's steps sized by the noise level: `a = 2 alpha_t (snr sigma_t)^2` (score_sde's `ald`).

    Args:
        snr: step's length over the noise level.
        num_steps: steps at every noise level.
    """

    def __init__(self, snr: float = 0.1, num_steps: int = 1):
        super().__init__(snr, num_steps)

    def size(self, process: Process, t: Tensor, score: Tensor, z: Tensor) -> Tensor:
        """Return a `(B,)`."""
        return 2 * process.step_alpha(t) * (self.snr * process.sigma(t)).square()


class NCSNv2(LangevinStep):
    """Annealed Langevin dynamics: `x + a_i score + sqrt(2 a_i) z`, `a_i = step_size sigma_i^2 / sigma_L^2`.

    Song & Ermon (2020, arXiv 2006.09011), algorithm 1; sigma_L is the smallest level of the run. Sample with the
    predictor `"none"`, whose `denoise=True` is the paper's last denoising step.

    Args:
        step_size: the paper's epsilon.
        num_steps: the paper's T, steps at every level.

    Raises:
        InputError: `step_size` or `num_steps` is not positive.
    """

    def __init__(self, step_size: float, num_steps: int = 5):
        super().__init__(num_steps)
        self.step_size = positive("step_size", step_size)

    def plan(self, process: Process, times: Tensor) -> None:
        """Find the smallest level.

        Raises:
            InputError: the process does not explode, or its smallest level is too small for the step: where data
                lie closer than that level, a step of 2 sigma_L^2 or more goes further past them than it began.
        """
        name = f"corrector {type(self).__name__.lower()!r}"
        if not process.exploding:
            kinds = "an exploding process, such as ve, ncsn or edm"
            raise InputError(f"{name} needs {kinds}, got {type(process).__name__}; take 'ald'")
        self.smallest = process.sigma(times[:-1]).min()
        most = 2 * float(self.smallest) ** 2 / self.drift_share
        if not self.step_size < most:
            raise InputError(
                f"step_size of {name} must be below {most:.3g}, or its steps diverge at the smallest noise level, "
                f"{float(self.smallest):.3g}; got {self.step_size:g}"
            )
        self.left = self._left(process, times)

    def _left(self, process: Process, times: Tensor) -> float:
        """Return the noise of x about data at one point, over the smallest level, where nothing else moves x.

        A step is x (1 - c) and noise of variance 2 c sigma^2, c alike at all levels. It is near 1 where steps and
        levels suit each other (Song & Ermon, 2020, technique 4).
        """
        c = self.drift_share * self.step_size / float(self.smallest) ** 2
        kept, variance = (1 - c) ** (2 * self.num_steps), process.prior_std**2
        for sigma in process.sigma(times[:-1]).tolist():
            variance = kept * variance + (1 - kept) * sigma**2 / (1 - c / 2)
        return math.sqrt(variance) / float(self.smallest)

    def size(self, process: Process, t: Tensor, score: Tensor, z: Tensor) -> Tensor:
        """Return a `(B,)`."""
        return self.step_size * (process.sigma(t) / self.smallest).square()


class NCSN(NCSNv2):
    """Annealed Langevin dynamics of the first paper: `x + a_i / 2 score + sqrt(a_i) z`.

    Song & Ermon (2019, arXiv 1907.05600), algorithm 1: half the step of `NCSNv2` at the same step_size. That
    paper's code takes NCSNv2's form.

    Args:
        step_size: the paper's epsilon.
        num_steps: the paper's T, steps at every level.
    """

    drift_share = 0.5

    def __init__(self, step_size: float = 2e-5, num_steps: int = 100):
        super().__init__(step_size, num_steps)


def positive(name: str, value: float) -> float:
    """Return a setting as it is, or refuse it.

    Raises:
        InputError: it is not above 0.
    """
    if not value > 0:  # nan too
        raise OutOfRange(name, "positive", value)
    return value


CORRECTORS: Registry[Callable[..., Corrector]] = Registry(
    "corrector",
    {
        "langevin": Langevin,
        "ald": AnnealedLangevin,
        "ncsn": NCSN,
        "ncsnv2": NCSNv2,
    },
)


def corrector(name: str, **options: Any) -> Corrector:
    """Return a corrector by name, its options bound.

    Raises:
        InputError: the name or an option is unknown (the message lists the known ones), or a value out of range.

    Example:
        >>> sample(denoiser, shape, sampler="reverse_diffusion", corrector=corrector("langevin", snr=0.16))
    """
    return CORRECTORS.build(name, **options)
