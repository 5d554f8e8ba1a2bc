"""Optimal transport between uniform clouds of any sizes by Sinkhorn's iteration, with a certificate.

The iteration (Cuturi, 2013, arXiv 1306.0895; in the log domain, with falling regularization) is only a means of
finding candidates. What is returned is proved for each: the cost is that of a plan whose marginals are right
(rounded by Altschuler, Weed & Rigollet, 2017, arXiv 1705.09634, algorithm 2), and the lower bound is the value of
prices that no pair of points violates.
"""

import math
import warnings
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch

from pcdiff.errors import InputError
from pcdiff.ops import _check, _native, _transport_plan
from pcdiff.ops._points import without_padding
from pcdiff.ops.reference import past

# Regularizations are relative to the diameter of the two clouds' common bounding box.
_FIRST_SCALE = 0.25
# No plan is looked for below this, nor where the rounding of the potentials would weigh more than this share of the
# tolerance.
_LAST_SCALE = 1e-14
_ROUNDING_SHARE = 0.1
# Of a minimum instead of a soft minimum: so sharp that the difference is below the rounding of any cost.
_SHARP = 1e-30
# Below this float32 is not precise enough for the potentials.
_FLOAT32_SCALE = 1e-4
# Sweeps on the way down to the last regularization, over-relaxed by a little: the potentials are far off anyway.
_SWEEPS_PER_SCALE = 10
_RELAXATION_DOWN = 1.5
# On the last one, over-relaxation chosen by the rate at which plain sweeps converge saves several times the sweeps
# (Thibault et al., 2021, arXiv 1711.01851); the rate is measured before each certificate. At most this much:
_RELAXATION = 1.97
_PLAIN_SWEEPS = 4
# Sweeps before the first certificate at a regularization; half as many more before each later one.
_FIRST_CERTIFICATE = 20
# A kernel's exponent that leaves nothing of any distance but 0.
_APART = -1e170
# Rounding errors of a price and of the sum of all prices, in units of the largest, with a good margin.
_SAFETY = 64
_ULP = torch.finfo(torch.float64).eps
# What rounding the cost and the bound to float32 may add to the relative gap.
_FLOAT32_GAP = 3e-7
_TOLERANCES = (1e-6, 1.0)


class Sinkhorn(NamedTuple):
    """A certified transport cost.

    Attributes:
        cost: `(B,)`, mean Euclidean distance (not squared) under a feasible plan; differentiable.
        lower_bound: `(B,)`, no plan costs less. No gradient.
    """

    cost: torch.Tensor
    lower_bound: torch.Tensor


