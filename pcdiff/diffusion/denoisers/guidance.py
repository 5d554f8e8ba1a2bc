"""Guidance: denoisers that wrap a denoiser, so that any sampler follows it. All outputs stem from one estimate."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser, Estimate, ReverseKernel, clipped
from pcdiff.diffusion.processes.base import append_dims
from pcdiff.errors import InputError, OutOfRange, UnknownName

# (x, t, cond) -> log p(y | x_t) `(B,)`
LogProb = Callable[[Tensor, Tensor, Any], Tensor]
FORMS = ("score", "mean")


class ClassifierGuidance(Denoiser):
    """Shift the score by `scale grad log p(y | x_t)` (Dhariwal & Nichol, 2021, section 4).

    Args:
        denoiser: the model.
        log_prob: `log_prob(x, t, cond) -> (B,)`, a classifier's log p(y | x_t), or any log-density up to a
            constant, differentiable in x.
        scale: the paper's s; 1 samples from the posterior, where the classifier is true.
        form: how `reverse_kernel` follows: `"score"` by the shifted score (algorithm 2), `"mean"` by the kernel's
            mean shifted by its variance times the gradient (algorithm 1). All else is the score's.
        clip: bounds that the model's own estimate of x_0 is cut to before the shift, as ADM's DDIM does.
        conditional: condition the model too; False for an unconditional one, or to leave the condition out.

    Raises:
        InputError: `scale` is not finite, or `form` is unknown.

    Example:
        >>> def log_prob(x, t, y):
        ...     return classifier(x, t).log_softmax(dim=1)[torch.arange(len(x)), y]
        >>> sample(ClassifierGuidance(denoiser, log_prob, 2.0), (4, 3, 32, 32), cond=y, sampler="ddim")
    """

    def __init__(
        self,
        denoiser: Denoiser,
        log_prob: LogProb,
        scale: float = 1.0,
        form: str = "score",
        clip: tuple[float, float] | None = None,
        conditional: bool = True,
    ):
        super().__init__(denoiser.process)
        if form not in FORMS:
            raise UnknownName("form", form, sorted(FORMS))
        self.denoiser, self.log_prob, self.scale = denoiser, log_prob, _finite(scale)
        self.form, self.clip, self.conditional, self.variance = form, clip, conditional, denoiser.variance

    def gradient(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return `scale grad log p(y | x_t)`, like `x`.

        It can be differentiated again, backwards and forwards, where gradients are asked for: the trace that a
        likelihood needs holds the classifier's Hessian.

        Raises:
            InputError: `log_prob` gives another shape than `(B,)`, or does not depend on x.
        """

        def log_prob(here: Tensor) -> Tensor:
            with torch.enable_grad():
                value = self.log_prob(here, t, cond)
            if value.shape != (len(here),):
                raise InputError(f"log_prob must give one number a sample, ({len(x)},), got {tuple(value.shape)}")
            if not value.requires_grad:
                raise InputError("log_prob must be differentiable in x, got a constant")
            return value

        # unlike a detached copy of x it keeps the way back to x, and to what else the classifier is made of
        value, pullback, *_ = torch.func.vjp(log_prob, x)
        return self.scale * pullback(torch.ones_like(value))[0]

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Estimate x_0, like `x`; see `estimate`."""
        return self.estimate(x, t, cond).x0

    def estimate(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        """Return `x_0 + sigma^2 / alpha` and `eps - sigma` times the gradient, each like `x`.

        Raises:
            InputError: no signal is left at a time: a score does not determine x_0 there.
        """
        x0, eps = self.denoiser.estimate(x, t, cond if self.conditional else None)
        alpha, sigma = (append_dims(v, x) for v in self._signal(t))
        if self.clip is not None:
            x0 = clipped(x0, self.clip)
            eps = (x - alpha * x0) / sigma
        gradient = self.gradient(x, t, cond)
        return Estimate(x0 + sigma.square() / alpha * gradient, eps - sigma * gradient)

    def _signal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.process.scales(t)
        if not (alpha > 0).all():
            raise InputError("classifier guidance needs times with alpha > 0: start below T, by x_init and t_start")
        return alpha, sigma

    def reverse_kernel(
        self, x: Tensor, t: Tensor, s: Tensor, cond: Any = None, clip: tuple[float, float] | None = None
    ) -> ReverseKernel:
        """Return p(x_s | x_t, y); `clip` cuts the model's own estimate (see `Denoiser.reverse_kernel`)."""
        own = cond if self.conditional else None
        mean, log_variance, x0 = self.denoiser.reverse_kernel(x, t, s, own, self.clip if clip is None else clip)
        gradient = self.gradient(x, t, cond)
        if self.form == "mean":
            variance = log_variance.exp()
            if self.variance == "small":  # 0 at the data, where its log is cut off
                variance = append_dims(self.process.kernel(t, s)[2], x)
            return ReverseKernel(mean + variance * gradient, log_variance, x0)
        alpha, sigma = self._signal(t)
        x0 = x0 + append_dims(sigma.square() / alpha, x) * gradient
        return ReverseKernel(self.process.posterior(x0, x, t, s)[0], log_variance, x0)


