"""Nearest neighbors and Chamfer against a float64 oracle, on every path this machine has."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from cloud_kinds import KINDS, cloud, rotation, tied
from hypothesis import given, settings
from hypothesis import strategies as st

from pcdiff import ops
from pcdiff.ops import reference


def oracle(x, y):
    """Squared distance and first nearest index by brute force in float64, one cloud at a time."""
    x, y = x.double().numpy(), y.double().numpy()
    d = ((x[:, :, None] - y[:, None]) ** 2).sum(-1)
    return d.min(axis=2), d.argmin(axis=2)


SIZES = [(1, 1), (1, 40), (40, 1), (16, 16), (17, 33), (300, 217)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_nearest_matches_the_float64_oracle(path, kind, dim):
    for dtype, tolerance in [(torch.float32, 1e-6), (torch.float64, 1e-14)]:
        for n, m in SIZES:
            x, y = cloud(kind, 2, n, dim, 1, dtype), cloud(kind, 2, m, dim, 2, dtype)
            squared, index = ops.nearest(x, y)
            want, want_index = oracle(x, y)
            np.testing.assert_allclose(squared.numpy(), want, rtol=tolerance, atol=tolerance * 1e-3)
            # In float32 two nearly equal distances may round to the same value: the chosen one must be as near.
            chosen = ((x - y.gather(1, index[..., None].expand(-1, -1, dim))).double() ** 2).sum(-1).numpy()
            np.testing.assert_allclose(chosen, want, rtol=10 * tolerance, atol=tolerance * 1e-3)
            if dtype == torch.float64 and kind != "collinear":
                np.testing.assert_array_equal(index.numpy(), want_index)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_path_returns_the_same_bits_as_the_reference(path, kind, dim, dtype):
    x, y = cloud(kind, 2, 500, dim, 3, dtype), cloud(kind, 2, 700, dim, 4, dtype)
    squared, index = ops.nearest(x, y)
    want, want_index = reference.nearest(x, y)
    assert torch.equal(squared, want)
    assert torch.equal(index, want_index)


def test_a_tie_goes_to_the_smallest_index(path):
    # Sixteen copies of 70 places: every query has its nearest point many times over, spread over many blocks.
    g = torch.Generator().manual_seed(0)
    places = torch.randint(0, 4, (70, 3), generator=g).float()
    y = places[torch.randint(0, 70, (1120,), generator=g)][None]
    x = torch.randint(0, 4, (1, 333, 3), generator=g).float()
    d = (x[0, :, None] - y[0, None]).square().sum(-1)
    first = [int((row == row.min()).nonzero()[0]) for row in d]
    assert ops.nearest(x, y).index[0].tolist() == first
    wide = torch.nn.functional.pad
    assert ops.nearest(wide(x, (0, 2)), wide(y, (0, 2))).index[0].tolist() == first


def test_pruning_is_exact_at_the_sizes_of_real_clouds(path):
    x, y = cloud("surface", 1, 2048, 3, 5), cloud("surface", 1, 2000, 3, 6) * torch.tensor([0.9, 0.5, 1.1])
    squared, index = ops.nearest(x, y)
    want, want_index = reference.nearest(x, y)
    assert torch.equal(squared, want)
    assert torch.equal(index, want_index)


def test_chamfer_is_the_sum_of_both_directions(path):
    for n, m, dim in [(1, 1, 3), (130, 90, 3), (40, 50, 6)]:
        x, y = cloud("random", 3, n, dim, 7, torch.float64), cloud("random", 3, m, dim, 8, torch.float64)
        there, back = oracle(x, y)[0], oracle(y, x)[0]
        np.testing.assert_allclose(ops.chamfer(x, y), there.mean(1) + back.mean(1), rtol=1e-13)
        np.testing.assert_allclose(ops.chamfer(x, y, reduction="sum"), there.sum(1) + back.sum(1), rtol=1e-13)


@pytest.mark.parametrize("dim", [3, 6, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_keep_their_bits_when_a_gradient_is_asked(path, dim, dtype):
    for make in (tied, lambda *sizes: cloud("surface", *sizes)):
        x, y = make(2, 200, dim, 9, dtype), make(2, 210, dim, 10, dtype)
        lengths = torch.tensor([200, 7]), torch.tensor([1, 210])
        for arguments in ((y,), (y, *lengths)):
            tracked = ops.nearest(x.clone().requires_grad_(), *arguments)
            assert tracked.squared_distance.requires_grad
            assert torch.equal(tracked.squared_distance, ops.nearest(x, *arguments).squared_distance)
            for squared in (True, False):
                value = ops.chamfer(x.clone().requires_grad_(), *arguments, squared=squared)
                assert value.requires_grad
                assert torch.equal(value, ops.chamfer(x, *arguments, squared=squared))
    with torch.no_grad():
        assert not ops.chamfer(x.clone().requires_grad_(), y).requires_grad


def test_no_cancellation_far_from_the_origin(path):
    # |x|^2 + |y|^2 - 2 x.y gives noise of either sign here.
    x = cloud("surface", 1, 300, 3, 11) * 2**-6 + 1024
    y = x.flip(1)
    assert ops.chamfer(x, y).item() == 0
    shifted = x + 2**-5
    assert ops.chamfer(x, shifted).item() >= 0


def test_non_contiguous_input(path):
    base = cloud("random", 4, 60, 3, 12)
    views = [base[::2, ::3], base.transpose(0, 1)[:4, :3], base.flip(2)[:2], base[:1].expand(2, -1, -1)]
    y = cloud("random", 2, 50, 3, 13)
    for x in views:
        other = y if len(x) == 2 else cloud("random", len(x), 50, 3, 13)
        assert torch.equal(ops.nearest(x, other).index, ops.nearest(x.contiguous(), other).index)
        assert torch.equal(ops.chamfer(x, other), ops.chamfer(x.contiguous(), other))
        assert torch.equal(ops.chamfer(other, x), ops.chamfer(other, x.contiguous()))


def test_overflowing_distances_still_give_a_valid_index(path):
    x = torch.full((1, 40, 3), 2e38)
    x[:, ::2] *= -1
    squared, index = ops.nearest(x, -x[:, :1].expand(1, 33, 3))
    assert squared[0, 0] == math.inf
    assert index[0, 0] == 0
    assert squared[0, 1] == 0


def test_an_empty_batch_is_allowed(path):
    none = torch.empty(0, 5, 3)
    assert ops.chamfer(none, none).shape == (0,)
    assert ops.nearest(none, none).index.shape == (0, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(path, dtype):
    x, y = cloud("random", 2, 64, 3, 14).to(dtype), cloud("random", 2, 70, 3, 15).to(dtype)
    value = ops.chamfer(x, y)
    assert value.dtype == torch.float32
    assert torch.equal(value, ops.chamfer(x.float(), y.float()))
    x.requires_grad_()
    ops.chamfer(x, y).sum().backward()
    assert x.grad.dtype == dtype


coordinates = st.floats(-8, 8, allow_nan=False, width=32).map(lambda v: round(v * 256) / 256)


@st.composite
def cloud_pairs(draw):
    dim = draw(st.sampled_from([2, 3, 4]))
    make = st.lists(st.lists(coordinates, min_size=dim, max_size=dim), min_size=1, max_size=40)
    return tuple(torch.tensor(draw(make), dtype=torch.float64)[None] for _ in range(2))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cloud_pairs(), st.integers(-64, 64), st.sampled_from([0.25, 2.0, 8.0]), st.integers(0, 2**31))
def test_symmetry_translation_scale_and_permutation(pair, shift, scale, seed):
    # Coordinates are multiples of 2^-8, so that moving and scaling them rounds nothing.
    x, y = pair
    value = ops.chamfer(x, y)
    assert value.item() >= 0
    torch.testing.assert_close(ops.chamfer(y, x), value, rtol=1e-13, atol=0)
    torch.testing.assert_close(ops.chamfer(x + shift, y + shift), value, rtol=1e-13, atol=0)
    torch.testing.assert_close(ops.chamfer(scale * x, scale * y), scale**2 * value, rtol=1e-13, atol=0)
    g = torch.Generator().manual_seed(seed)
    p, q = torch.randperm(x.shape[1], generator=g), torch.randperm(y.shape[1], generator=g)
    torch.testing.assert_close(ops.chamfer(x[:, p], y[:, q]), value, rtol=1e-13, atol=0)
    assert ops.chamfer(x, x[:, p]).item() == 0
    moved = ops.nearest(x[:, p], y[:, q])
    assert torch.equal(moved.squared_distance, ops.nearest(x, y).squared_distance[:, p])


def test_results_do_not_depend_on_the_number_of_threads():
    x, y = cloud("surface", 3, 700, 3, 18), cloud("surface", 3, 650, 3, 19)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((ops.nearest(x, y), ops.pairwise(x, y)))
    finally:
        torch.set_num_threads(before)
    for (squared, index), matrix in results[1:]:
        assert torch.equal(squared, results[0][0].squared_distance)
        assert torch.equal(index, results[0][0].index)
        assert torch.equal(matrix, results[0][1])


def test_reference_in_chunks_equals_reference_in_one(monkeypatch):
    x, y = cloud("random", 3, 50, 3, 20), cloud("random", 3, 40, 3, 21)
    whole = reference.nearest(x, y)
    for chunk in (1, 100, 900, 3000):
        monkeypatch.setattr(reference, "_CHUNK", chunk)
        for a, b in zip(whole, reference.nearest(x, y), strict=True):
            assert torch.equal(a, b)


LENGTHS = [torch.tensor([70, 1, 33, 16]), torch.tensor([2, 51, 17, 52])]


def ragged(dim, dtype=torch.float64):
    """Return two ragged batches whose padding lies in the way, and their lengths."""
    return cloud("random", 4, 70, dim, 30, dtype), cloud("random", 4, 52, dim, 31, dtype), *LENGTHS


def pairs_of(x, y, x_lengths, y_lengths):
    """Return the clouds of a ragged batch, cut to their lengths, as batches of one."""
    return [(x[b : b + 1, :n], y[b : b + 1, :m]) for b, (n, m) in enumerate(zip(x_lengths, y_lengths, strict=True))]


@pytest.mark.parametrize("dim", [2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ragged_batches_equal_their_clouds_one_by_one(path, dim, dtype):
    x, y, nx, ny = ragged(dim, dtype)
    both, only_x, only_y = ops.nearest(x, y, nx, ny), ops.nearest(x, y, x_lengths=nx), ops.nearest(x, y, None, ny)
    for b, (a, c) in enumerate(pairs_of(x, y, nx, ny)):
        n = a.shape[1]
        for found, want in [
            (both, ops.nearest(a, c)),
            (only_x, ops.nearest(a, y[b : b + 1])),
            (only_y, ops.nearest(x[b : b + 1], c)),
        ]:
            rows = want.index.shape[1]
            assert torch.equal(found.index[b, :rows], want.index[0])
            assert torch.equal(found.squared_distance[b, :rows], want.squared_distance[0])
        for found in (both, only_x):
            assert not found.index[b, n:].any()
            assert not found.squared_distance[b, n:].any()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("dim", [3, 5])
def test_options_of_chamfer_against_the_oracle(path, reduction, squared, dim):
    x, y, nx, ny = ragged(dim)
    want = []
    for a, c in pairs_of(x, y, nx, ny):
        terms = [d[0] if squared else d[0] ** 0.5 for d, _ in (oracle(a, c), oracle(c, a))]
        want.append([float(getattr(d, reduction)()) for d in terms])
    want = np.array(want)
    options = {"x_lengths": nx, "y_lengths": ny, "reduction": reduction, "squared": squared}
    for grad in (False, True):
        x.requires_grad_(grad)
        apart = ops.chamfer(x, y, **options, directions="apart")
        assert isinstance(apart, ops.Directions)
        np.testing.assert_allclose(torch.stack(apart, dim=1).detach(), want, rtol=1e-13)
        np.testing.assert_allclose(ops.chamfer(x, y, **options).detach(), want.sum(1), rtol=1e-13)
        one = ops.chamfer(x, y, **options, directions="x_to_y")
        np.testing.assert_allclose(one.detach(), want[:, 0], rtol=1e-13)


@pytest.mark.parametrize("dim", [3, 5])
def test_what_stands_in_the_padding_does_not_matter(path, dim):
    x, y, nx, ny = ragged(dim)
    dirty = [t.clone() for t in (x, y)]
    for t, lengths in zip(dirty, (nx, ny), strict=True):
        for b, n in enumerate(lengths):
            t[b, n:] = torch.nan
        t.requires_grad_()
    x.requires_grad_(), y.requires_grad_()
    clean = torch.autograd.grad(ops.chamfer(x, y, nx, ny).sum(), (x, y))
    assert torch.equal(ops.chamfer(*dirty, nx, ny), ops.chamfer(x, y, nx, ny))
    for got, want, lengths in zip(
        torch.autograd.grad(ops.chamfer(*dirty, nx, ny).sum(), dirty), clean, (nx, ny), strict=True
    ):
        assert torch.equal(got, want)
        for b, n in enumerate(lengths):
            assert not got[b, n:].any()
            assert got[b, :n].any()


@pytest.mark.parametrize("kind", ["surface", "duplicated"])
def test_a_large_cloud_equals_the_reference_on_a_slice(path, kind):
    if path == "reference":
        pytest.skip("this compares with the reference")
    # More than 16^3 blocks: four levels of boxes; and beyond 2^15 points threads share one cloud.
    y = cloud(kind, 1, 70_001, 3, 38)
    x = torch.cat([cloud("surface", 1, 300, 3, 39), 3 * cloud("random", 1, 100, 3, 40), y[:, -100:]], dim=1)
    squared, index = ops.nearest(x, y)
    want, want_index = reference.nearest(x, y)
    assert torch.equal(squared, want)
    assert torch.equal(index, want_index)
    back, index_back = ops.nearest(y, x)
    rows = torch.arange(0, y.shape[1], 37)
    want, want_index = reference.nearest(y[:, rows], x)
    assert torch.equal(back[:, rows], want)
    assert torch.equal(index_back[:, rows], want_index)


def test_a_large_cloud_of_one_place_ends_soon(path):
    if path == "reference":
        pytest.skip("the search down the tree is native")
    x = torch.ones(1, 200_000, 3)
    squared, index = ops.nearest(x, x)
    assert not squared.any()
    assert not index.any()


@pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")
@pytest.mark.parametrize("count", [100, 40_000])
def test_threads_that_share_a_large_cloud_change_nothing(count):
    x, y = cloud("surface", 1, count, 3, 41), cloud("surface", 1, count, 3, 42)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(ops.nearest(x, y))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].squared_distance, found[1].squared_distance)
    assert torch.equal(found[0].index, found[1].index)


def test_autocast_does_not_lower_the_precision(path):
    x, y = cloud("random", 2, 40, 3, 43).requires_grad_(), cloud("random", 2, 30, 3, 44)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = ops.chamfer(x, y)
    assert value.dtype == torch.float32
    assert torch.equal(value, ops.chamfer(x, y))


def test_inference_mode_changes_nothing(path):
    x, y = cloud("random", 2, 40, 3, 48), cloud("random", 2, 30, 3, 49)
    want = ops.chamfer(x, y), *ops.nearest(x, y)
    with torch.inference_mode():
        inside = x.clone()
        for a in (x, inside, x.clone().requires_grad_()):
            for got, expected in zip((ops.chamfer(a, y), *ops.nearest(a, y)), want, strict=True):
                assert torch.equal(got, expected)
    assert torch.equal(ops.chamfer(inside, y), want[0])


def test_python_threads_do_not_disturb_each_other(path):
    pairs = [
        (cloud("surface", 2, 300 + i, 3 + i % 2, i), cloud("surface", 2, 200, 3 + i % 2, 50)) for i in range(24)
    ]

    def work(pair):
        x, y = pair[0].clone().requires_grad_(), pair[1]
        value = ops.chamfer(x, y)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0], *ops.knn(*pair, 4)

    want = [work(pair) for pair in pairs]
    with ThreadPoolExecutor(6) as threads:
        for got, expected in zip(threads.map(work, pairs), want, strict=True):
            for a, b in zip(got, expected, strict=True):
                assert torch.equal(a, b)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 60))
def test_rotation_changes_neither_neighbors_nor_chamfer(seed, n, m):
    x, y = cloud("random", 1, n, 3, seed, torch.float64), cloud("random", 1, m, 3, seed + 1, torch.float64)
    turn = rotation(seed)
    torch.testing.assert_close(ops.chamfer(x @ turn, y @ turn), ops.chamfer(x, y), rtol=1e-10, atol=0)
    assert torch.equal(ops.nearest(x @ turn, y @ turn).index, ops.nearest(x, y).index)
