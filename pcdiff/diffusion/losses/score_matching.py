"""Score matching: denoising over noise levels, weighted by likelihood, and sliced."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.losses.regression import simple
from pcdiff.errors import InputError


def dsm(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    cond: Any = None,
    *,
    anneal_power: float = 2.0,
    norm: str = "l2",
    reduction: str = "mean",
) -> Tensor:
    """Denoising score matching, `sigma^anneal_power ||score + eps / sigma||^2` (Song & Ermon, 2019, eq. 5-6).

    With the power 2, lambda = sigma^2, it is `simple`: the score's error in units of 1 / sigma. score_sde and NCSN
    report half the sum over `dims`.

    Args:
        denoiser: the model.
        x0: data `(B, *dims)`.
        t: times `(B,)`.
        noise: standard normal, like `x0`.
        cond: what the net is conditioned on.
        anneal_power: the weight's power of sigma.
        norm: `"l2"` or `"l1"`; the weight multiplies the squared, or absolute, error of the noise.
        reduction: `"mean"` or `"sum"` over `dims`.

    Returns:
        `(B,)`.

    Raises:
        InputError: a time has no noise, or a name is unknown.
    """
    # sigma^p ||score + eps / sigma||^2 = sigma^(p - 2) ||eps_hat - eps||^2: nothing large is subtracted
    weight = denoiser.process.noisy(t) ** (anneal_power - 2)
    return weight.to(x0.dtype) * simple(denoiser, x0, t, noise, cond, norm=norm, reduction=reduction)


def likelihood(
    denoiser: Denoiser, x0: Tensor, t: Tensor, noise: Tensor, cond: Any = None, *, reduction: str = "mean"
) -> Tensor:
    """Denoising score matching with lambda = g^2, which bounds the likelihood (Song et al., 2021b, theorem 1).

    "Maximum Likelihood Training of Score-Based Diffusion Models", arXiv 2101.09258. Half its sum over `dims`,
    averaged over t and times T, is the part of the bound that the net can change, in nats. The noise's error weighs
    `g^2 / sigma^2 = -d log SNR / dt`, so times drawn even in log-SNR (`draw_importance_times`) vary it least.
    Arguments and result as for `dsm`.

    Raises:
        InputError: a time has no noise or an infinite g (rectified flow's T), or the name is unknown.
    """
    process = denoiser.process
    weight = (process.finite_diffusion(t) / process.noisy(t)).square()
    return weight.to(x0.dtype) * simple(denoiser, x0, t, noise, cond, reduction=reduction)


def sliced(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    cond: Any = None,
    *,
    generator: torch.Generator | None = None,
    projection: Tensor | None = None,
    variance_reduction: bool = True,
    anneal_power: float = 2.0,
) -> Tensor:
    """Sliced score matching of p_t: `v . grad(v . score) + (v . score)^2 / 2` (Song et al., UAI 2019).

    arXiv 1905.07088, section 3. It uses only x_t, not the noise that was added: the second derivative takes the
    place for it. Its minimum is not 0 but minus half the mean squared score, and it costs one more backward pass.

    Args:
        denoiser: the model; its net must not mix the samples of a batch.
        x0: data `(B, *dims)`.
        t: times `(B,)`.
        noise: standard normal, like `x0`.
        cond: what the net is conditioned on.
        generator: source of the projection v ~ N(0, I).
        projection: v itself, like `x0`.
        variance_reduction: use `||score||^2` for `(v . score)^2`, its mean over v (SSM-VR).
        anneal_power: the weight's power of sigma.

    Returns:
        The mean over `dims`, `(B,)`.

    Raises:
        InputError: `projection` is not like `x0`, or a time has no noise.
    """
    if projection is None:
        projection = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    if projection.shape != x0.shape:
        raise InputError(f"projection must be like x0 {tuple(x0.shape)}, got {tuple(projection.shape)}")
    weight = denoiser.process.noisy(t) ** anneal_power
    training = torch.is_grad_enabled()
    with torch.enable_grad():
        x = denoiser.process.perturb(x0, t, noise)
        # data that are themselves trained, such as an encoder's latents, keep their way back
        x = x if training and x.requires_grad else x.detach().requires_grad_()
        score = denoiser.score(x, t, cond)
        along = (projection * score).flatten(1).sum(dim=1)
        (slope,) = torch.autograd.grad(along.sum(), x, create_graph=training)
    square = score.square().flatten(1).sum(dim=1) if variance_reduction else along.square()
    value = (projection * slope).flatten(1).sum(dim=1) + square / 2
    value = weight.to(x0.dtype) * value / x0[0].numel()
    return value if training else value.detach()


# a net that torch.compile has made has the first only; type checkers know no attributes of functions
sliced.second_derivative = True  # type: ignore[attr-defined] # type checkers know no attributes of functions
