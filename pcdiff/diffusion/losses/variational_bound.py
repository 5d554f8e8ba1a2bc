"""The variational bound: the weighted form of DPM, ADM's with a learned variance, and the whole chain's."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser, NetDenoiser, ReverseKernel
from pcdiff.diffusion.losses.regression import simple
from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.diffusion.samplers.requirements import BETAS, CHAIN, LEARNED_VARIANCE, NET, needs
from pcdiff.errors import InputError, UnknownName


@needs(BETAS)
def elbo(denoiser: Denoiser, x0: Tensor, t: Tensor, noise: Tensor, cond: Any = None) -> Tensor:
    r"""Weighted bound: the KL of one reverse step, in nats a sample, times T (Ho et al., 2020, eq. 12).

    `KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) = beta_t^2 / (2 gamma_t alpha_t (1 - alpha_bar_t))
    ||eps - eps_hat||^2` for t > 1 with gamma_t the posterior variance; at t = 1, where gamma is 0, the step is the
    decoder -log p(x_0 | x_1) with variance beta_1, up to its constant. With t uniform on 1..T the mean over t is
    the sum over the chain (Luo & Hu, 2021, eq. 9, unverified), up to the prior's own KL, which has no parameters.

    Args:
        denoiser: the model, on a `DiscreteProcess`.
        x0: data `(B, *dims)`.
        t: integer times `(B,)` in 1..T.
        noise: standard normal, like `x0`.
        cond: what the net is conditioned on.

    Returns:
        `(B,)`, in nats a sample (summed over `dims`).

    Raises:
        InputError: the process has no betas, or t is not of its steps.
    """
    process = denoiser.process
    _check_steps(process, t)
    beta, alpha_bar, previous = process.betas[t], process.alpha_bars[t], process.alpha_bars[t - 1]
    gamma = torch.where(t > 1, beta * (1 - previous) / (1 - alpha_bar), beta)
    weight = process.num_steps * beta.square() / (2 * gamma * (1 - beta) * (1 - alpha_bar))
    return weight.to(x0.dtype) * simple(denoiser, x0, t, noise, cond) * x0[0].numel()


# Over a sample's numbers: those of its parts add up. `needs` has typed it as a plain callable, without attributes.
vars(elbo)["sums"] = True


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """Return KL(N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2))) in nats, elementwise."""
    ratio = log_variance1 - log_variance2
    return (ratio.exp() - 1 - ratio + (mean1 - mean2).square() * (-log_variance2).exp()) / 2


def normal_cdf(x: Tensor) -> Tensor:
    """Return the standard normal's distribution function, by the tanh formula that ADM uses: off by up to 3e-4."""
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def gaussian_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return log N(x; mean, exp(log_std)^2), elementwise, in nats."""
    return -((x - mean) * (-log_std).exp()).square() / 2 - log_std - math.log(2 * math.pi) / 2


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return the log-probability, elementwise in nats, of 8-bit values under a normal (Ho et al., 2020, eq. 13).

    Args:
        x: values k / 127.5 - 1, k = 0..255.
        mean: of the normal.
        log_std: log of its standard deviation.
    """
    precision = (-log_std).exp()
    upper = normal_cdf(precision * (x - mean + 1 / 255))
    lower = normal_cdf(precision * (x - mean - 1 / 255))
    # the first and last value include everything beyond them; far tails round to 0, hence the floors
    inside = (upper - lower).clamp(min=1e-12).log()
    first, last = upper.clamp(min=1e-12).log(), (1 - lower).clamp(min=1e-12).log()
    return torch.where(x < -0.999, first, torch.where(x > 0.999, last, inside))


DECODERS = {"gaussian": gaussian_log_likelihood, "discretized": discretized_log_likelihood}


def _check_steps(process: Process, t: Tensor) -> None:
    if t.is_floating_point():
        raise InputError(f"t must be integers in 1..{process.num_steps} for the bound, got {t.dtype}")
    process.checked(t)
    process.noisy(t)


def vlb_term(
    process: Process, kernel: ReverseKernel, x0: Tensor, x: Tensor, t: Tensor, decoder: str = "gaussian"
) -> Tensor:
    """Return one term of the bound, `(B,)` in bits a dimension (Nichol & Dhariwal, 2021, eq. 4-7).

    Args:
        process: a chain.
        kernel: the model's p(x_{t-1} | x_t).
        x0: data `(B, *dims)`.
        x: x_t, like `x0`.
        t: integer times `(B,)`; at 1 the term is the decoder's.
        decoder: `"discretized"` for 8-bit images in [-1, 1], `"gaussian"` for the density of anything else.

    Raises:
        InputError: the decoder's name is unknown.
    """
    if decoder not in DECODERS:
        raise UnknownName("decoder", decoder, sorted(DECODERS))
    true_mean = process.posterior(x0, x, t, t - 1)[0]
    true_log_variance = append_dims(process.positive_posterior_variance(t, t - 1).log(), x)
    kl = normal_kl(true_mean, true_log_variance, kernel.mean, kernel.log_variance)
    decoded = -DECODERS[decoder](x0, kernel.mean, kernel.log_variance / 2)
    nats = torch.where(append_dims(t == 1, x) > 0, decoded, kl)
    return nats.flatten(1).mean(dim=1) / math.log(2)


def prior_bits(process: Process, x0: Tensor) -> Tensor:
    """Return KL(q(x_T | x_0) || prior), the bound's first term, `(B,)` in bits a dimension (Ho et al., eq. 5)."""
    t = torch.full((len(x0),), process.num_steps or process.T, device=x0.device)
    mean, std = process.marginal(x0, t)
    prior = torch.tensor(2 * math.log(process.prior_std), device=x0.device, dtype=x0.dtype)
    kl = normal_kl(mean, append_dims(2 * std.log(), x0), torch.zeros_like(mean), prior)
    return kl.flatten(1).mean(dim=1) / math.log(2)


