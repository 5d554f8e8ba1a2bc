"""The earth mover's distance: optimality, certificates, gradients, hard cases."""

import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch.autograd import gradcheck
from torch.library import opcheck

from pcdiff import ops

needs_native = pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")


def clouds(batch, n, dim, seed, dtype=torch.float64):
    return torch.randn(batch, n, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def surfaces(batch, n, seed, dtype=torch.float64):
    x = clouds(batch, n, 3, seed)
    axes = 0.3 + 0.7 * torch.rand(batch, 1, 3, generator=torch.Generator().manual_seed(seed + 1000))
    return (x / x.norm(dim=-1, keepdim=True) * axes).to(dtype)


def scipy_costs(x, y):
    """Return the optimal costs `(B,)` in float64."""
    costs = []
    for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True):
        distance = cdist(a, b)
        costs.append(distance[linear_sum_assignment(distance)].mean())
    return torch.tensor(costs, dtype=torch.float64)


def check_certificate(result, x, y, tolerance, optimum=None, rounding=1e-12):
    """Assert what `EMD` promises: a bijection, its cost, a true lower bound, and a closed gap."""
    n = x.shape[1]
    assert torch.equal(result.assignment.sort(dim=1).values, torch.arange(n).expand(len(x), n))
    matched = y.gather(1, result.assignment[..., None].expand_as(y))
    torch.testing.assert_close(result.cost, (x - matched).norm(dim=-1).mean(dim=1), rtol=1e-5, atol=1e-30)
    assert (result.lower_bound <= result.cost).all()
    assert (result.cost - result.lower_bound <= tolerance * result.cost).all()
    if optimum is not None:
        assert (result.lower_bound <= optimum * (1 + rounding)).all()
        assert (result.cost >= optimum * (1 - rounding)).all()
        assert (result.cost <= optimum / (1 - tolerance) * (1 + rounding)).all()


@pytest.mark.parametrize("method", ["auction", "exact"])
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_no_permutation_is_cheaper(path, method, dim):
    x, y = clouds(2, 6, dim, 0), clouds(2, 6, dim, 1)
    result = ops.emd(x, y, method=method)
    best = []
    for b in range(2):
        distances = cdist(x[b], y[b])
        best.append(
            min(sum(distances[i, j] for i, j in enumerate(p)) for p in itertools.permutations(range(6))) / 6
        )
    check_certificate(result, x, y, 1e-3 if method == "auction" else 0, torch.tensor(best, dtype=torch.float64))


@needs_native
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-6])
def test_the_gap_is_certified_on_a_thousand_pairs(tolerance):
    g = torch.Generator().manual_seed(20)
    for n, dim, count in [
        (1, 3, 20),
        (2, 3, 60),
        (5, 2, 200),
        (17, 3, 300),
        (48, 3, 250),
        (64, 4, 100),
        (150, 3, 70),
    ]:
        x = torch.randn(count, n, dim, generator=g, dtype=torch.float64)
        y = torch.randn(count, n, dim, generator=g, dtype=torch.float64)
        x[::3] = x[::3] / x[::3].norm(dim=-1, keepdim=True)
        y[1::3] = (2 * y[1::3]).round() / 2
        x[::5] = x[::5] * torch.rand(len(x[::5]), 1, dim, generator=g, dtype=torch.float64) ** 4
        check_certificate(ops.emd(x, y, tolerance=tolerance), x, y, tolerance, scipy_costs(x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_equals_scipy(path, dtype):
    for x, y in [
        (surfaces(2, 300, 2, dtype), surfaces(2, 300, 3, dtype)),
        (clouds(3, 40, 4, 4), clouds(3, 40, 4, 5)),
    ]:
        result = ops.emd(x, y, method="exact")
        torch.testing.assert_close(result.cost.double(), scipy_costs(x, y), rtol=1e-6, atol=0)
        assert torch.equal(result.lower_bound, result.cost)
        if x.dtype == torch.float64:
            torch.testing.assert_close(result.cost, scipy_costs(x, y), rtol=1e-12, atol=0)


@needs_native
def test_every_instruction_set_finds_the_same_bijection(monkeypatch):
    for dim, dtype in [(3, torch.float32), (3, torch.float64), (5, torch.float32)]:
        x, y = clouds(2, 300, dim, 6, dtype), clouds(2, 300, dim, 7, dtype)
        for tolerance in (1e-3, 0.0):
            found = []
            for capability in ops.cpu_capabilities():
                monkeypatch.setenv("PCDIFF_CPU_CAPABILITY", capability)
                found.append(torch.ops.pcdiff.assign(x, y, None, tolerance))
            for other in found[1:]:
                assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


HARD = {
    "identical": lambda x, y: (x, x.clone()),
    "shuffled": lambda x, y: (x, x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))]),
    "moved a little": lambda x, y: (x, x.flip(1) + 1e-4 * y),
    "far apart": lambda x, y: (x, y + 1000),
    "one place": lambda x, y: (x, torch.ones_like(y)),
    "both one place": lambda x, y: (torch.zeros_like(x), torch.ones_like(y)),
    "duplicated": lambda x, y: ((2 * x).round(), (2 * y).round()),
    "two places": lambda x, y: (x.sign()[..., :1].expand_as(x), y),
    "collinear": lambda x, y: (x * torch.tensor([1.0, 0, 0]), y * torch.tensor([1.0, 0, 0])),
    "clusters apart": lambda x, y: (1e-3 * x + x[:, :4].repeat(1, 75, 1), 1e-3 * y + y[:, :4].repeat(1, 75, 1)),
    "grid": lambda x, y: (_grid(x), _grid(x) + 0.5),
    "tiny": lambda x, y: (1e-12 * x, 1e-12 * y),
    "huge": lambda x, y: (1e12 * x, 1e12 * y),
    "planar and turned": lambda x, y: _turned(x * torch.tensor([1.0, 1, 0])),
    "nearly planar": lambda x, y: (x * torch.tensor([1.0, 1, 0]), x * torch.tensor([1, 1, 1e-17])),
    "an axis far away": lambda x, y: (_lifted(x), _lifted(y)),
    "an outlier": lambda x, y: (torch.cat([x[:, :-1], 1e4 + x[:, -1:]], dim=1), y),
}


