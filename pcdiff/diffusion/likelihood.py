"""The probability flow's log-likelihood, for clouds in nats and for 8-bit images in bits a dimension."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.divergence import Probes, check_trace, divergence, trace_probes
from pcdiff.diffusion.processes.base import Process
from pcdiff.diffusion.samplers.ode import METHODS
from pcdiff.errors import InputError, UnknownName
from pcdiff.runtime.call_checks import checked


class Likelihood(NamedTuple):
    """The log-likelihood of data under the probability flow.

    Attributes:
        log_likelihood: `(B,)` in nats a sample, float64.
        z: where the flow carries the data, like x `(B, *dims)` in float64; the prior's by distribution.
        evaluations: how often the denoiser was evaluated.
    """

    log_likelihood: Tensor
    z: Tensor
    evaluations: int


@checked
@torch.no_grad()
def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    cond: Any = None,
    *,
    trace: str = "rademacher",
    num_probes: int = 1,
    probes: Tensor | None = None,
    generator: torch.Generator | None = None,
    eps: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "dopri5",
    max_steps: int = 1000,
) -> Likelihood:
    r"""Return log p(x) under the probability flow (Song et al., 2021, section 4.3 and appendix D.2, eq. 39-40).

    `log p(x) = log p_T(z) + int_eps^T div v(x_t, t) dt` along `dx_t / dt = v(x_t, t)` from `x_eps = x` to
    `x_T = z`. State and integral are float64; the denoiser sees the dtype of `x`. Errors are measured for each
    sample by itself, and the worst decides the step that all take: by that step alone, within the tolerances, a
    sample's result depends on the others in its batch (except by the draw of the probes, in the batch's order).

    A drawn trace gives an unbiased estimate of the log-likelihood, noisy unless the Jacobian is diagonal
    (rademacher). A chain starts at its first noisy state, t = 1, and is integrated over log(sigma / alpha), in
    which its table has no kinks.

    Args:
        denoiser: the model, in evaluation mode.
        x: data `(B, *dims)`.
        cond: what the net is conditioned on.
        trace: how the divergence is taken: `"rademacher"`, `"gaussian"`, `"exact"` (small `dims`), or
            `"pointwise"` (exact for nets that move every point of a cloud by itself, such as `PointwiseNet`).
        num_probes: probes drawn for each sample; they stay the same along the path.
        probes: the probes themselves, like `x` or `(K, B, *dims)`, in place of the draw.
        generator: source of the probes.
        eps: the time of the data; the process's `train_eps` by default, 1 of a chain.
        rtol: relative tolerance of the solver.
        atol: absolute tolerance of the solver, of coordinates and of the log-density in nats a dimension.
        method: an adaptive solver of `torchdiffeq`, one of `pcdiff.diffusion.samplers.ode.METHODS`.
        max_steps: steps after which the solver gives up, as with a net whose dropout is on.

    Raises:
        InputError: `x` is no batch of real numbers, `trace` does not fit it, `eps` or a tolerance is out of range,
            the chain has one step, or the denoiser's values are not finite or too rough for the tolerances.

    Example:
        >>> result = log_likelihood(denoiser, clouds, z, trace="pointwise")  # clouds (B, 2048, 3)
        >>> nats_per_dim(result.log_likelihood, clouds.shape[1:])  # (B,)
    """
    if x.dim() < 2 or x.numel() == 0 or not x.is_floating_point() or not x.isfinite().all():
        raise InputError(f"x must be (B, *dims) finite real numbers, got {tuple(x.shape)} {x.dtype}")
    if not (rtol > 0 and atol > 0):
        raise InputError(f"rtol and atol must be positive, got {rtol} and {atol}")
    if method not in METHODS:
        raise UnknownName("method", method, sorted(METHODS))
    clock = _Clock(denoiser.process, eps)
    traced = _probes(x, trace, num_probes, probes, generator)
    size, evaluations = x[0].numel(), 0
    if trace == "pointwise":
        _check_pointwise(denoiser, x, clock.time(clock.span[0], x), cond)
        evaluations = 1

    def slope(u: Tensor, state: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        t = clock.time(u, x)
        here = state[:, :size].view_as(x).to(x.dtype)
        velocity, spread = divergence(lambda v: denoiser.velocity(v, t, cond), here, traced)
        both = torch.cat([velocity.flatten(1).double(), spread.double()[:, None] / size], dim=1) * clock.rate(t)
        if not both.isfinite().all():
            raise InputError(
                f"{type(denoiser).__name__} must give finite values, got others at t = {float(t[0]):g}"
            )
        return both

    def norm(error: Tensor) -> Tensor:
        # of the worst sample: neither its coordinates nor its density may hide among others
        return torch.maximum(error[:, :size].square().mean(dim=1).sqrt().max(), error[:, size].abs().max())

    start = torch.cat([x.flatten(1).double(), x.new_zeros(len(x), 1, dtype=torch.float64)], dim=1)
    # without step_t the solver would step past T and interpolate
    options = {"norm": norm, "step_t": clock.span[1:], "max_num_steps": max_steps}
    # here, since it brings SciPy's integrators along, which take half a second of every program's start
    from torchdiffeq import odeint

    try:
        end = odeint(slope, start, clock.span, rtol=rtol, atol=atol, method=method, options=options)[-1]
    except AssertionError as error:
        name = type(denoiser).__name__
        raise InputError(f"the probability flow of {name} is too rough for rtol {rtol:g}: {error}") from error
    z = end[:, :size].reshape(x.shape)
    return Likelihood(denoiser.process.log_prior(z) + size * end[:, size], z, evaluations)


class _Clock:
    """The variable u that the flow is integrated over: t, or log(sigma / alpha) where t is a chain's."""

    def __init__(self, process: Process, eps: float | None):
        self.process = process
        self.chain = process.num_steps is not None
        if eps is None:
            eps = 1.0 if self.chain else process.train_eps
            if eps == process.T:
                raise InputError("a chain of one step has no flow from its first noisy state on: take chain_bound")
        if not 0 < eps < process.last_time():
            raise InputError(f"eps must be in (0, {process.T:g}) for a likelihood, got {eps:g}")
        self.ends = torch.tensor([eps, process.T], dtype=torch.float64, device=process.device)
        self.span = -process.log_snr(self.ends) / 2 if self.chain else self.ends

    def time(self, u: Tensor, like: Tensor) -> Tensor:
        """Return the times `(B,)` at u."""
        t = self.process.t_of_log_snr(-2 * u[None]) if self.chain else u[None]
        return t.clamp(*self.ends).expand(len(like))

    def rate(self, t: Tensor) -> Tensor:
        """Return dt/du, a scalar, at times `(B,)`."""
        if not self.chain:
            return t.new_ones(())
        (alpha, sigma), t = self.process.scales(t[:1]), t[:1]
        return 1 / (self.process.sigma_dot(t) / sigma - self.process.alpha_dot(t) / alpha)


