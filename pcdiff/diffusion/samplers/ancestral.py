"""Ancestral sampling: draws from p(x_s | x_t), the reverse Markov chain."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.diffusion.samplers.base import ChainSolver, Noise, Solver
from pcdiff.errors import InputError, OutOfRange


def ancestral_step(
    denoiser: Denoiser,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    cond: Any,
    noise: Noise | None,
    flexibility: float = 0.0,
) -> Tensor:
    """Draw x_s ~ p(x_s | x_t), the reverse Markov chain (Ho et al., 2020, algorithm 2).

    Luo & Hu (2021), eq. 3-4 (numbers unverified).

    Args:
        denoiser: the model.
        x: x_t `(B, *dims)`.
        t: current times `(B,)`.
        s: next times `(B,)`, s < t.
        cond: what the net is conditioned on.
        noise: draws a standard normal like its argument; None returns the mean (the chain's last step).
        flexibility: mixes the chain's standard deviation between the posterior's (0) and the forward kernel's
            (1, the beta_t of DDPM), linearly, as DPM's code does; that code's default is 0.

    Returns:
        x_s, like `x`.
    """
    mean, posterior_variance, forward_variance = denoiser.process.posterior(denoiser(x, t, cond), x, t, s)
    if noise is None:
        return mean
    std = flexibility * forward_variance.sqrt() + (1 - flexibility) * posterior_variance.sqrt()
    return mean + append_dims(std, x) * noise(x)


class Ancestral(Solver):
    """`ancestral_step` at this flexibility.

    Raises:
        InputError: it lies outside [0, 1].
    """

    stochastic = True

    def __init__(self, flexibility: float = 0.0):
        if not 0 <= flexibility <= 1:
            raise OutOfRange("flexibility", "in [0, 1]", flexibility)
        self.flexibility = flexibility

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        return ancestral_step(denoiser, x, t, s, cond, noise, self.flexibility)


def kernel_step(
    denoiser: Denoiser,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    cond: Any,
    noise: Noise | None,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """Draw from the denoiser's own p(x_s | x_t), whose variance may be learned (Nichol & Dhariwal, 2021, eq. 15).

    Args:
        denoiser: the model; `denoiser.variance` names its variance.
        x: x_t `(B, *dims)`.
        t: current times `(B,)`.
        s: next times `(B,)`, s < t.
        cond: what the net is conditioned on.
        noise: draws a standard normal like its argument; None returns the mean.
        clip: bounds that the estimate of x_0 is cut to.

    Returns:
        x_s, like `x`.
    """
    kernel = denoiser.reverse_kernel(x, t, s, cond, clip)
    return kernel.mean if noise is None else kernel.mean + (kernel.log_variance / 2).exp() * noise(x)


class Kernel(Solver):
    """`kernel_step` with these bounds."""

    stochastic = True

    def __init__(self, clip: tuple[float, float] | None = None):
        self.clip = clip

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        return kernel_step(denoiser, x, t, s, cond, noise, self.clip)


class ScoreAncestral(ChainSolver):
    r"""Ancestral sampling by the score, on the chain that VP or VE is cut into.

    `x_{i-1} = (x + G_i^2 score) / sqrt(alpha_i) + std z`, with std = sqrt(beta_i) of VP (Song et al., 2021, eq. 4)
    and `std^2 = G_i^2 sigma_{i-1}^2 / sigma_i^2` of VE (appendix F, eq. 47).
    """

    name = "score_ancestral"

    def plan(self, process: Process, times: Tensor) -> None:
        """Find N and the index of every step.

        Raises:
            InputError: the process has no such chain, or the times are uneven or rise.
        """
        if process.num_steps is not None:
            raise InputError("predictor 'score_ancestral' is for VP and VE; of a chain take 'ancestral'")
        if process.even_steps:
            super().plan(process, times)
            num_steps, index = self.steps[0][0], torch.tensor([index for _, index in self.steps])
            _, step = process.discretize(times[:-1], times[:-1], num_steps, index)
            if process.exploding:
                below = (index - 1).clamp(min=0)
                expected = self._level(process, index).square() - self._level(process, below).square() * (index > 0)
            else:
                expected = 1 - process.step_alpha(times[:-1], num_steps, index)
            if torch.allclose(step.square(), expected):
                return
        raise InputError(
            f"predictor 'score_ancestral' is for VP and VE, got {type(process).__name__}; take 'ancestral'"
        )

    def _level(self, process: Process, index: Tensor) -> Tensor:
        num_steps = self.steps[0][0]
        return process.sigma(index.double() * (process.T / max(num_steps - 1, 1)))

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Any, noise: Noise | None
    ) -> Tensor:
        """Return x_s."""
        process, score = denoiser.process, denoiser.score(x, t, cond)
        num_steps, index = self.next_step()
        variance = process.discretize(x, t, num_steps, index)[1].square()
        mean = x + append_dims(variance, x) * score
        if process.exploding:
            level = self._level(process, torch.full_like(t, index))
            variance = variance * (1 - variance / level.square()).clamp(min=0)
        else:
            mean = mean / append_dims(process.step_alpha(t, num_steps, index).sqrt(), x)
        return mean if noise is None else mean + append_dims(variance.sqrt(), x) * noise(x)