class ClassifierFreeGuidance(Denoiser):
    """Go from the estimate without a condition toward, or past, the one with it (Ho & Salimans, 2022, eq. 6).

    `e(x, null) + scale (e(x, cond) - e(x, null))` from one evaluation of a batch twice as long; the paper's w is
    scale - 1. At scale 1 the model with its condition is asked alone.

    Args:
        denoiser: the model.
        null: the null condition: like `cond`, or a batch of 1; tensors in tuples, lists or dicts
            are paired one by one.
        scale: 0 drops the condition, 1 takes the model as it is, more stresses the condition.
        rescale: share phi in [0, 1] by which the estimate of x_0 is brought back to the standard deviation, over
            each sample, that it has with the condition alone (Lin et al., 2024, section 3.4). A sample without
            spread, such as one number, stays as it is.

    Raises:
        InputError: `scale` is not finite, or `rescale` lies outside [0, 1].

    Example:
        >>> guided = ClassifierFreeGuidance(denoiser, torch.zeros(1, 256), scale=3.0)
        >>> sample(guided, (4, 2048, 3), cond=z, sampler="dpmpp", num_steps=10)
    """

    def __init__(self, denoiser: Denoiser, null: Any, scale: float = 1.0, rescale: float = 0.0):
        super().__init__(denoiser.process)
        if not 0 <= rescale <= 1:
            raise OutOfRange("rescale", "in [0, 1]", rescale)
        self.denoiser, self.null, self.scale, self.rescale = denoiser, null, _finite(scale), rescale
        self.variance = denoiser.variance

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Estimate x_0, like `x`; see `estimate`."""
        return self.estimate(x, t, cond).x0

    def estimate(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        """Return the guided estimates of x_0 and eps, each like `x`.

        Raises:
            InputError: `cond` and `null` do not match, or `cond` is not one for every sample.
        """
        if self.scale == 1:
            return self.denoiser.estimate(x, t, cond)
        both = self.denoiser.estimate(x.repeat(2, *[1] * (x.dim() - 1)), t.repeat(2), self._pair(cond, len(x)))
        if self.rescale == 0:
            return Estimate(*map(self._combine, both))
        x0 = self._combine(both.x0)
        alpha, sigma = (append_dims(v, x) for v in self.process.scales(t))
        return Estimate(x0, (x - alpha * x0) / sigma)

    def reverse_kernel(
        self, x: Tensor, t: Tensor, s: Tensor, cond: Any = None, clip: tuple[float, float] | None = None
    ) -> ReverseKernel:
        """Return p(x_s | x_t) at the guided x_0, with the variance that goes with the condition."""
        if self.scale == 1:
            return self.denoiser.reverse_kernel(x, t, s, cond, clip)
        both = self.denoiser.reverse_kernel(
            x.repeat(2, *[1] * (x.dim() - 1)), t.repeat(2), s.repeat(2), self._pair(cond, len(x))
        )
        x0 = clipped(self._combine(both.x0), clip)
        return ReverseKernel(self.process.posterior(x0, x, t, s)[0], both.log_variance[len(x) :], x0)

    def _combine(self, both: Tensor) -> Tensor:
        without, given = both.chunk(2)
        guided = without + self.scale * (given - without)
        if self.rescale == 0 or guided[0].numel() == 1:
            return guided
        kept, made = (append_dims(v.flatten(1).std(dim=1), v) for v in (given, guided))
        ratio = torch.where(made > 0, kept / torch.where(made > 0, made, 1), 1)
        return guided * (self.rescale * ratio + 1 - self.rescale)

    def _pair(self, cond: Any, count: int) -> Any:
        return pair_conditions(self.null, cond, count)


def pair_conditions(null: Any, cond: Any, count: int) -> Any:
    """Return both conditions as one batch of 2 `count`, `null` first.

    Args:
        null: a tensor `(1, ...)` or `(count, ...)`, or tuples, lists or dicts of such.
        cond: alike, each `(count, ...)`.
        count: B.

    Raises:
        InputError: they are built or shaped differently, or no tensors.
    """
    if isinstance(cond, Tensor) and isinstance(null, Tensor):
        if len(cond) != count or null.shape[1:] != cond.shape[1:] or len(null) not in (1, count):
            wanted = f"cond ({count}, ...) and null alike or (1, ...)"
            raise InputError(f"guidance needs {wanted}, got {tuple(cond.shape)} and {tuple(null.shape)}")
        return torch.cat([null.to(cond).expand_as(cond), cond])
    if isinstance(cond, dict) and isinstance(null, dict) and cond.keys() == null.keys():
        return {key: pair_conditions(null[key], cond[key], count) for key in cond}
    if isinstance(cond, list | tuple) and isinstance(null, list | tuple) and len(cond) == len(null):
        return type(cond)([pair_conditions(a, b, count) for a, b in zip(null, cond, strict=True)])
    kinds = f"{type(cond).__name__} and {type(null).__name__}"
    raise InputError(f"guidance needs cond and null built alike of tensors, got {kinds}")


def _finite(scale: float) -> float:
    if not math.isfinite(scale):
        raise OutOfRange("scale", "finite", scale)
    return scale
