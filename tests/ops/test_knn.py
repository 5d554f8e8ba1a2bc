"""The k nearest neighbors against a float64 oracle, on every path this machine has."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from cloud_kinds import KINDS, cloud, rotation, tied
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from pcdiff import ops
from pcdiff.errors import InputError
from pcdiff.ops import reference


def oracle(x, y, k):
    """Squared distances and indices by a stable sort of all distances in float64."""
    x, y = x.double().numpy(), y.double().numpy()
    d = ((x[:, :, None] - y[:, None]) ** 2).sum(-1)
    index = d.argsort(axis=2, kind="stable")[..., :k]
    return np.take_along_axis(d, index, axis=2), index


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_knn_matches_the_float64_oracle(path, kind, dim):
    for dtype, tolerance in [(torch.float32, 1e-6), (torch.float64, 1e-14)]:
        for n, m, k in [(1, 1, 1), (1, 40, 40), (40, 3, 2), (17, 33, 16), (150, 217, 9)]:
            x, y = cloud(kind, 2, n, dim, 1, dtype), cloud(kind, 2, m, dim, 2, dtype)
            squared, index = ops.knn(x, y, k)
            want, want_index = oracle(x, y, k)
            np.testing.assert_allclose(squared.numpy(), want, rtol=tolerance, atol=tolerance * 1e-3)
            assert all(len(set(row)) == k for row in index.flatten(0, 1).tolist())
            if dtype == torch.float64 and kind not in ("collinear", "clustered"):
                np.testing.assert_array_equal(index.numpy(), want_index)


@cache
def wanted(kind, dim, dtype, k):
    return reference.knn(cloud(kind, 2, 100, dim, 3, dtype), cloud(kind, 2, 1000, dim, 4, dtype), k)


@pytest.mark.parametrize("kind", ["surface", "duplicated", "identical"])
@pytest.mark.parametrize("dim", [3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_path_returns_the_same_bits_as_the_reference(path, kind, dim, dtype):
    x, y = cloud(kind, 2, 100, dim, 3, dtype), cloud(kind, 2, 1000, dim, 4, dtype)
    for k in (1, 2, 8, 17, 64, 100):
        squared, index = ops.knn(x, y, k)
        want, want_index = wanted(kind, dim, dtype, k)
        assert torch.equal(squared, want)
        assert torch.equal(index, want_index)
        assert torch.equal(squared, squared.sort(dim=2).values)


@pytest.mark.parametrize("dim", [3, 6, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_order_stay_when_a_gradient_is_asked(path, dim, dtype):
    for make in (tied, lambda *sizes: cloud("surface", *sizes)):
        x, y = make(2, 100, dim, 21, dtype), make(2, 130, dim, 22, dtype)
        for lengths in ((), (torch.tensor([100, 7]), torch.tensor([11, 130]))):
            want = ops.knn(x, y, 40, *lengths)
            got = ops.knn(x, y.clone().requires_grad_(), 40, *lengths)
            assert got.squared_distance.requires_grad
            assert torch.equal(got.squared_distance, want.squared_distance)
            assert torch.equal(got.squared_distance, got.squared_distance.sort(dim=2).values)
            assert torch.equal(got.index, want.index)


def test_first_column_is_the_nearest(path):
    x, y = cloud("duplicated", 2, 100, 3, 5), cloud("duplicated", 2, 90, 3, 6)
    squared, index = ops.nearest(x, y)
    several = ops.knn(x, y, 3)
    assert torch.equal(several.squared_distance[..., 0], squared)
    assert torch.equal(several.index[..., 0], index)


def test_all_points_in_order_of_index_where_all_are_as_near(path):
    x = torch.zeros(1, 3, 3)
    assert ops.knn(x, torch.ones(1, 50, 3), 50).index.tolist() == [[list(range(50))] * 3]


@pytest.mark.parametrize("dim", [3, 5])
@pytest.mark.parametrize("k", [1, 4, 20])
def test_ragged_batches_equal_their_clouds_one_by_one(path, dim, k):
    x, y = cloud("random", 4, 40, dim, 7), cloud("random", 4, 35, dim, 8)
    nx, ny = torch.tensor([40, 1, 17, 16]), torch.tensor([2, 35, 20, 1])
    squared, index = ops.knn(x, y, k, nx, ny)
    for b, (n, m) in enumerate(zip(nx, ny, strict=True)):
        found = min(k, int(m))
        want = ops.knn(x[b : b + 1, :n], y[b : b + 1, :m], found)
        assert torch.equal(squared[b, :n, :found], want.squared_distance[0])
        assert torch.equal(index[b, :n, :found], want.index[0])
        assert (squared[b, :n, found:] == math.inf).all()
        assert (index[b, :n, found:] == -1).all()
        assert not squared[b, n:].any()
        assert not index[b, n:].any()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by forward mode itself
@pytest.mark.parametrize("dim", [3, 5])
def test_derivatives_of_every_mode(native_or_not, dim):
    x = cloud("random", 2, 3, dim, 9, torch.float64).requires_grad_()
    y = cloud("random", 2, 3, dim, 10, torch.float64).requires_grad_()

    def padded(a, b):
        squared = ops.knn(a, b, 2, torch.tensor([3, 1]), torch.tensor([1, 3])).squared_distance
        return squared.where(squared.isfinite(), 0)

    for f in (padded, lambda a, b: ops.knn(a, b, 2).squared_distance):
        assert gradcheck(f, (x, y), check_forward_ad=True)
        assert gradgradcheck(f, (x, y))


def test_a_missing_neighbor_has_no_gradient_and_no_nan(path):
    x, y = torch.zeros(1, 1, 3, requires_grad=True), torch.full((1, 4, 3), math.nan)
    y[0, 0] = torch.tensor([1.0, 2.0, 2.0])
    y.requires_grad_()
    squared = ops.knn(x, y, 3, y_lengths=torch.tensor([1])).squared_distance
    assert squared.tolist() == [[[9, math.inf, math.inf]]]
    squared.sum().backward()
    assert x.grad.tolist() == [[[-2, -4, -4]]]
    assert y.grad.tolist() == [[[2, 4, 4]] + [[0, 0, 0]] * 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(path, dtype):
    x, y = cloud("random", 2, 30, 3, 11).to(dtype), cloud("random", 2, 40, 3, 12).to(dtype)
    found, want = ops.knn(x, y, 4), ops.knn(x.float(), y.float(), 4)
    assert found.squared_distance.dtype == torch.float32
    assert torch.equal(found.squared_distance, want.squared_distance)
    assert torch.equal(found.index, want.index)


def test_non_contiguous_input_and_an_empty_batch(path):
    base = cloud("random", 4, 60, 3, 13)
    y = cloud("random", 2, 50, 3, 14)
    for x in (base[::2, ::3], base.flip(2)[:2], base[:1].expand(2, -1, -1)):
        assert torch.equal(ops.knn(x, y, 5).index, ops.knn(x.contiguous(), y, 5).index)
        assert torch.equal(ops.knn(y, x, 5).index, ops.knn(y, x.contiguous(), 5).index)
    assert ops.knn(base[:0], y[:0], 7).index.shape == (0, 60, 7)


def test_overflowing_distances_are_neighbors_not_missing(path):
    x, y = torch.full((1, 1, 3), 2e38), torch.full((1, 20, 3), -2e38)
    squared, index = ops.knn(x, y, 20)
    assert (squared == math.inf).all()
    assert index[0, 0].tolist() == list(range(20))


def test_a_large_cloud_equals_the_reference(path):
    if path == "reference":
        pytest.skip("this compares with the reference")
    y = cloud("surface", 1, 33_000, 3, 15)
    x = torch.cat([y[:, ::200], 3 * cloud("random", 1, 50, 3, 16)], dim=1)
    for k in (5, 40):
        for got, want in zip(ops.knn(x, y, k), reference.knn(x, y, k), strict=True):
            assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by forward mode itself
def test_torch_func_and_vmap(native_or_not, capfd):
    xs, ys = (cloud("random", 6, n, 3, n, torch.float64).unflatten(0, (3, 2)) for n in (9, 8))
    lengths = torch.tensor([9, 4]), torch.tensor([8, 5])

    def f(a, b):
        return ops.knn(a, b, 5, *lengths).squared_distance

    jacobian = torch.autograd.functional.jacobian(f, (xs[0], ys[0]))
    for got, want in zip(torch.func.jacrev(f, (0, 1))(xs[0], ys[0]), jacobian, strict=True):
        torch.testing.assert_close(got, want)
    value, tangent = torch.func.jvp(f, (xs[0], ys[0]), (xs[1], ys[1]))
    assert torch.equal(value, f(xs[0], ys[0]))
    want = sum((j * d).flatten(3).sum(-1) for j, d in zip(jacobian, (xs[1], ys[1]), strict=True))
    torch.testing.assert_close(tangent, want)
    for g in (f, torch.func.jacfwd(f, 1), lambda a, b: ops.knn(a, b, 5, *lengths).index):
        want = torch.stack([g(a, b) for a, b in zip(xs, ys, strict=True)])
        torch.testing.assert_close(torch.vmap(g)(xs, ys), want)
        torch.testing.assert_close(torch.vmap(g, (None, 0))(xs[0], ys), torch.stack([g(xs[0], b) for b in ys]))
    assert "performance drop" not in "".join(capfd.readouterr())


def test_autocast_and_inference_mode_change_nothing(path):
    x, y = cloud("random", 2, 40, 5, 23), cloud("random", 2, 30, 5, 24)
    want = ops.knn(x, y, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tracked, plain = ops.knn(x.clone().requires_grad_(), y, 4), ops.knn(x, y, 4)
    with torch.inference_mode():
        inside = ops.knn(x.clone(), y, 4)
    for got in (tracked, plain, inside):
        assert got.squared_distance.dtype == torch.float32
        assert torch.equal(got.squared_distance, want.squared_distance)
        assert torch.equal(got.index, want.index)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 60))
def test_rotation_changes_no_neighbor(seed, n, m):
    x, y = cloud("random", 1, n, 3, seed, torch.float64), cloud("random", 1, m, 3, seed + 1, torch.float64)
    turn, k = rotation(seed), 1 + seed % m
    (squared, index), turned = ops.knn(x, y, k), ops.knn(x @ turn, y @ turn, k)
    assert torch.equal(turned.index, index)
    torch.testing.assert_close(turned.squared_distance, squared, rtol=1e-10, atol=0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**31),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(-64, 64),
    st.sampled_from([0.25, 2.0, 8.0]),
)
def test_translation_scale_and_permutation(seed, n, m, shift, scale):
    # Coordinates are multiples of 2^-8, so that moving and scaling them rounds nothing.
    x, y = ((256 * cloud("random", 1, c, 3, seed + c, torch.float64)).round() / 256 for c in (n, m))
    k = 1 + seed % m
    squared, index = ops.knn(x, y, k)
    moved = ops.knn(scale * x + shift, scale * y + shift, k)
    assert torch.equal(moved.index, index)
    torch.testing.assert_close(moved.squared_distance, scale**2 * squared, rtol=1e-13, atol=0)
    g = torch.Generator().manual_seed(seed)
    p, q = torch.randperm(n, generator=g), torch.randperm(m, generator=g)
    assert torch.equal(ops.knn(x[:, p], y[:, q], k).squared_distance, squared[:, p])


needs_native = pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")


@needs_native
def test_native_op_passes_opcheck():
    op = torch.ops.pcdiff.knn.default
    for dim in (3, 4):
        x, y = cloud("random", 2, 20, dim, 17), cloud("random", 2, 17, dim, 18)
        opcheck(op, (x, y, 3, None, None))
        opcheck(op, (x.double()[:, ::2], y.double(), 17, torch.tensor([10, 1]), torch.tensor([2, 17])))
    with pytest.raises(RuntimeError, match=r"k must be in 1\.\.17, got 18"):
        op(x, y, 18, None, None)


@needs_native
def test_compiles_to_one_graph_with_gradient():
    compiled = torch.compile(
        lambda a, b: ops.knn(a, b, 3).squared_distance.sum(), fullgraph=True, backend="aot_eager"
    )
    x, y = cloud("random", 2, 33, 3, 19).requires_grad_(), cloud("random", 2, 40, 3, 20).requires_grad_()
    want = torch.autograd.grad(ops.knn(x, y, 3).squared_distance.sum(), (x, y))
    for a, b in zip(torch.autograd.grad(compiled(x, y), (x, y)), want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dim", [2, 5])
def test_where_sorting_is_less_work_it_gives_the_same_bits(dim, monkeypatch):
    """256 of 256 points: 65,536 moves by list, 20 x 256 x 8 = 40,960 by the count of a sort; 200 are 40,000."""
    x, y = tied(1, 4, dim, 0), tied(1, 256, dim, 1)
    sorted_, called = reference.knn, []
    monkeypatch.setattr(reference, "knn", lambda *args: called.append(args[2]) or sorted_(*args))
    lengths = torch.tensor([250])
    found = [ops.knn(x, y, k, y_lengths=lengths) for k in (200, 256)]
    assert 256 in called
    monkeypatch.setattr("pcdiff.ops._nearest.sorting_is_less", lambda k, points: False)
    kept = [ops.knn(x, y, k, y_lengths=lengths) for k in (200, 256)]
    for one, other in zip(found, kept, strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.squared_distance, other.squared_distance)
    monkeypatch.undo()
    with pytest.raises(InputError, match="y"):
        ops.knn(x, y * math.inf, 256)