@needs(CHAIN)
def vlb(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    cond: Any = None,
    *,
    decoder: str = "gaussian",
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """One term of the bound times T: over uniform t its mean is the whole bound but for `prior_bits`.

    Args:
        denoiser: the model, on a chain.
        x0: data `(B, *dims)`.
        t: integer times `(B,)` in 1..T.
        noise: standard normal, like `x0`.
        cond: what the net is conditioned on.
        decoder: see `vlb_term`.
        clip: see `Denoiser.reverse_kernel`.

    Returns:
        `(B,)`, in bits a dimension.

    Raises:
        InputError: the process is no chain, t is not of its steps, or a name is unknown.
    """
    process = denoiser.process
    _check_steps(process, t)
    x = process.perturb(x0, t, noise)
    kernel = denoiser.reverse_kernel(x, t, t - 1, cond, clip)
    return vlb_term(process, kernel, x0, x, t, decoder) * process.num_steps


@needs(NET, LEARNED_VARIANCE, CHAIN)
def hybrid(
    denoiser: NetDenoiser,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    cond: Any = None,
    *,
    decoder: str = "gaussian",
    vlb_weight: float = 1e-3,
) -> Tensor:
    """ADM's loss: `regression`, and the bound by which the variance alone learns (Nichol & Dhariwal, 2021, eq. 16).

    The mean's gradient is stopped in the bound.

    Args:
        denoiser: the model, on a chain, with a learned variance.
        x0: data `(B, *dims)`.
        t: integer times `(B,)` in 1..T.
        noise: standard normal, like `x0`.
        cond: what the net is conditioned on.
        decoder: see `vlb_term`.
        vlb_weight: the bound's weight.

    Returns:
        `(B,)`: the mean squared error plus `vlb_weight` times `vlb`.

    Raises:
        InputError: the denoiser has no net that outputs its variance, the process is no chain, t is none of
            its steps, or a name is unknown.
    """
    process = denoiser.process
    _check_steps(process, t)
    x = process.perturb(x0, t, noise)
    out, values = denoiser.output(x, t, cond)
    error = out - denoiser.parametrization.target(process, x0, noise, t)
    kernel = denoiser.kernel_of(out.detach(), values, x, t, t - 1)
    bound = vlb_term(process, kernel, x0, x, t, decoder) * process.num_steps
    return error.square().flatten(1).mean(dim=1) + vlb_weight * bound


class ChainBound(NamedTuple):
    """The bound of a chain and what it is made of; in bits a dimension, so bits/dim of 8-bit images.

    Attributes:
        total: `(B,)`, the terms and the prior added up.
        prior: `(B,)`, see `prior_bits`.
        terms: `(B, T)`, see `vlb_term`: the decoder's first, then steps 2..T.
        x0_error: `(B, T)`, mean squared error of the estimates of x_0.
        eps_error: `(B, T)`, mean squared error of the noise that goes with those estimates.
    """

    total: Tensor
    prior: Tensor
    terms: Tensor
    x0_error: Tensor
    eps_error: Tensor


@torch.no_grad()
def chain_bound(
    denoiser: Denoiser,
    x0: Tensor,
    cond: Any = None,
    *,
    decoder: str = "gaussian",
    clip: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
    noise: Callable[[Tensor], Tensor] | None = None,
) -> ChainBound:
    """Return the whole bound on -log p(x_0), one draw of x_t for every step (Ho et al., 2020, eq. 5; ADM's bpd).

    It evaluates the net T times.

    Args:
        denoiser: the model, on a chain, in evaluation mode.
        x0: data `(B, *dims)`.
        cond: what the net is conditioned on.
        decoder: see `vlb_term`: `"discretized"` for 8-bit images in [-1, 1]. With `"gaussian"`, `math.log(2)` times
            the result is nats a dimension, the measure for clouds.
        clip: see `Denoiser.reverse_kernel`.
        generator: source of the noise, drawn from step T down to 1.
        noise: overrides the draws: maps x_0 to a standard normal like it.

    Raises:
        InputError: the process is no chain, x0 is not of real numbers, or the decoder's name is unknown.

    Example:
        >>> chain_bound(denoiser, images, decoder="discretized", clip=(-1, 1)).total  # (B,) bits/dim
    """
    process = denoiser.process
    if not CHAIN.met(denoiser):
        raise InputError(f"the bound needs {CHAIN.what}, got {CHAIN.found(denoiser)}")
    if not x0.is_floating_point():
        raise InputError(f"x0 must be (B, *dims) real numbers, got {tuple(x0.shape)} {x0.dtype}")
    terms, x0_error, eps_error = (x0.new_empty(len(x0), process.num_steps) for _ in range(3))
    for step in range(process.num_steps, 0, -1):
        t = torch.full((len(x0),), step, device=x0.device)
        if noise is None:
            eps = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
        else:
            eps = noise(x0)
        x = process.perturb(x0, t, eps)
        kernel = denoiser.reverse_kernel(x, t, t - 1, cond, clip)
        alpha, sigma = (append_dims(scale, x) for scale in process.scales(t))
        estimated = (x - alpha * kernel.x0) / sigma
        terms[:, step - 1] = vlb_term(process, kernel, x0, x, t, decoder)
        x0_error[:, step - 1] = (kernel.x0 - x0).square().flatten(1).mean(dim=1)
        eps_error[:, step - 1] = (estimated - eps).square().flatten(1).mean(dim=1)
    prior = prior_bits(process, x0)
    return ChainBound(terms.sum(dim=1) + prior, prior, terms, x0_error, eps_error)
