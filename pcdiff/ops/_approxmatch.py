"""The three approximate "EMD"s in the literature's code, for comparing with published numbers only.

All are the fractional matching of Fan et al. (2017, arXiv 1612.00603, supplement): mass is handed out in levels,
at each in proportion to `exp(-4^j |x_i - y_j|^2)`, j falling from 7. The published programs differ in the last
levels and in the cost. None is a metric or a bound on one: the levels are absolute, so scaling the clouds changes
the matching, and swapping x and y changes the value.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from pcdiff.ops import _check, _native, _transport_plan


class Variant(NamedTuple):
    """What the published programs differ in: whether a last level of exponent 0 follows, and the cost's power."""

    zero_level: bool
    squared: bool


VARIANTS = {
    # optas/latent_3d_points, its CUDA kernel and its test program; the TensorFlow CPU op starts one level sharper.
    "approxmatch-latent3d": Variant(zero_level=True, squared=False),
    # stevenygd/PointFlow and the emd-cd branch of luost26/diffusion-point-cloud: without the level that matches
    # whatever is left, so far clouds cost next to nothing.
    "approxmatch-pointflow": Variant(zero_level=False, squared=False),
    # daerduoCarey/PyTorchEMD, used by PVD and LION: the cost is squared.
    "approxmatch-pytorchemd": Variant(zero_level=True, squared=True),
}

_FIRST_LEVEL = 7
_EPSILON = 1e-9
# Numbers that the factors of one strip of a matrix hold.
_STRIP = 1 << 22


def approxmatch_cost(x: torch.Tensor, y: torch.Tensor, variant: str) -> torch.Tensor:
    """Return the approximate cost of each pair of clouds, divided by the points of x.

    Each point of the larger cloud has mass 1, each of the smaller the quotient of the sizes **rounded down**, as in
    the published kernels: where one size does not divide the other, mass stays unmatched.

    Args:
        x: clouds `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        y: clouds `(B, M, D)` of the same dtype, device and batch size; M may differ from N.
        variant: one of `VARIANTS`. `"approxmatch-pytorchemd"` is in squared units, the others in the units of x.

    Returns:
        `(B,)`, differentiable in x and y, in every mode and order, with the matching held constant, as the
        published backward passes do. The derivative rebuilds the matching in strips; memory is `L (N + M)` a pair
        between the passes (L = 9 or 10).

    Raises:
        InputError: shapes, dtypes or devices do not fit, a cloud is empty, a coordinate is NaN or infinite, the
            variant is unknown, or a transform of `torch.func` and `torch.compile` are used together.

    Example:
        >>> x = torch.tensor([[[0.0], [1.0]]])
        >>> approxmatch_cost(x, x + 1, "approxmatch-pytorchemd").round(decimals=3)  # the optimum is 1
        tensor([2.])
    """
    x, y = _checked(x, y, variant)
    left, right, value = _match(x, y, variant)
    value = value / x.shape[1]
    if not _transport_plan.tracked(x, y):
        return value
    # Dividing the left factors divides the gradient.
    plan = _as_plan(left / x.shape[1], right, variant)
    return _transport_plan.differentiable(value, x, y, plan, VARIANTS[variant].squared)


def approxmatch_match(x: torch.Tensor, y: torch.Tensor, variant: str) -> torch.Tensor:
    """Return the matching itself, `(B, N, M)`: how much of point i of x goes to point j of y. No gradient."""
    x, y = _checked(x, y, variant)
    left, right, _ = _match(x, y, variant)
    return _transport_plan.strip(x.detach(), y.detach(), _as_plan(left, right, variant), slice(None))


