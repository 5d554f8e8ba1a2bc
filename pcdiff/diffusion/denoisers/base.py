"""Denoisers: the only thing a sampler sees. Whatever the net predicts, out come x_0, eps, score and velocity."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from pcdiff.diffusion.denoisers.parametrization import Parametrization, parametrization
from pcdiff.diffusion.denoisers.time_inputs import TIME_INPUTS, check_time_input
from pcdiff.diffusion.denoisers.variance import LEARNED, check_variance, log_variance
from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.errors import InputError


class Estimate(NamedTuple):
    """Both halves of `x_t = alpha x_0 + sigma eps`, each like x `(B, *dims)`."""

    x0: Tensor
    eps: Tensor


class ReverseKernel(NamedTuple):
    """The Gaussian p(x_s | x_t).

    Attributes:
        mean: like x `(B, *dims)`.
        log_variance: `(B, 1, ..., 1)`, or like x where it is learned.
        x0: the estimate of x_0 that the mean was made with.
    """

    mean: Tensor
    log_variance: Tensor
    x0: Tensor


def clipped(x0: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """Return an estimate of x_0 cut to the bounds `clip`, if there are any.

    Raises:
        InputError: the bounds are not (low, high).
    """
    if clip is None:
        return x0
    if len(clip) != 2 or not clip[0] < clip[1]:
        raise InputError(f"clip must be (low, high), low < high, got {tuple(clip)}")
    return x0.clamp(*clip)


class Denoiser(nn.Module):
    """Base: subclasses give `forward` (the estimate of x_0) or `estimate`; the rest follows from the process.

    Attributes:
        process: the forward process.
        variance: kind of the reverse steps' variance, a key of `VARIANCES`.
    """

    variance = "small"

    def __init__(self, process: Process):
        super().__init__()
        self.process = process

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Estimate x_0, like `x (B, *dims)`, from x_t at times `t (B,)` under the condition `cond`."""
        raise NotImplementedError

    def estimate(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        """Estimate x_0 and eps with one evaluation of the net."""
        x0 = self(x, t, cond)
        alpha, sigma = self.process.scales(t)
        return Estimate(x0, (x - append_dims(alpha, x) * x0) / append_dims(sigma, x))

    def eps(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Estimate the noise in `x_t = alpha x_0 + sigma eps`, like `x`."""
        return self.estimate(x, t, cond).eps

    def score(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Estimate `grad log p_t(x) = -eps / sigma`, like `x` (Song et al., 2021, section 3.3)."""
        return -self.eps(x, t, cond) / append_dims(self.process.sigma(t), x)

    def velocity(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Estimate dx/dt of the probability flow, like `x` (Song et al., 2021, eq. 13; see `Process.velocity`)."""
        x0, eps = self.estimate(x, t, cond)
        return self.process.velocity(x0, eps, t)

    def reverse_kernel(
        self, x: Tensor, t: Tensor, s: Tensor, cond: Any = None, clip: tuple[float, float] | None = None
    ) -> ReverseKernel:
        """Return p(x_s | x_t): the posterior q(x_s | x_t, x_0) at the estimated x_0 (Ho et al., 2020, section 3.2).

        Args:
            x: x_t `(B, *dims)`.
            t: times `(B,)`.
            s: earlier times `(B,)`.
            cond: what the net is conditioned on.
            clip: bounds that the estimate of x_0 is cut to, such as (-1, 1) for images.
        """
        return self._kernel(self(x, t, cond), None, x, t, s, clip)

    def _kernel(
        self,
        x0: Tensor,
        values: Tensor | None,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        clip: tuple[float, float] | None,
    ) -> ReverseKernel:
        x0 = clipped(x0, clip)
        mean = self.process.posterior(x0, x, t, s)[0]
        return ReverseKernel(mean, log_variance(self.variance, self.process, values, x, t, s), x0)


class NetDenoiser(Denoiser):
    """A net and what its output means.

    Args:
        net: `net(x, tau, cond) -> out`, like `x`; with a learned variance one of the dimensions is twice as long,
            the first half the prediction and the second the variance's.
        process: the forward process.
        predicts: what the output is, a key of `PARAMETRIZATIONS` or one of them with its options.
        time_input: what tau is, a key of `TIME_INPUTS`.
        variance: the reverse steps' variance, a key of `VARIANCES`.

    Raises:
        InputError: a name is unknown, or does not fit the process.

    Example:
        >>> NetDenoiser(net, VE(0.01, 50.0), "score", "log_sigma").eps(x, t)
        >>> NetDenoiser(net, EDMProcess(), parametrization("edm", sigma_data=0.5), "edm")(x, t)
    """

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        predicts: str | Parametrization = "eps",
        time_input: str = "log_snr",
        variance: str = "small",
    ):
        super().__init__(process)
        check_time_input(time_input, process, net)
        check_variance(variance)
        self.parametrization = parametrization(predicts) if isinstance(predicts, str) else predicts
        if not self.parametrization.fits(process):
            name = predicts if isinstance(predicts, str) else type(predicts).__name__.lower()
            raise InputError(f"predicts {name!r} does not fit the process {type(process).__name__}")
        self.net = net
        self.time_input = time_input
        self.variance = variance

    def tau(self, t: Tensor) -> Tensor:
        """Return the time values `(B,)` that the net is fed at times `(B,)`."""
        # looked up at every call: a deep copy, such as the moving average, must read its own process
        return TIME_INPUTS[self.time_input].label(*self.process.trained_at(t))

    def output(self, x: Tensor, t: Tensor, cond: Any = None) -> tuple[Tensor, Tensor | None]:
        """Return the net's prediction, like `x`, and its output for the variance, like `x` or None.

        Raises:
            InputError: the output's shape is not that of `x`, nor (with a learned variance) twice that.
        """
        out = self.net(self.parametrization.net_input(self.process, x, t), self.tau(t), cond).to(x.dtype)
        values = None
        if self.variance in LEARNED:
            doubled = [k for k in range(1, x.dim()) if out.dim() == x.dim() and out.shape[k] == 2 * x.shape[k]]
            if len(doubled) != 1:
                shapes = f"{tuple(out.shape)} for x {tuple(x.shape)}"
                raise InputError(f"a net with a learned variance must double one dimension, got {shapes}")
            out, values = out.chunk(2, dim=doubled[0])
        if out.shape != x.shape:
            raise InputError(f"the net's output must be like x {tuple(x.shape)}, got {tuple(out.shape)}")
        return out, values

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return the estimate of x_0, like `x`."""
        return self.parametrization.x0(self.process, self.output(x, t, cond)[0], x, t)

    def estimate(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        """Return the estimates of x_0 and eps, each like `x`, from one evaluation of the net."""
        out, meaning = self.output(x, t, cond)[0], self.parametrization
        return Estimate(meaning.x0(self.process, out, x, t), meaning.eps(self.process, out, x, t))

    def eps(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return the estimate of the noise, like `x`."""
        return self.parametrization.eps(self.process, self.output(x, t, cond)[0], x, t)

    def score(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return the estimate of the score, like `x`."""
        return self.parametrization.score(self.process, self.output(x, t, cond)[0], x, t)

    def velocity(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return the estimate of the probability flow's dx/dt, like `x`."""
        return self.parametrization.velocity(self.process, self.output(x, t, cond)[0], x, t)

    def reverse_kernel(
        self, x: Tensor, t: Tensor, s: Tensor, cond: Any = None, clip: tuple[float, float] | None = None
    ) -> ReverseKernel:
        """Return p(x_s | x_t); see `Denoiser.reverse_kernel`."""
        return self.kernel_of(*self.output(x, t, cond), x, t, s, clip)

    def kernel_of(
        self,
        out: Tensor,
        values: Tensor | None,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        clip: tuple[float, float] | None = None,
    ) -> ReverseKernel:
        """Return p(x_s | x_t) of an output that is already at hand."""
        return self._kernel(self.parametrization.x0(self.process, out, x, t), values, x, t, s, clip)


class EpsDenoiser(NetDenoiser):
    """A net that predicts the noise (Ho et al., 2020, eq. 11).

    Args:
        net: `net(x, tau, cond) -> eps`, like `x`.
        process: the forward process.
        time_input: what tau is: `"beta"` (beta_t, as DPM feeds its net), `"index"` (t itself), `"log_snr"`
            (`log(alpha^2 / sigma^2) / 4`, which spreads the chain over a few units, as EDM's c_noise does; beta_t
            hardly varies, so a net learns slowly to distinguish its values), or another of `TIME_INPUTS`.

    Raises:
        InputError: unknown `time_input`, or `"beta"` with a process that has no `beta`.
    """

    def __init__(self, net: nn.Module, process: Process, time_input: str = "beta"):
        super().__init__(net, process, "eps", time_input)
