"""Certified Sinkhorn against exact solvers, and its kernel against logsumexp, on every path this machine has."""

import re
import warnings

import numpy as np
import pytest
import torch
from derivatives import check_derivatives
from scipy.optimize import linear_sum_assignment, linprog
from torch.library import opcheck

from pcdiff import ops
from pcdiff.errors import InputError
from pcdiff.ops import _transport_plan
from pcdiff.ops._sinkhorn import _Pair, sinkhorn, softmin


def clouds(batch, n, dim=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n, dim, generator=generator, dtype=torch.float64).to(dtype)


def surface(batch, n, seed, dtype=torch.float64):
    x = clouds(batch, n, 3, seed)
    return (x / x.norm(dim=-1, keepdim=True) * torch.tensor([1.0, 0.6, 0.3])).to(dtype)


def distances(x, y):
    return (x.double()[:, :, None] - y.double()[:, None]).norm(dim=-1)


def exact(x, y):
    """The least cost of each pair, by an assignment or, for unequal sizes, by linear programming."""
    out = []
    for d in distances(x, y).numpy():
        n, m = d.shape
        if n == m:
            rows, columns = linear_sum_assignment(d)
            out.append(d[rows, columns].mean())
            continue
        sums = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
        right = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
        out.append(linprog(d.ravel(), A_eq=sums, b_eq=right, method="highs").fun)
    return torch.tensor(out, dtype=torch.float64)


def check_certificate(x, y, tolerance):
    cost, lower = sinkhorn(x, y, tolerance)
    assert cost.dtype == lower.dtype == x.dtype
    rounding = 1e-6 if x.dtype == torch.float32 else 1e-9
    want = exact(x, y)
    assert (lower.double() <= want * (1 + 1e-12) + 1e-12).all()
    assert (want <= cost.double() * (1 + rounding) + 1e-9).all()
    assert (cost.double() - lower.double() <= tolerance * cost.double() + 1e-8).all()
    return cost, lower


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (40, 40), (30, 17), (17, 30)])
def test_bounds_enclose_the_exact_cost(path, dtype, n, m):
    check_certificate(clouds(2, n, 3, 1, dtype), clouds(2, m, 3, 2, dtype), 1e-2)
    check_certificate(clouds(1, n, 2, 3, dtype), clouds(1, m, 2, 4, dtype) + 3, 1e-3)


@pytest.mark.parametrize("tolerance", [1.0, 0.1, 1e-2, 1e-3, 1e-5])
def test_every_tolerance_is_met(tolerance):
    check_certificate(clouds(1, 60, 3, 5), clouds(1, 60, 3, 6) * 0.7, tolerance)


def test_two_samples_of_one_surface():
    check_certificate(surface(1, 300, 7, torch.float32), surface(1, 300, 8, torch.float32), 1e-2)


@pytest.mark.parametrize("kind", ["duplicated", "collinear", "clustered", "five"])
def test_awkward_clouds(path, kind):
    x, y = clouds(1, 32, 3, 9), clouds(1, 32, 3, 10)
    if kind == "duplicated":
        x, y = x.round(), y.round()
    elif kind == "collinear":
        x, y = x[..., :1].expand(-1, -1, 3), y[..., :1].expand(-1, -1, 3)
    elif kind == "clustered":
        x, y = 1e-3 * x, 1e-3 * y
        x[:, :16] += 1
        y[:, :20] += 1
    else:
        x, y = clouds(1, 32, 5, 9), clouds(1, 32, 5, 10)
    check_certificate(x, y, 1e-2)


def test_clouds_of_no_distance(path):
    x = clouds(1, 50, 3, 11)
    pairs = [
        (x, x.clone()),
        (x, x.flip(1)),
        (x, x.flip(1).repeat(1, 3, 1)),
        (torch.ones(1, 4, 3), torch.ones(1, 7, 3)),
        (-0.0 * x, 0.0 * x[:, :7]),
        (x[:, :1], x[:, :1]),
    ]
    for a, b in pairs:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            if path == "reference":
                warnings.filterwarnings("ignore", message="pcdiff.ops runs on its slow")
            cost, lower = sinkhorn(a, b, 1e-3)
        assert cost.item() == lower.item() == 0


def test_scale_and_translation():
    x, y = clouds(1, 40, 3, 12), clouds(1, 50, 3, 13)
    cost, lower = sinkhorn(x, y)
    for factor in (1e-6, 1e5):
        got = sinkhorn(factor * x, factor * y)
        torch.testing.assert_close(got.cost, factor * cost, rtol=1e-4, atol=0)
        torch.testing.assert_close(got.lower_bound, factor * lower, rtol=1e-4, atol=0)
    torch.testing.assert_close(sinkhorn(x + 100, y + 100).cost, cost, rtol=1e-4, atol=0)