def _turned(x):
    cosine, sine = math.cos(0.3), math.sin(0.3)
    turn = torch.tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]], dtype=x.dtype)
    return x, (x @ turn.T) @ turn


def _lifted(x):
    return torch.cat([x[..., :2], torch.full_like(x[..., :1], 1e15)], dim=2)


def _grid(x):
    side = torch.arange(x.shape[1], dtype=x.dtype)
    return torch.stack([side % 5, side // 5 % 6, side // 30], dim=-1).expand_as(x).clone()


@needs_native
@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hard_cases_end_with_their_certificate(name, dtype):
    x, y = HARD[name](clouds(1, 300, 3, 8, dtype), clouds(1, 300, 3, 9, dtype))
    optimum = scipy_costs(x, y)
    rounding = 1e-12 if dtype == torch.float64 else 1e-6
    for tolerance in (1e-1, 1e-3):
        check_certificate(ops.emd(x, y, tolerance=tolerance), x, y, tolerance, optimum, rounding)
    exact = ops.emd(x, y, method="exact")
    torch.testing.assert_close(exact.cost.double(), optimum, rtol=rounding, atol=0)


@needs_native
def test_the_bids_are_bounded_and_the_paths_take_over():
    # Scales 10^12 apart: rounds of an auction that pays by increments would continue for ages.
    g = torch.Generator().manual_seed(1)
    scale = 10 ** (12 * torch.rand(1, 200, 1, generator=g, dtype=torch.float64) - 12)
    x = torch.randn(1, 200, 3, generator=g, dtype=torch.float64) * scale
    y = torch.randn(1, 200, 3, generator=g, dtype=torch.float64) * scale.flip(1)
    for tolerance in (1e-3, 1e-9, 1e-13):
        check_certificate(ops.emd(x, y, tolerance=tolerance), x, y, tolerance, scipy_costs(x, y))


@needs_native
@pytest.mark.parametrize("scale", [1e-13, 1e-16, 1e-20])
def test_small_distances_do_not_drown_in_large_prices(scale):
    # A hundred points within `scale` of one another, and one that both clouds share, far away.
    near = scale * clouds(1, 100, 3, 25), scale * clouds(1, 100, 3, 26)
    x, y = (torch.cat([cloud, torch.full((1, 1, 3), 2.0).double()], dim=1) for cloud in near)
    optimum = scipy_costs(near[0] / scale, near[1] / scale) * scale * 100 / 101
    for method in ("auction", "exact"):
        check_certificate(ops.emd(x, y, method=method), x, y, 1e-3 if method == "auction" else 0, optimum)


@needs_native
def test_subnormal_clouds():
    x, y = clouds(1, 100, 3, 25), clouds(1, 100, 3, 26)
    optimum = scipy_costs(x, y) * 1e-310
    result = ops.emd(x * 1e-310, y * 1e-310)
    assert (result.lower_bound <= optimum).all()
    assert (optimum <= result.cost * (1 + 1e-9)).all()
    assert (result.cost - result.lower_bound <= 1e-3 * result.cost).all()


@needs_native
@pytest.mark.parametrize("tolerance", [1e-3, 4e-6, 1e-7, 1e-12])
def test_float32_costs_keep_the_tolerance(tolerance):
    x, y = clouds(64, 100, 3, 27, torch.float32), clouds(64, 100, 3, 28, torch.float32)
    check_certificate(ops.emd(x, y, tolerance=tolerance), x, y, tolerance, scipy_costs(x, y), 1e-6)


@needs_native
def test_many_dimensions_and_many_points():
    x, y = clouds(1, 12, 5000, 29), clouds(1, 12, 5000, 30)
    check_certificate(ops.emd(x, y), x, y, 1e-3, scipy_costs(x, y))
    x, y = surfaces(1, 1500, 31), surfaces(1, 1500, 32)
    check_certificate(ops.emd(x, y), x, y, 1e-3, scipy_costs(x, y))
    torch.testing.assert_close(ops.emd(x, y, method="exact").cost, scipy_costs(x, y), rtol=1e-12, atol=0)


@needs_native
def test_python_threads_and_inference_mode():
    x, y = surfaces(6, 200, 33), surfaces(6, 200, 34)
    want = ops.emd(x, y)
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda b: ops.emd(x[b : b + 1], y[b : b + 1]), range(6)))
    assert torch.equal(torch.cat([g.assignment for g in got]), want.assignment)
    with torch.inference_mode():
        assert torch.equal(ops.emd(x, y).cost, want.cost)


