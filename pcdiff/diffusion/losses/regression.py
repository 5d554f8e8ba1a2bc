"""Objectives that compare an estimate with the truth: of the noise, the data, or the net's own target."""

from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser, NetDenoiser
from pcdiff.diffusion.samplers.requirements import NET, needs
from pcdiff.errors import OutOfRange, UnknownName

NORMS = {"l1": Tensor.abs, "l2": Tensor.square}
REDUCTIONS = {"mean": Tensor.mean, "sum": Tensor.sum}


def reduce_error(error: Tensor, norm: str = "l2", reduction: str = "mean") -> Tensor:
    """Return one number a sample, `(B,)`, of an error `(B, *dims)`.

    Args:
        error: the differences.
        norm: `"l2"` squares them, `"l1"` takes their absolute values.
        reduction: `"mean"` or `"sum"` over `dims`.

    Raises:
        InputError: a name is unknown.
    """
    if norm not in NORMS:
        raise UnknownName("norm", norm, sorted(NORMS))
    if reduction not in REDUCTIONS:
        raise UnknownName("reduction", reduction, sorted(REDUCTIONS))
    return REDUCTIONS[reduction](NORMS[norm](error).flatten(1), dim=1)


def simple(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    cond: Any = None,
    *,
    norm: str = "l2",
    reduction: str = "mean",
) -> Tensor:
    """Mean squared error of the predicted noise (Ho et al., 2020, eq. 14; Luo & Hu, 2021, algorithm 1).

    Args:
        denoiser: the model.
        x0: data `(B, *dims)`.
        t: times `(B,)`.
        noise: standard normal, like `x0`.
        cond: what the net is conditioned on.
        norm: `"l2"`, or `"l1"` for absolute errors (whose optimum is the median, not the score).
        reduction: `"mean"` or `"sum"` over `dims`.

    Returns:
        The mean over `dims` of the squared error, `(B,)`.

    Raises:
        InputError: a name is unknown.
    """
    eps = denoiser.eps(denoiser.process.perturb(x0, t, noise), t, cond)
    return reduce_error(eps.to(noise.dtype) - noise, norm, reduction)


@needs(NET)
def regression(
    denoiser: NetDenoiser,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    cond: Any = None,
    *,
    norm: str = "l2",
    reduction: str = "mean",
) -> Tensor:
    """Error of the net's own output against its own target: noise, data, v, velocity, ..., as ADM's "mse" does.

    For a net that predicts the noise it is `simple`; for EDM's preconditioning it is EDM's weighting (Karras et
    al., 2022, eq. 8). Arguments and result as for `simple`.

    Raises:
        InputError: the denoiser has no net of its own, or a name is unknown.
    """
    out = denoiser.output(denoiser.process.perturb(x0, t, noise), t, cond)[0]
    target = denoiser.parametrization.target(denoiser.process, x0, noise, t)
    return reduce_error(out.to(target.dtype) - target, norm, reduction)


def edm(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    cond: Any = None,
    *,
    sigma_data: float = 0.5,
    norm: str = "l2",
    reduction: str = "mean",
) -> Tensor:
    """Error of x_0, weighted by `(sigma^2 + sigma_data^2) / (sigma sigma_data)^2` (Karras et al., 2022, table 1).

    sigma is the noise level relative to the data, sigma / alpha. With `draw_log_normal_times` this is EDM's loss.

    Args:
        denoiser: the model.
        x0: data `(B, *dims)`.
        t: times `(B,)`.
        noise: standard normal, like `x0`.
        cond: what the net is conditioned on.
        sigma_data: standard deviation of the data.
        norm: `"l2"` or `"l1"`.
        reduction: `"mean"` or `"sum"` over `dims`.

    Returns:
        `(B,)`.

    Raises:
        InputError: `sigma_data` is not positive, a time has no noise, or a name is unknown.
    """
    if not sigma_data > 0:
        raise OutOfRange("sigma_data", "positive", sigma_data)
    process = denoiser.process
    estimate = denoiser(process.perturb(x0, t, noise), t, cond)
    alpha, sigma = process.alpha(t), process.noisy(t)
    # of sigma / alpha, times alpha^2 above and below: finite where alpha is 0
    weight = (sigma.square() + (alpha * sigma_data).square()) / (sigma * sigma_data).square()
    return weight.to(x0.dtype) * reduce_error(estimate.to(x0.dtype) - x0, norm, reduction)


def flow(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    cond: Any = None,
    *,
    norm: str = "l2",
    reduction: str = "mean",
) -> Tensor:
    """Conditional flow matching: error of the velocity (Lipman et al., 2023, eq. 9; Liu et al., 2023, eq. 1).

    With rectified flow the target is eps - x_0. Arguments and result as for `simple`.

    Raises:
        InputError: a name is unknown.
    """
    process = denoiser.process
    velocity = denoiser.velocity(process.perturb(x0, t, noise), t, cond)
    return reduce_error(velocity.to(x0.dtype) - process.velocity(x0, noise, t), norm, reduction)