def _probes(x: Tensor, trace: str, num_probes: int, given: Tensor | None, generator: Any) -> Probes:
    if given is None:
        return trace_probes(trace, x, num_probes, generator)
    if trace in ("exact", "pointwise"):
        raise InputError(f"probes go with an estimated trace, 'rademacher' or 'gaussian', got {trace!r}")
    check_trace(trace, x.shape[1:], num_probes)
    if given.shape[-x.dim() :] != x.shape or given.dim() - x.dim() not in (0, 1):
        raise InputError(f"probes must be like x {tuple(x.shape)}, or K of them, got {tuple(given.shape)}")
    vectors = given.to(x).view(-1, *x.shape)
    return Probes(vectors, 1 / len(vectors))


def _check_pointwise(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Any) -> None:
    """Refuse a denoiser under which every second point depends on the others: its trace needs all unit vectors."""
    with torch.enable_grad():
        given = x.detach().requires_grad_()
        even = denoiser.velocity(given, t, cond)[:, ::2]
        (gradient,) = torch.autograd.grad(even.square().sum(), given)
    if gradient[:, 1::2].any():
        raise InputError("trace 'pointwise' needs a net that moves every point by itself; take 'rademacher' here")


def nats_per_dim(log_likelihood: Tensor, dims: Sequence[int]) -> Tensor:
    """Return the negative log-likelihood `(B,)` in nats a dimension, the measure for clouds; lower is better.

    Args:
        log_likelihood: `(B,)` in nats a sample.
        dims: dimensions of a sample, such as `x.shape[1:]`.
    """
    return -log_likelihood / math.prod(dims)


@checked
def bits_per_dim(
    log_likelihood: Tensor, dims: Sequence[int], data_range: tuple[float, float] = (-1.0, 1.0)
) -> Tensor:
    r"""Return the negative log-likelihood `(B,)` of dequantized 8-bit data in bits a dimension; lower is better.

    `-log2 p(x) / D + 8 - log2(high - low)`: the density is that of values stretched to [0, 256], of which the 256
    unit cells are the 8-bit values (Theis et al., 2016, section 3.1); the offset is 7 for data in [-1, 1] and 8 in
    [0, 1]. It means nothing for clouds, whose coordinates have no such cells: take `nats_per_dim`.

    Args:
        log_likelihood: `(B,)` in nats a sample.
        dims: dimensions of a sample, such as `x.shape[1:]`.
        data_range: where the 256 values were put before noise of one cell was added.

    Raises:
        InputError: the range is empty.
    """
    low, high = data_range
    if not low < high:
        raise InputError(f"data_range must be (low, high), low < high, got {data_range}")
    return nats_per_dim(log_likelihood, dims) / math.log(2) + 8 - math.log2(high - low)