def test_on_a_line_the_sorted_points_match(path):
    x, y = clouds(3, 50, 1, 2), clouds(3, 50, 1, 3)
    want = (x.sort(dim=1).values - y.sort(dim=1).values).abs().mean(dim=(1, 2))
    torch.testing.assert_close(ops.emd(x, y, method="exact").cost, want)


def test_metric_properties():
    x, y, z = (clouds(2, 30, 3, s) for s in (4, 5, 6))

    def exact(a, b):
        return ops.emd(a, b, method="exact")

    there = exact(x, y).cost
    torch.testing.assert_close(exact(y, x).cost, there)
    torch.testing.assert_close(exact(3 * x + 1, 3 * y + 1).cost, 3 * there)
    assert (there <= exact(x, z).cost + exact(z, y).cost).all()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    for method in ("auction", "exact"):
        shuffled = ops.emd(x, x[:, order], method=method)
        assert shuffled.cost.tolist() == [0, 0]
        assert torch.equal(shuffled.assignment, order.argsort().expand(2, -1))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.integers(1, 40),
    st.sampled_from([1, 2, 3, 4]),
    st.integers(0, 2**31),
    st.sampled_from([2.0**-40, 1.0, 2.0**60]),
)
def test_scale_by_a_power_of_two_translation_and_permutation(n, dim, seed, scale):
    g = torch.Generator().manual_seed(seed)
    # Multiples of 1/64: moving and scaling them rounds nothing.
    x, y = (torch.randint(-256, 256, (1, n, dim), generator=g).double() / 64 for _ in range(2))
    result = ops.emd(x, y)
    assert torch.equal(ops.emd(scale * x, scale * y).cost, scale * result.cost)
    optimum = scipy_costs(x, y)
    p, q = torch.randperm(n, generator=g), torch.randperm(n, generator=g)
    check_certificate(ops.emd(x[:, p] + 16, y[:, q] + 16), x[:, p], y[:, q], 1e-3, optimum)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=g, dtype=torch.float64)).Q
    check_certificate(ops.emd(x @ turn, y @ turn), x @ turn, y @ turn, 1e-3, optimum)


def test_lengths_are_the_clouds_cut_short(path):
    x, y = clouds(3, 40, 3, 10), clouds(3, 40, 3, 11)
    x[1, 30:] = float("nan")
    lengths = torch.tensor([40, 30, 1])
    both = {"x_lengths": lengths, "y_lengths": lengths.clone()}
    for method in ("auction", "exact"):
        result = ops.emd(x, y, method=method, **both)
        for b, n in enumerate(lengths.tolist()):
            alone = ops.emd(x[b : b + 1, :n], y[b : b + 1, :n], method=method)
            assert torch.equal(result.assignment[b, :n], alone.assignment[0])
            assert torch.equal(result.assignment[b, n:], torch.arange(n, 40))
            torch.testing.assert_close(result.cost[b], alone.cost[0], rtol=1e-14, atol=0)
            torch.testing.assert_close(result.lower_bound[b], alone.lower_bound[0], rtol=1e-14, atol=0)
    x.nan_to_num_().requires_grad_()
    ops.emd(x, y, **both).cost.sum().backward()
    assert (x.grad[1, 30:] == 0).all()
    assert (x.grad[2, 0] != 0).all()


