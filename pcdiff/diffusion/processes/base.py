"""Forward processes: how data turns into noise.

A process is a signal scale alpha(t) and a noise scale sigma(t): `x_t = alpha(t) x_0 + sigma(t) eps`, with t = 0 the
data and t = T (nearly) noise. In the DDPM papers' symbols alpha(t) is `sqrt(alpha_bar_t)` and sigma(t) is
`sqrt(1 - alpha_bar_t)`. Nothing here depends on whether x is a cloud `(B, N, 3)` or an image `(B, C, H, W)`.

Scales come as float64 `(B,)`, whatever the data's dtype, and are cast where they meet it (`append_dims`):
differences such as `1 - alpha^2` cancel in float32. Times that are known to lie outside `[0, T]` are refused; that
costs a look at the tensor, so it is done on the CPU and not in compiled code.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcdiff.errors import InputError, OutOfRange


def _looked_at(t: Tensor) -> bool:
    return not torch.compiler.is_compiling() and t.device.type == "cpu" and t.numel() > 0


def _distinct(t: Tensor) -> Tensor:
    """Return one of times that are all one number in memory, else all of them."""
    return t[:1] if t.dim() == 1 and t.stride(0) == 0 else t


def append_dims(v: Tensor, like: Tensor) -> Tensor:
    """Reshape `v (B,)` to `(B, 1, ..., 1)` so that it multiplies `like (B, *dims)`, in `like`'s dtype.

    Raises:
        InputError: `like` is not of real numbers (integers would cut the scales off), or `v` is not one a sample.
    """
    if not like.is_floating_point():
        raise InputError(f"x must be of real numbers, such as torch.float32, got {like.dtype}")
    if v.numel() not in (1, len(like)):
        raise InputError(f"times must be ({len(like)},) for x {tuple(like.shape)}, got {tuple(v.shape)}")
    return v.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


class Process(nn.Module):
    """Base of all forward processes: alpha, sigma, the SDE's f and g, and what follows from them alone.

    A subclass gives `alpha`, `sigma`, `drift_rate`, `diffusion` and `t_of_log_snr`. With
    `f = d log alpha / dt` and `g^2 = d sigma^2 / dt - 2 f sigma^2` the SDE `dx = f x dt + g dw` has these marginals
    (Song et al., 2021, arXiv 2011.13456, eq. 5 and appendix B; Kingma et al., VDM, 2021, appendix D).

    Attributes:
        T: the last time; None where a subclass does not set it.
        num_steps: steps of the chain whose times are the integers 1..T; None for continuous time.
        t_end: the largest time that has an alpha and sigma; T unless the process continues.
        num_scales: steps of the chain that the process is, or is discretized to (N in Song et al., 2021).
        exploding: whether alpha is 1, so that sigma alone is the noise level and the prior's scale is sigma(T).
        train_eps: smallest time of training and likelihood (Song et al., 2021, appendix C).
        sample_eps: smallest time of sampling.
        grid: name of the times that samplers without a grid of their own take.
        even_steps: whether `discretize` cuts [0, T] into even steps only.
    """

    T: float | None = None
    num_steps: int | None = None
    num_scales: int | None = None
    exploding = False
    train_eps = 1e-5
    sample_eps = 1e-3
    grid = "uniform"
    even_steps = True
    _anchor: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("_anchor", torch.zeros(()), persistent=False)  # remembers the device

    @property
    def device(self) -> torch.device:
        """The device that grids and prior draws are made on."""
        return self._anchor.device

    @property
    def t_end(self) -> float | None:
        """The largest time that has an alpha and sigma."""
        return self.T

    def checked(self, t: Tensor) -> Tensor:
        """Return the times `t (B,)` as they are, or refuse them.

        Raises:
            InputError: a time lies outside `[0, t_end]` (checked on the CPU, outside compiled code).
        """
        end = self.t_end
        if end is not None and _looked_at(t):
            self._check(t, end)
        return t

    def _check(self, t: Tensor, end: float) -> None:
        # samplers ask several times a step, with one time spread over the batch; a short list is read faster than a
        # tensor is reduced
        t = _distinct(t)
        values = t.tolist() if t.numel() <= 64 else torch.stack(t.detach().aminmax()).tolist()
        if not all(0 <= value <= end for value in values):
            low, high = (float(v) for v in t.detach().aminmax())
            name = type(self).__name__
            raise InputError(f"t must be in [0, {end:g}] for {name}, got {low:g} to {high:g}")

    def noisy(self, t: Tensor) -> Tensor:
        """Return sigma `(B,)`, or refuse times `t (B,)` that have no noise, where a score is infinite.

        Raises:
            InputError: sigma is 0 at a time (checked on the CPU, outside compiled code).
        """
        sigma = self.sigma(t)
        if _looked_at(sigma) and not (sigma > 0).all():
            raise InputError(f"t must have noise here, sigma(t) > 0, got {float(t.min()):g}")
        return sigma

    def scales_with_signal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma `(B,)`, or refuse times `t (B,)` without signal, where eps does not determine x_0.

        Raises:
            InputError: alpha is 0 at a time (checked on the CPU, outside compiled code).
        """
        alpha, sigma = self.scales(t)
        if _looked_at(alpha) and not (alpha > 0).all():
            raise InputError(
                f"t must have signal here, alpha(t) > 0, got {float(t.max()):g}: noise and score do not "
                "determine x_0 there; give x_init and a t_start below, or a net that predicts x0, v, velocity, edm"
            )
        return alpha, sigma

    def finite_diffusion(self, t: Tensor) -> Tensor:
        """Return g `(B,)`, or refuse times `t (B,)` at which it is infinite.

        Raises:
            InputError: it is (checked on the CPU, outside compiled code).
        """
        g = self.diffusion(t)
        if _looked_at(g) and not g.isfinite().all():
            raise InputError(f"t must have a finite g(t) here, got {float(t[~g.isfinite()][0]):g}")
        return g

    def last_time(self) -> float:
        """Return T.

        Raises:
            InputError: the process does not set it.
        """
        if self.T is None:
            raise InputError(f"a process must set T, its last time; {type(self).__name__} has none")
        return self.T

    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal scale `(B,)` at times `(B,)`."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise scale `(B,)` at times `(B,)`."""
        raise NotImplementedError

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma `(B,)` at times `(B,)`; together they cost less than one by one."""
        return self.alpha(t), self.sigma(t)

    def drift_rate(self, t: Tensor) -> Tensor:
        """Return f(t) = d log alpha / dt `(B,)`."""
        raise NotImplementedError

    def diffusion(self, t: Tensor) -> Tensor:
        """Return g(t) `(B,)`, `g^2 = d sigma^2 / dt - 2 f sigma^2`."""
        raise NotImplementedError

    def t_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return the times `(B,)` at which `log(alpha^2 / sigma^2)` is `log_snr (B,)`, cut to `[0, t_end]`."""
        raise NotImplementedError

    def log_snr(self, t: Tensor) -> Tensor:
        """Return `log(alpha^2 / sigma^2)` `(B,)` (Kingma et al., VDM, 2021, eq. 2); it falls with t."""
        alpha, sigma = self.scales(t)
        return 2 * (alpha.log() - sigma.log())

    def alpha_dot(self, t: Tensor) -> Tensor:
        """Return d alpha / dt `(B,)`."""
        return self.drift_rate(t) * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """Return d sigma / dt `(B,)`."""
        sigma = self.sigma(t)
        return self.diffusion(t).square() / (2 * sigma) + self.drift_rate(t) * sigma

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return f(t) x of the forward SDE, like `x` (Song et al., 2021, eq. 5)."""
        return append_dims(self.drift_rate(t), x) * x

    def velocity(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return `alpha' x_0 + sigma' eps`, like `x0`.

        Of one pair it is the conditional flow's velocity (Lipman et al., 2023, eq. 15); of the estimates
        E[x_0 | x_t] and E[eps | x_t] it is dx/dt of the probability flow (Song et al., 2021, eq. 13), also where
        f itself is infinite (rectified flow at t = 1).
        """
        return append_dims(self.alpha_dot(t), x0) * x0 + append_dims(self.sigma_dot(t), eps) * eps

    def marginal(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean, like `x0`, and standard deviation `(B,)` of q(x_t | x_0) (Song et al., 2021, eq. 29)."""
        alpha, sigma = self.scales(t)
        return append_dims(alpha, x0) * x0, sigma

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw from q(x_t | x_0) in closed form (Ho et al., 2020, eq. 4).

        Args:
            x0: data `(B, *dims)`.
            t: times `(B,)`.
            noise: standard normal, like `x0`.

        Returns:
            x_t, like `x0`.

        Raises:
            InputError: `noise` is not like `x0`: one draw would be shared.
        """
        if noise.shape != x0.shape:
            raise InputError(f"noise must be like x0 {tuple(x0.shape)}, got {tuple(noise.shape)}")
        alpha, sigma = self.scales(t)
        return append_dims(alpha, x0) * x0 + append_dims(sigma, x0) * noise

    def kernel(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""Return the coefficients of q(x_s | x_t, x_0), s < t (Kingma et al., VDM, 2021, appendix A.2).

        Returns:
            `(B,)` each: weight of x_t and weight of x_0 in the mean, the posterior variance, and the variance of
            the forward kernel q(x_t | x_s).

        Raises:
            InputError: a time s is later than its t (checked on the CPU, outside compiled code).
        """
        if _looked_at(t) and (_distinct(s) > _distinct(t)).any():
            raise InputError("s must be earlier than t for q(x_s | x_t, x_0): rising times have no posterior")
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.scales(s), self.scales(t)
        alpha_ts, variance_s, variance_t = alpha_t / alpha_s, sigma_s.square(), sigma_t.square()
        forward_variance = (variance_t - (alpha_ts * sigma_s).square()).clamp(min=0)
        x_weight = alpha_ts * variance_s / variance_t
        x0_weight = alpha_s * forward_variance / variance_t
        return x_weight, x0_weight, forward_variance * variance_s / variance_t, forward_variance

    def posterior(self, x0: Tensor, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return mean and variances of q(x_s | x_t, x_0) for any s < t (Kingma et al., VDM, 2021, appendix A.2).

        With neighboring s = t - 1 this is eq. 6-7 of Ho et al. (2020), and eq. 10-11 of Luo & Hu (2021; numbers
        unverified).

        Args:
            x0: data `(B, *dims)`.
            x: x_t, like `x0`.
            t: times `(B,)`.
            s: earlier times `(B,)`.

        Returns:
            The mean like `x0`; the posterior variance `(B,)` (gamma_t in Luo & Hu); the variance `(B,)` of the
            forward kernel q(x_t | x_s) (beta_t), the other common choice for the reverse chain's variance.
        """
        x_weight, x0_weight, posterior_variance, forward_variance = self.kernel(t, s)
        mean = append_dims(x_weight, x) * x + append_dims(x0_weight, x0) * x0
        return mean, posterior_variance, forward_variance

    def positive_posterior_variance(self, t: Tensor, s: Tensor) -> Tensor:
        """Return the posterior variance `(B,)`, and the forward kernel's where that is 0 (s is the data)."""
        _, _, posterior_variance, forward_variance = self.kernel(t, s)
        return torch.where(posterior_variance > 0, posterior_variance, forward_variance)

    def discretize(
        self, x: Tensor, t: Tensor, num_steps: int | None = None, index: int | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return f, like `x`, and G `(B,)` of one step of the chain, `x_{t+dt} = x + f + G z`, dt = T / num_steps.

        Euler-Maruyama unless the process has a chain of its own (Song et al., 2021, appendix E).

        Args:
            x: x_t `(B, *dims)`.
            t: times `(B,)`.
            num_steps: N; `num_scales` by default.
            index: which of the N steps, from 0 at the data, where a chain of its own has a table of them: one for
                all, or `(B,)`; by default the last step that begins at t or before, as score_sde's code takes it.

        Raises:
            InputError: `num_steps` is not positive, or the process cannot be cut so coarsely.
        """
        dt = self.last_time() / self._steps(num_steps)
        return self.drift(x, t) * dt, self.diffusion(t) * math.sqrt(dt)

    def step_alpha(self, t: Tensor, num_steps: int | None = None, index: int | Tensor | None = None) -> Tensor:
        """Return the squared scale `(B,)` that one of `num_steps` steps gives the signal, alpha_i of a chain.

        Langevin's corrector sizes its steps by it (Song et al., 2021, algorithm 5); 1 of exploding processes.
        """
        return (2 * self.drift_rate(t) * self.last_time() / self._steps(num_steps)).exp()

    def _steps(self, num_steps: int | None) -> int:
        num_steps = self.num_scales if num_steps is None else num_steps
        if num_steps is None or num_steps < 1:
            raise OutOfRange("num_steps", "at least 1", num_steps)
        return num_steps

    def reverse(self, x: Tensor, t: Tensor, score: Tensor, flow: bool = False) -> tuple[Tensor, Tensor]:
        """Return drift, like `x`, and diffusion `(B,)` of the process run backwards (Song et al., 2021, eq. 6).

        Args:
            x: x_t `(B, *dims)`.
            t: times `(B,)`.
            score: grad log p_t(x), like `x`.
            flow: the probability flow instead (eq. 13): half the score's share, no diffusion.
        """
        return self._backwards(self.drift(x, t), self.diffusion(t), score, flow)

    def reverse_discretize(
        self,
        x: Tensor,
        t: Tensor,
        score: Tensor,
        num_steps: int | None = None,
        flow: bool = False,
        index: int | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return f and G of reverse diffusion's step `x - f + G z` (Song et al., eq. 46); see `discretize`."""
        return self._backwards(*self.discretize(x, t, num_steps, index), score, flow)

    @staticmethod
    def _backwards(f: Tensor, g: Tensor, score: Tensor, flow: bool) -> tuple[Tensor, Tensor]:
        share = g.square() / 2 if flow else g.square()
        return f - append_dims(share, score) * score, torch.zeros_like(g) if flow else g

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior, about that of p_T (Song et al., 2021, section 2.1; algorithms 4, 5)."""
        if not self.exploding:
            return 1.0
        return float(self.sigma(torch.tensor([self.T], dtype=torch.float64, device=self.device)))

    def prior_sample(
        self, shape: Sequence[int], generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw `shape` from the prior, on the process's device."""
        noise = torch.randn(tuple(shape), generator=generator, device=self.device, dtype=dtype)
        return noise if self.prior_std == 1 else noise * self.prior_std

    def log_prior(self, x: Tensor) -> Tensor:
        """Return the log-density `(B,)` in nats of `x (B, *dims)` under the prior."""
        std, size = self.prior_std, x[0].numel()
        constant = size * (math.log(2 * math.pi) / 2 + math.log(std))
        return -(x / std).square().flatten(1).sum(dim=1) / 2 - constant

    def time_grid(self, num_steps: int | None = None) -> Tensor:
        """Return `num_steps + 1` evenly spaced times from T down to sample_eps, float64.

        Raises:
            InputError: `num_steps` is not positive.
        """
        steps = self._steps(num_steps)
        return torch.linspace(self.last_time(), self.sample_eps, steps + 1, dtype=torch.float64, device=self.device)

    def position(self, t: Tensor) -> Tensor:
        """Return times `t (B,)` as positions among `num_scales` steps, 0 to num_scales - 1, not rounded."""
        return t * (self._steps(None) - 1) / self.last_time()

    def trained_at(self, t: Tensor) -> tuple["Process", Tensor]:
        """Return the process and times that a net was trained with, of which times `t` of this one are a part."""
        return self, t