def approxmatch_matrix(
    xs: torch.Tensor,
    ys: torch.Tensor,
    variant: str,
    progress: Callable[[int], object] | None = None,
) -> torch.Tensor:
    """Return the `(S, R)` approximate costs between two sets of clouds, without gradient.

    Args:
        xs: `(S, N, D)`; entry i, j is `approxmatch_cost(xs[i], ys[j])`. The matrix of a set with itself is neither
            symmetric nor 0 on its diagonal.
        ys: `(R, M, D)`, same dtype and device.
        variant: one of `VARIANTS`.
        progress: called now and then with the number of pairs finished so far.

    Raises:
        InputError: as `approxmatch_cost`.
    """
    _check.one_of("variant", variant, tuple(VARIANTS))
    xs, ys = _check.clouds("xs", xs, "(S, N, D)").detach(), _check.clouds("ys", ys, "(R, M, D)").detach()
    _check.alike("xs", xs, "ys", ys, batch=False)
    # Checked here, so that an error names the set and not the strip that was cut from it.
    if not _check.out_of_reach(xs.device):
        _check.finite(xs=xs, ys=ys)
    pairs = len(xs) * len(ys)
    out = xs.new_empty(pairs)
    size = max(1, min(256, _STRIP // (10 * (xs.shape[1] + ys.shape[1]))))
    for first in range(0, pairs, size):
        place = torch.arange(first, min(first + size, pairs), device=xs.device)
        x, y = xs[place // len(ys)], ys[place % len(ys)]
        out[first : first + size] = _match(x, y, variant)[2] / xs.shape[1]
        if progress is not None:
            progress(min(first + size, pairs))
    return out.view(len(xs), len(ys))


def _checked(x, y, variant) -> tuple[torch.Tensor, torch.Tensor]:
    _check.one_of("variant", variant, tuple(VARIANTS))
    x, y = _check.clouds("x", x, "(B, N, D)"), _check.clouds("y", y, "(B, M, D)")
    _check.alike("x", x, "y", y)
    return x, y


def _match(x: torch.Tensor, y: torch.Tensor, variant: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return each level's factors of x `(B, L, N)` and of y `(B, L, M)`, and the cost `(B,)`, a sum over points."""
    x, y = x.detach(), y.detach()
    zero_level, squared = VARIANTS[variant]
    if _native.has_kernels(x.device):
        return _native.call("approxmatch", _FIRST_LEVEL, zero_level, squared, x=x, y=y)
    _native.prepare_reference(x=x, y=y)
    left, right = _reference_factors(x, y, _levels(zero_level))
    return left, right, _transport_plan.costs(x, y, _as_plan(left, right, variant), squared).sum(dim=1)


def _levels(zero_level: bool) -> list[float]:
    return [-(4.0**j) for j in range(_FIRST_LEVEL, -2, -1)] + [0.0] * zero_level


def _as_plan(left: torch.Tensor, right: torch.Tensor, variant: str) -> _transport_plan.Plan:
    levels = left.new_tensor(_levels(VARIANTS[variant].zero_level)).expand(len(left), -1)
    return _transport_plan.Plan(levels, left.log(), right.log(), squared=True)


def _weigh(x: torch.Tensor, y: torch.Tensor, level: float, weight: torch.Tensor) -> torch.Tensor:
    """Return `(B, N)` sums over j of `exp(level |x_i - y_j|^2) weight_j`."""
    sums = []
    for rows in _transport_plan.strips(x, y):
        squares = _transport_plan.squares_of(_transport_plan.differences_of(x, y, rows))
        # Not a matrix product: autocast would run that in bfloat16.
        sums.append(((squares * level).exp_() * weight[:, None]).sum(dim=2))
    return torch.cat(sums, dim=1)


def _reference_factors(x: torch.Tensor, y: torch.Tensor, levels: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    n, m = x.shape[1], y.shape[1]
    rest_x = x.new_full((len(x), n), 1 if n >= m else m // n)
    rest_y = y.new_full((len(y), m), n // m if n >= m else 1)
    left, right = [], []
    for level in levels:
        # Every x offers what it has left, in proportion to nearness and to what each y can still take.
        offered = rest_x / (_EPSILON + _weigh(x, y, level, rest_y))
        # A y that is offered more than it can take scales all offers down.
        asked = rest_y * _weigh(y, x, level, offered)
        accepted = rest_y * (rest_y / (asked + _EPSILON)).clamp(max=1)
        rest_y = (rest_y - asked).clamp(min=0)
        rest_x = (rest_x - offered * _weigh(x, y, level, accepted)).clamp(min=0)
        left.append(offered)
        right.append(accepted)
    return torch.stack(left, dim=1), torch.stack(right, dim=1)


@_native.fake("approxmatch")
def _(x, y, first_level, zero_level, squared):
    batch, n, _ = x.shape
    levels = first_level + 2 + int(zero_level)
    return x.new_empty((batch, levels, n)), x.new_empty((batch, levels, y.shape[1])), x.new_empty((batch,))
