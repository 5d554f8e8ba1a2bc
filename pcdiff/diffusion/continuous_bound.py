"""The variational bound of processes in continuous time, on the likelihood of the reverse SDE."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser, clipped
from pcdiff.diffusion.losses.variational_bound import DECODERS, normal_kl
from pcdiff.diffusion.processes.base import append_dims
from pcdiff.errors import InputError, OutOfRange, UnknownName


class ContinuousBound(NamedTuple):
    """The bound and what it is made of, each `(B,)`; in bits a dimension, so bits/dim of 8-bit images.

    Attributes:
        total: the three terms added up.
        prior: KL(q(x_T | x_0) || prior).
        diffusion: the integral over t.
        decoder: -log p(x_0 | x_eps).
        error: standard error of `diffusion`, from its draws alone.
    """

    total: Tensor
    prior: Tensor
    diffusion: Tensor
    decoder: Tensor
    error: Tensor


def continuous_bound(
    denoiser: Denoiser,
    x0: Tensor,
    cond: Any = None,
    *,
    num_times: int = 32,
    eps: float | None = None,
    decoder: str = "gaussian",
    clip: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
    noise: Callable[[Tensor], Tensor] | None = None,
) -> ContinuousBound:
    r"""Return a bound on -log p(x_0) of the reverse SDE from the prior (Song et al., 2021b, theorem 3).

    "Maximum Likelihood Training of Score-Based Diffusion Models", arXiv 2101.09258; Kingma et al., VDM, 2021,
    section 5, has it in the log-SNR:

        KL(q(x_T | x_0) || prior) + 1/2 int E |eps_hat - eps|^2 d log SNR - E log p(x_0 | x_eps)

    The integral is estimated without bias from times even in log-SNR, one in each of `num_times` equal parts, where
    the integrand varies least, with one draw of x_t each. The decoder is normal about the estimate of x_0, with
    standard deviation sigma / alpha at eps (Song et al., 2021b, appendix B). For an exact score the bound is tight
    but for the decoder's width and the distance of p_T from the prior. It can be differentiated, in the net and in
    x_0, so it serves as a loss too.

    Args:
        denoiser: the model, in evaluation mode, of a process in continuous time.
        x0: data `(B, *dims)`.
        cond: what the net is conditioned on.
        num_times: evaluations for the integral; one more for the decoder.
        eps: the smallest time; the process's `train_eps` by default. Where no signal is left at T (the straight
            path), the prior is at T - eps.
        decoder: `"gaussian"`, the density of data; `"discretized"`, the probability of 8-bit images in [-1, 1].
        clip: bounds that the decoder's estimate of x_0 is cut to.
        generator: source of the times and of the noise.
        noise: overrides the draws of noise: maps x_0 to a standard normal like it.

    Raises:
        InputError: the process is a chain, x0 is not of real numbers, a number is out of range, or the decoder's
            name is unknown.

    Example:
        >>> bound = continuous_bound(denoiser, clouds, z)
        >>> math.log(2) * bound.total  # (B,), nats a dimension
    """
    process = denoiser.process
    if process.num_steps is not None:
        raise InputError(f"{type(process).__name__} is a chain, which has chain_bound")
    if x0.dim() < 2 or not x0.is_floating_point():
        raise InputError(f"x0 must be (B, *dims) real numbers, got {tuple(x0.shape)} {x0.dtype}")
    if num_times < 1:
        raise OutOfRange("num_times", "at least 1", num_times)
    if decoder not in DECODERS:
        raise UnknownName("decoder", decoder, sorted(DECODERS))
    eps = process.train_eps if eps is None else eps
    if not 0 < eps < process.last_time():
        raise InputError(f"eps must be in (0, {process.T:g}) for a bound, got {eps:g}")
    ends = torch.tensor([eps, process.T], dtype=torch.float64, device=process.device)
    if process.alpha(ends)[1] == 0:
        ends[1] -= eps
    high, low = process.log_snr(ends)

    def draw() -> Tensor:
        if noise is not None:
            return noise(x0)
        return torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)

    squares = []
    for k in range(num_times):
        u = torch.rand(len(x0), generator=generator, device=x0.device, dtype=torch.float64)
        t = process.t_of_log_snr(high + (low - high) * (k + u) / num_times).clamp(*ends)
        z = draw()
        error = denoiser.eps(process.perturb(x0, t, z), t, cond) - z
        squares.append(error.double().square().flatten(1).sum(dim=1))
    terms = torch.stack(squares, dim=1) * (high - low) / 2  # (B, num_times)
    first, last = (end.expand(len(x0)) for end in ends)
    x = process.perturb(x0, first, draw())
    estimate = clipped(denoiser(x, first, cond), clip)
    log_std = append_dims(-high / 2, x0)
    decoded = -DECODERS[decoder](x0, estimate, log_std).double().flatten(1).sum(dim=1)
    mean, std = process.marginal(x0, last)
    wide = x0.new_tensor(2 * math.log(process.prior_std))
    prior = normal_kl(mean, append_dims(2 * std.log(), x0), torch.zeros_like(mean), wide)
    prior = prior.double().flatten(1).sum(dim=1)
    bits = 1 / (math.log(2) * x0[0].numel())
    diffusion = terms.mean(dim=1)
    spread = terms.detach().std(dim=1) / math.sqrt(num_times) if num_times > 1 else torch.full_like(prior, math.nan)
    return ContinuousBound(
        (prior + diffusion + decoded) * bits, prior * bits, diffusion * bits, decoded * bits, spread * bits
    )