def sinkhorn(
    x: torch.Tensor,
    y: torch.Tensor,
    tolerance: float = 1e-2,
    x_lengths: torch.Tensor | None = None,
    y_lengths: torch.Tensor | None = None,
    max_sweeps: int = 10_000,
) -> Sinkhorn:
    """Return the optimal transport cost of each pair of clouds, every point of a cloud weighing the same.

    `W(x, y) = min sum_ij P_ij |x_i - y_j|` over plans P >= 0 with rows that sum to 1/N and columns that sum to 1/M.
    For clouds of equal size this is the mean distance of the best bijection, the EMD.

    Args:
        x: clouds `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        y: clouds `(B, M, D)` of the same dtype, device and batch size; M may differ from N.
        tolerance: `cost - lower_bound` ends at most this fraction of the cost; 1e-6 to 1.
        x_lengths: int64 `(B,)`, how many rows of each cloud are points; None means all.
        y_lengths: the same for y.
        max_sweeps: bound on the work: a sweep takes O(N M) time and O(N + M) memory.

    Returns:
        `Sinkhorn(cost (B,), lower_bound (B,))`: the true cost is between the two. Where the gap is above the
        tolerance, a `RuntimeWarning` gives its width. It stays open where `max_sweeps` is reached, and where
        the cost is so small compared with the diameter of the clouds that float64 cannot hold a better plan: below
        about 1e-12 of it at a tolerance of 1e-2, earlier where points that exchange mass are in clusters far
        smaller than the clouds. Clouds with the same points in the same shares have cost 0, exactly.

        Derivatives, in every mode and order, hold the plan constant: they are those of an upper bound that is
        within the tolerance. The plan is rebuilt for them in strips, in float64; what is kept between the passes
        is O(N + M).

    Raises:
        InputError: shapes, dtypes or devices do not fit, a cloud is empty, a coordinate is NaN or infinite, the
            tolerance, a length or the bound on the sweeps is out of range, or the call is inside
            `torch.compile` or `torch.func.vmap`: how many sweeps are needed depends on the values.

    Example:
        >>> x = torch.tensor([[[0.0], [1.0]]])
        >>> round(sinkhorn(x, torch.tensor([[[3.0]]])).cost.item(), 6)
        2.5
    """
    if torch.compiler.is_compiling():
        raise InputError("sinkhorn cannot be compiled: its sweeps depend on values; call it outside torch.compile")
    x, y = _check.clouds("x", x, "(B, N, D)"), _check.clouds("y", y, "(B, M, D)")
    _check.alike("x", x, "y", y)
    if _mapped(x) or _mapped(y):
        raise InputError("sinkhorn cannot be mapped by vmap: its sweeps depend on values; give it the batch")
    _check.lengths("x_lengths", x_lengths, "x", x)
    _check.lengths("y_lengths", y_lengths, "y", y)
    low, high = _TOLERANCES
    # Compared before it is converted: the float32 nearest to 1e-6 is below it.
    given: Any = tolerance
    if isinstance(given, bool) or not isinstance(given, Real) or not low <= given <= high:
        raise InputError(f"tolerance must be between {low:g} and {high:g}, got {tolerance!r}")
    tolerance = max(float(tolerance), low)
    given = max_sweeps
    if isinstance(given, bool) or not isinstance(given, Integral) or given < 1:
        raise InputError(f"max_sweeps must be a positive integer, got {max_sweeps!r}")
    x = without_padding(x, past(x_lengths, x.shape[1]))
    y = without_padding(y, past(y_lengths, y.shape[1]))
    _check.finite(x=x, y=y)
    costs, bounds, open_gaps = [x.new_zeros(0)], [x.new_zeros(0)], {}
    for b in range(len(x)):
        one_x = x[b : b + 1, : None if x_lengths is None else int(x_lengths[b])]
        one_y = y[b : b + 1, : None if y_lengths is None else int(y_lengths[b])]
        solved = _Pair(one_x.detach().double(), one_y.detach().double(), tolerance, max_sweeps).solve()
        value, bound = _rounded(solved, x.dtype)
        # Judged as it is returned, and written so that NaN is above the tolerance.
        if not value - bound <= tolerance * value:
            open_gaps[b] = 1 - bound / value
        value, bound = x.new_tensor([value]), x.new_tensor([bound])
        if _transport_plan.tracked(x, y):
            value = _transport_plan.differentiable(value, one_x, one_y, solved.plan)
        costs.append(value)
        bounds.append(bound)
    if open_gaps:
        worst = max(open_gaps, key=open_gaps.get)
        warnings.warn(
            f"sinkhorn left {len(open_gaps)} of {len(x)} pairs above the tolerance {tolerance:g}, the worst pair "
            f"{worst} with a gap of {open_gaps[worst]:.2g} of its cost: max_sweeps={max_sweeps} was reached, or "
            "float64 holds no better plan; the bounds hold all the same",
            RuntimeWarning,
            stacklevel=2,
        )
    return Sinkhorn(torch.cat(costs), torch.cat(bounds))