@pytest.mark.parametrize("method", ["auction", "exact"])
def test_gradient_is_that_of_the_matched_distances(path, method):
    x, y = clouds(2, 7, 3, 7).requires_grad_(), clouds(2, 7, 3, 8).requires_grad_()
    assert gradcheck(lambda a, b: ops.emd(a, b, method=method).cost, (x, y))
    result = ops.emd(x, y, method=method)
    assert not result.lower_bound.requires_grad
    result.cost.sum().backward()
    # Each point is pulled by 1/N along its own unit vector.
    torch.testing.assert_close(x.grad.norm(dim=-1), torch.full((2, 7), 1 / 7, dtype=torch.float64))


def test_gradient_is_finite_where_points_coincide():
    x = clouds(1, 5, 3, 9).requires_grad_()
    (gradient,) = torch.autograd.grad(ops.emd(x, x.detach().clone()).cost.sum(), x, create_graph=True)
    assert torch.equal(gradient, torch.zeros_like(x))
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert torch.equal(second, torch.zeros_like(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision(dtype):
    x, y = clouds(2, 40, 3, 10).to(dtype), clouds(2, 40, 3, 11).to(dtype)
    result = ops.emd(x, y)
    assert result.cost.dtype == result.lower_bound.dtype == torch.float32
    check_certificate(result, x.float(), y.float(), 1e-3, scipy_costs(x, y), 1e-6)


def test_autocast_changes_nothing():
    x, y = clouds(2, 40, 3, 12, torch.float32), clouds(2, 40, 3, 13, torch.float32)
    want = ops.emd(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = ops.emd(x, y)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_non_contiguous_input_and_empty_batch(path):
    x, y = clouds(4, 60, 3, 14)[::2, ::3], clouds(2, 3, 20, 15).mT
    assert not x.is_contiguous()
    assert not y.is_contiguous()
    assert torch.equal(ops.emd(x, y).assignment, ops.emd(x.contiguous(), y.contiguous()).assignment)
    assert ops.emd(x[:0], y[:0]).assignment.shape == (0, 20)


@needs_native
def test_native_ops_pass_opcheck():
    x, y = clouds(2, 20, 3, 16), clouds(2, 20, 3, 17)
    opcheck(torch.ops.pcdiff.assign.default, (x, y, None, 1e-3))
    opcheck(torch.ops.pcdiff.assign.default, (x.float(), y.float(), torch.tensor([20, 3]), 0.0))
    opcheck(torch.ops.pcdiff.assign_matrix.default, (x, y, True, 1e-3))


@needs_native
def test_compiles_to_one_graph_with_gradient():
    def total(a, b):
        return ops.emd(a, b).cost.sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    x, y = clouds(2, 33, 3, 18).requires_grad_(), clouds(2, 33, 3, 19).requires_grad_()
    got, want = (torch.autograd.grad(f(x, y), (x, y)) for f in (compiled, total))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@needs_native
def test_a_compiled_graph_checks_that_lengths_agree():
    x, lengths = clouds(2, 10, 3, 35), torch.tensor([10, 4])
    compiled = torch.compile(
        lambda n: ops.emd(x, x, x_lengths=lengths, y_lengths=n).cost, fullgraph=True, backend="eager"
    )
    assert compiled(lengths.clone()).tolist() == [0, 0]
    with pytest.raises(RuntimeError, match="y_lengths must equal x_lengths"):
        compiled(torch.tensor([10, 5]))


def test_results_do_not_depend_on_the_number_of_threads():
    x, y = surfaces(4, 200, 21), surfaces(4, 200, 22)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((*ops.emd(x, y), ops.pairwise(x, y, distance="emd")))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("distance", ["emd", "emd-exact"])
def test_matrices_hold_the_distances_of_pairs(path, distance):
    xs, ys = surfaces(3, 40, 23), surfaces(4, 40, 24)
    method = {"emd": "auction", "emd-exact": "exact"}[distance]
    seen = []
    got = ops.pairwise(xs, ys, distance=distance, progress=seen.append)
    assert seen[-1] == 12
    for i in range(3):
        torch.testing.assert_close(
            got[i], ops.emd(xs[i].expand(4, -1, -1), ys, method=method).cost, rtol=1e-13, atol=0
        )


def test_estimate_is_of_the_solver_in_use(monkeypatch):
    quick = ops.estimated_emd_seconds(100, 2048)
    monkeypatch.setattr("pcdiff.ops._native._missing", "hidden by the test")
    threads = torch.get_num_threads()
    assert ops.estimated_emd_seconds(100, 2048) == 100 / threads
    if os.environ.get("PCDIFF_NATIVE") != "0":
        assert quick < 10
    assert np.isclose(ops.estimated_emd_seconds(100, 1024), 100 * 2**-2.5 / threads)
