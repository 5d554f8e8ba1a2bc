"""Noise that makes whole numbers continuous: uniform, or drawn from a distribution of its own that is learned.

A continuous density bounds the probability of whole numbers k by `log P(k) >= E_q [log p(k + u) - log q(u | k)]`,
u in [0, 1) (Theis et al., 2016, section 3.1, with q uniform; Ho et al., Flow++, 2019, section 3.1, with q learned).
The gap is KL(q || p(u | k)): any q gives a bound, and one that follows the density within a cell a tighter one. A
new dequantization is a class and a line in `DEQUANTIZATIONS`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pcdiff.errors import InputError, OutOfRange
from pcdiff.registry import Registry

_SMALLEST = 1e-6  # of v and 1 - v: where float32's logit is finite
_LARGEST = 1 - 2**-16  # of u: 255 + u is still below 256 in float32


class Dequantized(NamedTuple):
    """Whole numbers with their noise.

    Attributes:
        values: `(B, *dims)` float32, k + u.
        log_q: `(B,)` float64, log q(u | k) in nats a sample.
    """

    values: Tensor
    log_q: Tensor


class Uniform(nn.Module):
    """u uniform on [0, 1): log q is 0.

    Args:
        num_levels: how many whole numbers there are; any will do.
    """

    def __init__(self, num_levels: int = 256):
        super().__init__()

    def forward(self, levels: Tensor, generator: torch.Generator | None = None) -> Dequantized:
        """Return `levels (B, *dims)`, whole numbers, with uniform noise."""
        u = torch.rand(levels.shape, generator=generator, device=levels.device)
        return Dequantized(levels + u, torch.zeros(len(levels), dtype=torch.float64, device=levels.device))


class Variational(nn.Module):
    r"""u logistic before a sigmoid: `u = sigmoid(mean + scale logit(v))`, v uniform on (0, 1).

    It starts as uniform noise, mean 0 and scale 1, and learns by `dequantization_loss`. Mean and log-scale are
    those of the whole number itself, from a table, and what a net adds that sees the numbers around.

    Args:
        num_levels: whole numbers 0..num_levels - 1.
        net: optional, `net(x) -> (B, 2 C, ...)` of `x (B, C, ...)`, the numbers scaled to [-1, 1]: what is added to
            mean and log-scale. Start it at 0 (its last layer's weights) to start from uniform noise.

    Raises:
        InputError: `num_levels` is below 2; in use, a number is no level, or the net's output has another shape.

    Example:
        >>> values, log_q = Variational()(images)  # uint8 (B, C, H, W)
    """

    def __init__(self, num_levels: int = 256, net: nn.Module | None = None):
        super().__init__()
        if num_levels < 2:
            raise OutOfRange("num_levels", "at least 2", num_levels)
        self.num_levels, self.net = num_levels, net
        self.table = nn.Parameter(torch.zeros(num_levels, 2))

    def forward(self, levels: Tensor, generator: torch.Generator | None = None) -> Dequantized:
        """Return `levels (B, *dims)`, whole numbers, with noise from q; differentiable in q's parameters."""
        v = torch.rand(levels.shape, generator=generator, device=levels.device).clamp(_SMALLEST, 1 - _SMALLEST)
        u, log_q = self.noise(levels, v)
        return Dequantized(levels + u, log_q.double().flatten(1).sum(dim=1))

    def noise(self, levels: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return u at q's quantiles `v (B, *dims)` and log q(u | k), both like `v`."""
        # as Python's numbers: 256 is none of uint8's
        if levels.dim() < 2 or not all(0 <= int(v) < self.num_levels for v in levels.aminmax()):
            raise InputError(f"levels must be (B, *dims) whole numbers in 0..{self.num_levels - 1}")
        mean, log_scale = self.table[levels.long()].unbind(dim=-1)
        if self.net is not None:
            added = self.net(2 * levels.to(v) / (self.num_levels - 1) - 1)
            if added.shape != (len(levels), 2 * levels.shape[1], *levels.shape[2:]):
                shapes = f"{tuple(levels.shape)}, got {tuple(added.shape)}"
                raise InputError(f"the net must give (B, 2 C, ...) for {shapes}")
            mean, log_scale = (a + b for a, b in zip((mean, log_scale), added.chunk(2, dim=1), strict=True))
        # the logistic's own log density is log v + log(1 - v)
        logit = mean + log_scale.exp() * torch.logit(v)
        u = torch.sigmoid(logit)
        log_slope = torch.nn.functional.logsigmoid(logit) + torch.nn.functional.logsigmoid(-logit)
        return u.clamp(max=_LARGEST), v.log() + torch.log1p(-v) - log_scale - log_slope


DEQUANTIZATIONS: Registry[Callable[..., nn.Module]] = Registry(
    "dequantization", {"uniform": Uniform, "variational": Variational}
)


def dequantization(name: str, **options: Any) -> nn.Module:
    """Return a dequantization by name.

    Raises:
        InputError: the name or an option is unknown; the message lists the known ones.

    Example:
        >>> values, log_q = dequantization("variational")(images)  # uint8 (B, C, H, W)
        >>> bits_per_dim(log_likelihood(denoiser, values / 128 - 1).log_likelihood - log_q, images.shape[1:])
    """
    return DEQUANTIZATIONS.build(name, **options)


def dequantization_loss(
    dequantize: nn.Module,
    log_density: Callable[[Tensor], Tensor],
    levels: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return `log q(u | k) - log p(k + u)`, `(B,)` in nats a sample, whose mean is the bound on -log P(k).

    Args:
        dequantize: what is trained.
        log_density: of values k + u, up to a constant and a bound of it too: maps `(B, *dims)` to `(B,)` and can be
            differentiated, such as minus `continuous_bound`'s total in nats.
        levels: whole numbers `(B, *dims)`.
        generator: source of the noise.
    """
    values, log_q = dequantize(levels, generator)
    return log_q - log_density(values)


def fit_dequantization(
    dequantize: nn.Module,
    log_density: Callable[..., Tensor],
    levels: Tensor,
    *,
    steps: int = 300,
    batch_size: int = 32,
    lr: float = 0.02,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Train a dequantization by Adam, in place, and return it.

    As any q gives a bound, it may be trained on the very numbers that are scored.

    Args:
        dequantize: what is trained.
        log_density: maps values k + u `(b, *dims)`, and as `rows` `(b,)` those of `levels` that they stem from, to
            `(b,)`; see `dequantization_loss`.
        levels: whole numbers `(n, *dims)`.
        steps: of Adam.
        batch_size: samples a step, drawn with replacement.
        lr: its learning rate, which falls to 0 in a line.
        generator: source of every draw.

    Raises:
        InputError: a loss is not finite.
    """
    parameters = list(dequantize.parameters())
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        rows = torch.randint(len(levels), (batch_size,), generator=generator, device=levels.device)
        with torch.enable_grad():
            density = partial(log_density, rows=rows)
            loss = dequantization_loss(dequantize, density, levels[rows], generator).mean()
            gradients = torch.autograd.grad(loss / levels[0].numel(), parameters)
        if not loss.isfinite():
            raise InputError(f"the density must be finite where it is learned from, got {loss:g} at step {step}")
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return dequantize