def _mapped(x: torch.Tensor) -> bool:
    """Return whether vmap hides a dimension of x."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


def _rounded(solved: "_Solved", dtype: torch.dtype) -> tuple[float, float]:
    """Return cost and lower bound as they are in the dtype of the clouds."""
    cost, lower = torch.tensor([solved.cost, solved.lower], dtype=torch.float64).to(dtype)
    # A bound must survive being rounded; the cost may round by half a unit either way.
    if lower.double() > solved.lower:
        lower = torch.nextafter(lower, torch.zeros_like(lower))
    return float(cost), min(float(lower), float(cost))


def softmin(x: torch.Tensor, y: torch.Tensor, potential: torch.Tensor, scale: float) -> torch.Tensor:
    """Return `(B, N)` soft minima `-scale log sum_j exp((potential_j - |x_i - y_j|) / scale)`, outside autograd."""
    if _native.has_kernels(x.device):
        return _native.call("softmin", scale, x=x, y=y, potential=potential)
    _native.prepare_reference(x=x, y=y, potential=potential)
    minima = []
    for rows in _transport_plan.strips(x, y):
        terms = potential[:, None] - _transport_plan.squares_of(_transport_plan.differences_of(x, y, rows)).sqrt()
        # The largest term is taken out before the division, which would round it when the scale is small.
        top = terms.amax(dim=2, keepdim=True)
        minima.append(-(top[..., 0] + scale * ((terms - top) / scale).exp_().sum(dim=2).log()))
    return torch.cat(minima, dim=1)


class _Solved(NamedTuple):
    cost: float
    lower: float
    plan: _transport_plan.Plan


class _Candidate(NamedTuple):
    cost: float
    misplaced: float
    plan: _transport_plan.Plan


class _Pair:
    """One pair of clouds, `(1, n, D)` and `(1, m, D)` in float64, brought to a diameter near 1."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, tolerance: float, max_sweeps: int):
        low = torch.minimum(x.amin(dim=1), y.amin(dim=1))
        high = torch.maximum(x.amax(dim=1), y.amax(dim=1))
        self._unit, self._diameter = _measure(high - low)
        # Neither the shift nor the unit rounds a coordinate: small distances in large clouds keep all their digits.
        # The difference of numbers within a factor of two of each other is exact (Sterbenz); other clouds reach no
        # farther from the origin than twice their width, and stay.
        shift = torch.where((low > 0) & (high <= 2 * low), low, 0)
        shift = torch.where((high < 0) & (low >= 2 * high), high, shift)[:, None]
        self._x, self._y = (x - shift) / self._unit, (y - shift) / self._unit
        middle = ((low + high) / 2)[:, None]
        self._narrow = ((x - middle) / self._unit).float(), ((y - middle) / self._unit).float()
        self._tolerance, self._max_sweeps = tolerance, max_sweeps
        self._f, self._g = self._x.new_zeros(x.shape[:2]), self._y.new_zeros(y.shape[:2])
        self._log_n, self._log_m = math.log(x.shape[1]), math.log(y.shape[1])
        self._sweeps = 0
        self._best: _Candidate | None = None
        self._lower = 0.0

    def solve(self) -> _Solved:
        plan = self._coincidence()
        if plan is not None:
            return _Solved(0.0, 0.0, plan)
        scale = _FIRST_SCALE * self._diameter
        while True:
            self._sweep_evenly(scale)
            for _ in range(_SWEEPS_PER_SCALE - 1):
                self._sweep(scale, _RELAXATION_DOWN)
            # The regularized plan costs about the scale too much; this is where that meets the tolerance.
            enough = max(self._tolerance * self._soft_value(), self._last_scale())
            if scale <= enough or self._spent():
                break
            # Clouds much nearer to each other than their own points are already certified, and potentials round the
            # less, the larger the scale.
            if scale < _FLOAT32_SCALE * self._diameter:
                self._certify(scale)
                if self._certified():
                    break
            scale = max(scale / 2, enough)
        certified = self._best is not None and self._certified()
        while not certified and not self._sweep_at(scale) and not self._spent() and scale > self._last_scale():
            scale /= 2
        best = self._best
        # Back in the units of the clouds.
        plan = best.plan._replace(levels=best.plan.levels / self._unit)
        return _Solved(best.cost * self._unit, self._lower * self._unit, plan)

    def _coincidence(self) -> _transport_plan.Plan | None:
        """Return the plan that moves nothing, if the clouds have the same points in the same shares."""
        n, m = self._x.shape[1], self._y.shape[1]
        places, place = torch.cat([self._x[0], self._y[0]]).unique(dim=0, return_inverse=True)
        here, there = (part.bincount(minlength=len(places)) for part in (place[:n], place[n:]))
        if not torch.equal(here * m, there * n):
            return None
        log_left = -(n * there[place[:n]]).double().log()
        levels = log_left.new_tensor([[_APART]])
        return _transport_plan.Plan(levels, log_left[None, None], log_left.new_zeros((1, 1, m)), squared=False)

    def _spent(self) -> bool:
        return self._sweeps >= self._max_sweeps

    def _certified(self) -> bool:
        return self._best.cost - self._lower <= (self._tolerance - _FLOAT32_GAP) * self._best.cost

    def _last_scale(self) -> float:
        largest = float(self._f.abs().max()) + float(self._g.abs().max())
        return max(_LAST_SCALE * self._diameter, _ULP * largest / (_ROUNDING_SHARE * self._tolerance))

    def _soft_value(self) -> float:
        return float(self._f.double().mean() + self._g.double().mean())

    def _sweep_at(self, scale: float) -> bool:
        """Iterate at one regularization until the pair is certified or a smaller regularization is needed."""
        sweeps, relaxation, before = _FIRST_CERTIFICATE, 1.0, math.inf
        while True:
            for _ in range(sweeps):
                self._sweep(scale, relaxation)
            relaxation = self._best_relaxation(scale)
            candidate = self._certify(scale)
            if self._certified() or self._spent():
                return self._certified()
            # So little mass is misplaced that it cannot cause the gap; or nothing changes any more.
            if candidate.misplaced <= 0.2 * self._tolerance * candidate.cost or candidate.misplaced == before:
                return False
            before = candidate.misplaced
            sweeps += sweeps // 2

    def _best_relaxation(self, scale: float) -> float:
        """Sweep a few times plainly and return the over-relaxation that suits the rate of convergence."""
        changes = []
        for _ in range(_PLAIN_SWEEPS):
            before = self._g
            self._sweep(scale, 1.0)
            changes.append(float((self._g - before.to(self._g.dtype)).norm()))
        rate = min(changes[-1] / changes[-2], 1.0) if changes[-2] > 0 else 0.0
        return min(2 / (1 + math.sqrt(1 - rate)), _RELAXATION)

    def _sweep(self, scale: float, relaxation: float) -> None:
        """Update both potentials once: each becomes the soft minimum of the other, or goes beyond it."""
        if self._spent():
            return
        x, y = self._clouds(scale)
        f, g = self._f.to(x.dtype), self._g.to(x.dtype)
        f = torch.lerp(f, softmin(x, y, g, scale) + scale * self._log_m, relaxation)
        g = torch.lerp(g, softmin(y, x, f, scale) + scale * self._log_n, relaxation)
        self._f, self._g = f, g
        self._sweeps += 1

    def _sweep_evenly(self, scale: float) -> None:
        """Let both sides take half of what the potentials miss.

        In turns the first side would take all. Scale after scale that drives the potentials of clouds near each
        other apart, and only small ones are stored finely enough for small costs.
        """
        if self._spent():
            return
        x, y = self._clouds(scale)
        f, g = self._f.to(x.dtype), self._g.to(x.dtype)
        self._f = torch.lerp(f, softmin(x, y, g, scale) + scale * self._log_m, 0.5)
        self._g = torch.lerp(g, softmin(y, x, f, scale) + scale * self._log_n, 0.5)
        self._sweeps += 1

    def _clouds(self, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        return self._narrow if scale >= _FLOAT32_SCALE * self._diameter else (self._x, self._y)

    def _certify(self, scale: float) -> _Candidate:
        """Turn the potentials into a feasible plan and feasible prices; keep the better of each."""
        f, g = self._f.double(), self._g.double()
        candidate = self._round(f, g, scale)
        if self._best is None or candidate.cost < self._best.cost:
            self._best = candidate
        # A soft minimum never exceeds the minimum, so these prices satisfy price_i + price_j <= |x_i - y_j|.
        prices = softmin(self._x, self._y, g, _SHARP)
        prices_back = softmin(self._y, self._x, prices, _SHARP)
        # What violates it has a distance below the sum of the two prices, and so a rounding error of that size.
        largest = float(prices.abs().max()) + float(prices_back.abs().max())
        margin = (_SAFETY + self._x.shape[2]) * _ULP * largest
        self._lower = max(self._lower, float(prices.mean() + prices_back.mean()) - margin)
        return candidate

    def _round(self, f: torch.Tensor, g: torch.Tensor, scale: float) -> _Candidate:
        """Scale rows and columns that hold too much, then spread what is missing as a product of the two sides."""
        x, y = self._x, self._y
        log_both = self._log_n + self._log_m

        def log_sums(own, points, potential, others):
            return (own - softmin(points, others, potential, scale)) / scale - log_both

        rows = log_sums(f, x, g, y)
        f = f + scale * (-self._log_n - rows).clamp(max=0)
        columns = log_sums(g, y, f, x)
        g = g + scale * (-self._log_m - columns).clamp(max=0)
        missing = (math.exp(-self._log_n) - log_sums(f, x, g, y).exp()).clamp(min=0)
        missing_back = (math.exp(-self._log_m) - columns.exp()).clamp(min=0)
        # The sums of both sides agree up to rounding; nothing is missing where either is 0.
        share = missing_back / max(float(missing_back.sum()), 1e-300)
        levels = x.new_tensor([[-1 / scale, 0]])
        log_left = torch.stack([f / scale - log_both, missing.log()], dim=1)
        log_right = torch.stack([g / scale, share.log()], dim=1)
        plan = _transport_plan.Plan(levels, log_left, log_right, squared=False)
        kept, misplaced = _transport_plan.costs(x, y, plan)[0].tolist()
        return _Candidate(kept + misplaced, misplaced, plan)


def _measure(sides: torch.Tensor) -> tuple[float, float]:
    """Return a power of two and the diagonal of a box in that unit, 1/2 to 1; of a point, 1 and 1."""
    longest = float(sides.max())
    if longest == 0:
        return 1.0, 1.0
    # In two steps: the squares of the sides as they are may be out of float64's range.
    unit = 2.0 ** math.frexp(longest)[1]
    diagonal, exponent = math.frexp(float(torch.linalg.vector_norm(sides / unit)))
    return unit * 2.0**exponent, diagonal


@_native.fake("softmin")
def _(x, y, potential, scale):
    return x.new_empty(x.shape[:2])