def test_clouds_near_each_other_are_certified_or_announced(path):
    x, noise = clouds(1, 60, 3, 33), clouds(1, 60, 3, 34)
    for shift in (0, 50):
        for size in (1e-6, 1e-9, 1e-10, 1e-11):
            a, b = x + shift, x + shift + size * noise
            # So near each other that every point stays where it is.
            want = (a - b).norm(dim=-1).mean()
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                cost, lower = sinkhorn(a, b, 1e-2)
            assert lower <= want * (1 + 1e-6)
            assert want <= cost * (1 + 1e-6)
            assert cost - lower <= 1e-2 * cost
    y = x + 1e-15 * noise
    with pytest.warns(RuntimeWarning, match=r"left 1 of 1 pairs above the tolerance 0\.01, the worst pair 0"):
        cost, lower = sinkhorn(x, y, 1e-2)
    assert lower <= (x - y).norm(dim=-1).mean() <= cost * (1 + 1e-3)


@pytest.mark.parametrize("hidden", [1e3, float("nan"), float("inf")])
def test_lengths_hide_the_rows_past_them(path, hidden):
    x, y = clouds(2, 20, 3, 14), clouds(2, 25, 3, 15)
    x[1, 12:] = hidden
    y[0, 21:] = -hidden
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    got = sinkhorn(a, b, x_lengths=torch.tensor([20, 12]), y_lengths=torch.tensor([21, 25]))
    got.cost.sum().backward()
    assert (a.grad[1, 12:] == 0).all()
    assert (b.grad[0, 21:] == 0).all()
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()
    assert torch.equal(got.cost[:1], sinkhorn(x[:1], y[:1, :21]).cost)
    assert torch.equal(got.cost[1:], sinkhorn(x[1:, :12], y[1:]).cost)


