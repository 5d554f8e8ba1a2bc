"""Training objectives: one number a sample, so that callers weight and log them. Any rank `(B, *dims)`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoiser import Denoiser
from pcdiff.diffusion.discrete import DiscreteProcess
from pcdiff.errors import InputError


def simple(denoiser: Denoiser, x0: Tensor, t: Tensor, noise: Tensor, cond: Any = None) -> Tensor:
    """Mean squared error of the predicted noise (Ho et al., 2020, eq. 14; Luo & Hu, 2021, algorithm 1).

    Args:
        denoiser: the model.
        x0: data `(B, *dims)`.
        t: times `(B,)`.
        noise: standard normal, like `x0`.
        cond: what the net is conditioned on.

    Returns:
        The mean over `dims` of the squared error, `(B,)`.
    """
    eps = denoiser.eps(denoiser.process.perturb(x0, t, noise), t, cond)
    return (eps.to(noise.dtype) - noise).square().flatten(1).mean(dim=1)


def elbo(denoiser: Denoiser, x0: Tensor, t: Tensor, noise: Tensor, cond: Any = None) -> Tensor:
    r"""Weighted bound: the KL of one reverse step, in nats a sample, times T (Ho et al., 2020, eq. 12).

    `KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) = beta_t^2 / (2 gamma_t alpha_t (1 - alpha_bar_t))
    ||eps - eps_hat||^2` for t > 1 with gamma_t the posterior variance; at t = 1, where gamma is 0, the step is the
    decoder -log p(x_0 | x_1) with variance beta_1, up to its constant. With t uniform on 1..T the mean over t is
    the sum over the chain (Luo & Hu, 2021, eq. 9), up to the prior's own KL, which has no parameters.

    Args:
        denoiser: the model, on a `DiscreteProcess`.
        x0: data `(B, *dims)`.
        t: integer times `(B,)` in 1..T.
        noise: standard normal, like `x0`.
        cond: what the net is conditioned on.

    Returns:
        `(B,)`, in nats a sample (summed over `dims`).

    Raises:
        InputError: the process has no betas.
    """
    process = denoiser.process
    if not hasattr(process, "betas"):
        raise InputError(f"objective 'elbo' needs a discrete process with betas, got {type(process).__name__}")
    beta, alpha_bar, previous = process.betas[t], process.alpha_bars[t], process.alpha_bars[t - 1]
    gamma = torch.where(t > 1, beta * (1 - previous) / (1 - alpha_bar), beta)
    weight = process.num_steps * beta.square() / (2 * gamma * (1 - beta) * (1 - alpha_bar))
    return weight.to(x0.dtype) * simple(denoiser, x0, t, noise, cond) * x0[0].numel()


OBJECTIVES: dict[str, Callable[..., Tensor]] = {"simple": simple, "elbo": elbo}


def objective(name: str) -> Callable[..., Tensor]:
    """Return an objective by name.

    Raises:
        InputError: the name is unknown; the message lists the known ones.
    """
    if name not in OBJECTIVES:
        raise InputError(f"objective must be one of {sorted(OBJECTIVES)}, got {name!r}")
    return OBJECTIVES[name]


def draw_times(
    process: DiscreteProcess, batch: int, generator: torch.Generator | None = None, stratified: bool = False
) -> Tensor:
    """Draw the training times, uniform on 1..T.

    Args:
        process: the chain.
        batch: number of times.
        generator: source of the draw.
        stratified: one draw in each of `batch` equal parts of the chain, in random order; every time is still
            uniform, but a batch covers the chain evenly, so the loss varies less (compare Kingma et al., VDM,
            2021, appendix I.1, who share one draw).

    Returns:
        Integer times `(batch,)` on the process's device.
    """
    device = process.betas.device
    if not stratified:
        return torch.randint(1, process.num_steps + 1, (batch,), generator=generator, device=device)
    u = torch.rand(batch, generator=generator, device=device)
    order = torch.randperm(batch, generator=generator, device=device)
    # float32 rounding can carry the last stratum's u to exactly 1
    return ((order + u) / batch * process.num_steps).long().clamp(max=process.num_steps - 1) + 1