def test_plan_has_uniform_marginals_and_the_stated_cost(path):
    x, y = clouds(1, 40, 3, 16), clouds(1, 30, 3, 17)
    solved = _Pair(x, y, 1e-2, 10_000).solve()
    plan = _transport_plan.strip(x, y, solved.plan, slice(None))
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(2), torch.full((1, 40), 1 / 40, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(plan.sum(1), torch.full((1, 30), 1 / 30, dtype=torch.float64), rtol=1e-9, atol=0)
    assert (plan * distances(x, y)).sum().item() == pytest.approx(solved.cost, rel=1e-9)


def test_gradient_is_that_of_the_plan_held_constant(native_or_not):
    x, y = clouds(1, 12, 3, 18), clouds(1, 9, 3, 19)
    plan = _transport_plan.strip(x, y, _Pair(x, y, 1e-2, 10_000).solve().plan, slice(None))
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    sinkhorn(a, b).cost.backward()
    step = 1e-6
    for leaf, other, grad in [(x, y, a.grad), (y, x, b.grad)]:
        for place in [(0, 0, 0), (0, 5, 1), (0, 8, 2)]:
            up, down = leaf.clone(), leaf.clone()
            up[place] += step
            down[place] -= step
            up, down = ((distances(p, other) if leaf is x else distances(other, p)) for p in (up, down))
            slope = ((plan * (up - down)).sum() / (2 * step)).item()
            assert grad[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by forward mode itself
def test_every_mode_and_order_holds_the_plan_constant(native_or_not):
    x, y = clouds(2, 7, 3, 35), clouds(2, 5, 3, 36)
    pairs = [(x[b : b + 1], y[b : b + 1]) for b in range(2)]
    plan = torch.cat(
        [_transport_plan.strip(*pair, _Pair(*pair, 0.1, 10_000).solve().plan, slice(None)) for pair in pairs]
    )

    def fixed(a, b):
        return (plan * (a[:, :, None] - b[:, None]).norm(dim=-1)).sum((1, 2))

    def cost(a, b):
        return sinkhorn(a, b, 0.1).cost

    check_derivatives(cost, fixed, x, y)


def test_cannot_be_compiled_or_mapped():
    x, y = clouds(1, 6, 3, 37), clouds(1, 5, 3, 38)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="sinkhorn cannot be compiled"):
        torch.compile(lambda a: sinkhorn(a, y).cost, fullgraph=True, backend="eager")(x)
    for function in (lambda a: sinkhorn(a, y).cost, torch.func.grad(lambda a: sinkhorn(a, y).cost.sum())):
        with pytest.raises(InputError, match="sinkhorn cannot be mapped by vmap"):
            torch.func.vmap(function)(x[None])


def test_tolerances_of_numpy_are_numbers():
    x, y = clouds(1, 6, 3, 37), clouds(1, 5, 3, 38)
    for tolerance in (1e-2, 1e-6):
        want = sinkhorn(x, y, tolerance)
        assert torch.equal(sinkhorn(x, y, np.float64(tolerance)).cost, want.cost)
        got = sinkhorn(x, y, np.float32(tolerance), max_sweeps=np.int64(10_000))
        assert got.cost - got.lower_bound <= tolerance * 1.000001 * got.cost


def test_gradient_in_float32_and_where_none_is_asked(native_or_not):
    x, y = surface(2, 64, 20, torch.float32), surface(2, 64, 21, torch.float32)
    a = x.clone().requires_grad_()
    cost, lower = sinkhorn(a, y)
    assert cost.requires_grad
    assert not lower.requires_grad
    cost.sum().backward()
    wide = x.double().requires_grad_()
    sinkhorn(wide, y.double()).cost.sum().backward()
    torch.testing.assert_close(a.grad, wide.grad.float(), rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(sinkhorn(a, y).cost, cost)
    assert sinkhorn(x[:0], y[:0]).cost.shape == (0,)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(sinkhorn(turned, y).cost, cost.detach())
    half = sinkhorn(x.half(), y.half()).cost
    assert torch.equal(half, sinkhorn(x.half().float(), y.half().float()).cost)


def test_the_bound_on_the_sweeps_is_kept_and_announced():
    x, y = surface(2, 200, 22), surface(2, 200, 23)
    with pytest.warns(RuntimeWarning, match=r"left 2 of 2 pairs above the tolerance 1e-06.*max_sweeps=30"):
        cost, lower = sinkhorn(x, y, 1e-6, max_sweeps=30)
    want = exact(x, y)
    assert (lower <= want).all()
    assert (want <= cost).all()


def check_softmin(x, y, potential, scale, tolerance):
    got = softmin(x, y, potential, scale)
    want = -scale * torch.logsumexp((potential.double()[:, None] - distances(x, y)) / scale, dim=2)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dim", [1, 2, 3, 6])
@pytest.mark.parametrize("scale", [10.0, 0.3, 1e-2, 1e-4])
def test_softmin_is_a_logsumexp(path, dim, scale):
    for dtype, tolerance in [(torch.float32, 3e-6), (torch.float64, 1e-13)]:
        for n, m in [(1, 1), (1, 40), (40, 1), (16, 16), (300, 217)]:
            potential = clouds(2, m, 1, 24, dtype)[..., 0]
            x, y = clouds(2, n, dim, 25, dtype), clouds(2, m, dim, 26, dtype)
            check_softmin(x, y, potential, scale, tolerance * max(1, scale))


def test_a_sharp_softmin_is_the_minimum(path):
    x, y = surface(1, 300, 27), surface(1, 400, 28)
    potential = clouds(1, 400, 1, 29)[..., 0]
    want = (distances(x, y) - potential[:, None]).amin(dim=2)
    got = softmin(x, y, potential, 1e-13)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-11)
    assert (got <= want + 1e-15 * want.abs().max()).all()


@pytest.mark.skipif(len(ops.cpu_capabilities()) < 2, reason="one instruction set only")
@pytest.mark.parametrize("dim", [3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instruction_set_returns_the_same_bits(dim, dtype, monkeypatch):
    x, y = clouds(2, 300, dim, 30, dtype), clouds(2, 217, dim, 31, dtype)
    potential = clouds(2, 217, 1, 32, dtype)[..., 0]
    for scale in (0.5, 1e-3):
        results = []
        for capability in ops.cpu_capabilities():
            monkeypatch.setenv("PCDIFF_CPU_CAPABILITY", capability)
            results.append(softmin(x, y, potential, scale))
        assert all(torch.equal(results[0], other) for other in results[1:])


def test_softmin_compiles_to_one_graph(native_or_not):
    x, y, potential = clouds(1, 30), clouds(1, 20), torch.zeros(1, 20, dtype=torch.float64)
    compiled = torch.compile(lambda a: softmin(a, y, potential, 0.1), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), softmin(x, y, potential, 0.1))


@pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")
def test_opcheck():
    op = torch.ops.pcdiff.softmin.default
    x, y = clouds(2, 20), clouds(2, 30)
    opcheck(op, (x, y, torch.zeros(2, 30, dtype=torch.float64), 0.1))
    opcheck(op, (x.float(), y.float(), torch.zeros(2, 30), 0.1))
    for potential, scale, message in [
        (torch.zeros(2, 20), 0.1, "one value for each point of y"),
        (torch.zeros(2, 30), 0.1, "dtype of x"),
        (torch.zeros(2, 30).double(), 0.0, "scale must be positive"),
        (torch.zeros(2, 30).double(), 1e-320, "scale is too small"),
        (torch.zeros(2, 30).double() / 0, 0.1, "potential holds NaN"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            op(x, y, potential, scale)


X = torch.zeros(2, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], X), "x must be (B, N, D), got (4, 3)"),
        ((X, X[:1]), "y must have the batch size 2 of x"),
        ((X, X / 0), "y must be finite, got 24 NaN"),
        ((X, X, 0.0), "tolerance must be between 1e-06 and 1, got 0.0"),
        ((X, X, True), "tolerance must be between 1e-06 and 1, got True"),
        ((X, X, float("nan")), "tolerance must be between 1e-06 and 1, got nan"),
        ((X, X, "tight"), "tolerance must be between 1e-06 and 1, got 'tight'"),
        ((X, X, 0.1, torch.tensor([4, 5])), "x_lengths must be in 1..4"),
        ((X, X, 0.1, None, torch.tensor([0, 4])), "y_lengths must be in 1..4"),
        ((X, X, 0.1, None, None, 0), "max_sweeps must be a positive integer, got 0"),
    ],
)
def test_bad_input(native_or_not, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        sinkhorn(*arguments)
