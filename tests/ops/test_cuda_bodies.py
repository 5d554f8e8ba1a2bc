"""The CUDA kernels' own bodies, run by host loops: against the PyTorch reference, SciPy and plain NumPy.

What this cannot show is the device's: launches, memory spaces, barriers. Running the threads backwards as well,
with the same result, shows that no phase depends on the order of its threads.
"""

import host_kernels
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from pcdiff.ops import farthest_point_sample, reference

DTYPES = [np.float32, np.float64]
HOW = [(32, False), (128, True), (256, False)]


@pytest.fixture(scope="module")
def library():
    built = host_kernels.build()
    if built is None:
        pytest.skip("no C++ compiler on this machine")
    return built


@pytest.fixture(params=HOW, ids=lambda how: f"{how[0]}{'-backwards' if how[1] else ''}")
def kernels(request, library):
    return host_kernels.Kernels(library, *request.param)


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def grid(batch, n, dim, seed=0, dtype=np.float32):
    """Return clouds on a coarse grid: many duplicates and ties."""
    return np.random.default_rng(seed).integers(-2, 3, (batch, n, dim)).astype(dtype)


def surfaces(count, n, seed=0, dtype=np.float32):
    """Return points scattered about ellipsoids of different shapes."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((count, n, 3))
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    return (points * rng.uniform(0.3, 1.2, (count, 1, 3)) + 0.01 * rng.standard_normal(points.shape)).astype(dtype)


def oracle(x, y):
    """Return squared distances, added in the kernels' order."""
    return reference.squared_distances(torch.from_numpy(x), torch.from_numpy(y)).numpy()


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


# Sizes about and beyond a tile of 512 points and a block of queries.
SIZES = [(1, 1), (5, 700), (300, 40), (1100, 513)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [random, grid])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_nearest_has_the_references_bits(kernels, n, m, make, dtype):
    for dim in (1, 2, 3, 5):
        x, y = make(2, n, dim, seed=1, dtype=dtype), make(2, m, dim, seed=2, dtype=dtype)
        want = [t.numpy() for t in reference.nearest(torch.from_numpy(x), torch.from_numpy(y))]
        for queries in (1, 4) if dim <= 3 else (0,):
            same(kernels.nearest(x, y, queries=queries), want)


@pytest.mark.parametrize("dim", [3, 4])
def test_nearest_keeps_to_the_lengths(kernels, dim):
    x, y = random(3, 50, dim, seed=3), random(3, 530, dim, seed=4)
    x_lengths, y_lengths = np.array([50, 1, 7]), np.array([1, 530, 515])
    distance, index = kernels.nearest(x, y, x_lengths, y_lengths, queries=4 if dim == 3 else 0)
    for b in range(3):
        n, m = x_lengths[b], y_lengths[b]
        d = oracle(x[b : b + 1, :n], y[b : b + 1, :m])[0]
        same((distance[b, :n], index[b, :n]), (d.min(1), d.argmin(1)))
        assert not distance[b, n:].any()
        assert not index[b, n:].any()


def test_nan_reaches_the_result_and_nothing_else(kernels):
    x, y = random(2, 40, 3, seed=5), random(2, 60, 3, seed=6)
    clean = kernels.nearest(x, y)[0]
    x[1, 17, 2] = np.nan
    for queries in (1, 4, 0):
        distance = kernels.nearest(x, y, queries=queries)[0]
        assert np.isnan(distance[1, 17])
        distance[1, 17] = clean[1, 17]
        np.testing.assert_array_equal(distance, clean)
    matrix = kernels.chamfer(x, y)
    assert np.isfinite(matrix[0]).all()
    assert np.isnan(matrix[1]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [random, grid])
@pytest.mark.parametrize("k", [1, 3, 16, 17, 60])
def test_knn_sorts_and_breaks_ties_by_index(kernels, k, make, dtype):
    for dim in (3, 5):
        x, y = make(2, 70, dim, seed=7, dtype=dtype), make(2, 600, dim, seed=8, dtype=dtype)
        d = oracle(x, y)
        want = np.argsort(d, axis=2, kind="stable")[:, :, :k]
        for slots in {k <= 16, False}:
            same(kernels.knn(x, y, k, slots=slots), (np.take_along_axis(d, want, 2), want))


def test_knn_says_loudly_which_neighbors_are_missing(kernels):
    x, y = random(2, 9, 3, seed=9), random(2, 40, 3, seed=10)
    x_lengths, y_lengths = np.array([9, 4]), np.array([5, 40])
    for slots in (True, False):
        distance, index = kernels.knn(x, y, 8, x_lengths, y_lengths, slots=slots)
        assert (np.sort(index[0, :, :5], axis=1) == np.arange(5)).all()
        assert np.isinf(distance[0, :, 5:]).all()
        assert (index[0, :, 5:] == -1).all()
        same((distance[1, 4:], index[1, 4:]), (np.zeros((5, 8)), np.zeros((5, 8))))
        assert (np.diff(distance[1, :4]) >= 0).all()


def test_knn_finds_k_even_at_infinite_distance(kernels):
    x, y = np.zeros((1, 1, 3), np.float32), np.full((1, 20, 3), 3e38, np.float32)
    for slots in (True, False):
        distance, index = kernels.knn(x, y, 16, slots=slots)
        assert np.isinf(distance).all()
        np.testing.assert_array_equal(index[0, 0], np.arange(16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (40, 1), (1, 40), (70, 600), (2100, 513)])
def test_chamfer_matrix(kernels, n, m, dtype):
    sets = (2, 3) if n * m < 10**6 else (1, 2)
    for dim in (1, 2, 3):
        xs, ys = random(sets[0], n, dim, seed=11, dtype=dtype), random(sets[1], m, dim, seed=12, dtype=dtype)
        want = reference.chamfer_matrix(torch.from_numpy(xs), torch.from_numpy(ys)).numpy()
        for queries in (1, 2, 4, 8):
            got = kernels.chamfer(xs, ys, queries=queries)
            np.testing.assert_allclose(got, want, rtol=1e-6 if dtype == np.float32 else 1e-13)


def test_chamfer_matrix_of_one_set(kernels):
    xs = random(4, 90, 3, seed=13)
    whole, upper = kernels.chamfer(xs, xs), kernels.chamfer(xs, xs, upper=True)
    np.testing.assert_array_equal(upper, np.triu(whole, 1))
    np.testing.assert_array_equal(np.diag(whole), 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_means_of_large_clouds(kernels, dtype):
    there, back = random(3, 1000, seed=14, dtype=dtype), random(3, 77, seed=15, dtype=dtype)
    want = there.mean(1, dtype=np.float64) + back.mean(1, dtype=np.float64)
    np.testing.assert_allclose(kernels.means(there, back), want, rtol=1e-6)


def farthest(x, k, start):
    """Choose points one after the other, as the definition says."""
    chosen, distance = [], np.full(len(x), np.inf)
    for place in [start, *[None] * (k - 1)]:
        chosen.append(int(distance.argmax()) if place is None else place)
        distance = np.minimum(distance, ((x - x[chosen[-1]]) ** 2).sum(1))
        distance[chosen] = -1
    return chosen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [random, grid])
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_farthest_points(kernels, make, dim, dtype):
    x = make(3, 150, dim, seed=16, dtype=dtype)
    start, lengths = np.array([0, 149, 3]), np.array([150, 150, 40])
    out = kernels.farthest(x, 40, start, lengths)
    for b in range(3):
        got = out[b].tolist()
        assert got[0] == start[b]
        assert len(set(got)) == 40
        if make is grid or dtype == np.float64:  # else the sums' order may decide between near equals
            assert got == farthest(x[b, : lengths[b]].astype(np.float64), 40, start[b])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [random, grid])
@pytest.mark.parametrize("dim", [1, 3, 5])
def test_ball_query_has_the_references_indices(kernels, dim, make, dtype):
    x, y = make(2, 40, dim, seed=30, dtype=dtype), make(2, 530, dim, seed=31, dtype=dtype)
    lengths = np.array([40, 3]), np.array([1, 520])
    # On the grid 1 and 2 are distances that points have: those are outside.
    for radius, k in [(0.3, 3), (1, 9), (2, 600)]:
        for given in ((None, None), lengths):
            want = reference.ball_query(
                *(torch.from_numpy(t) for t in (x, y)),
                *(radius, k),
                *(None if t is None else torch.from_numpy(t) for t in given),
            )
            np.testing.assert_array_equal(kernels.balls(x, y, radius, k, *given), want.numpy())
    x[0, 0, 0] = np.nan
    assert not kernels.balls(x, y, 1, 4)[0, 0].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_voxels_have_the_references_indices(kernels, dtype):
    coords = np.random.default_rng(32).uniform(0, 4, (3, 150, 3)).astype(dtype)
    coords[:, ::2] = np.round(2 * coords[:, ::2]) / 2  # halves go to the even voxel
    for lengths in (None, np.array([150, 1, 77])):
        given = None if lengths is None else torch.from_numpy(lengths)
        same(
            kernels.voxels(coords, 5, lengths),
            [t.numpy() for t in reference.voxels(torch.from_numpy(coords), 5, given)],
        )
    # What is outside, which a captured graph lets through, stays within the memory.
    coords[0, :3] = [[np.nan, -3, 9], [np.inf, -np.inf, 4.7], [0, 1, 2]]
    assert kernels.voxels(coords, 5)[0][0, :3].tolist() == [4, 104, 7]


@pytest.mark.parametrize("n", [9, 700])
def test_farthest_points_of_the_published_kernels(kernels, n):
    """Points come again where none is left, and ties go to the first of 512 threads."""
    x, start = grid(2, n, 3, seed=16), np.array([0, n - 1])
    for k in (n + 3, 40):
        out = kernels.farthest(x, k, start, legacy=True)
        want = farthest_point_sample(torch.from_numpy(x), k, torch.from_numpy(start), legacy=True)
        np.testing.assert_array_equal(out, want.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m", "dim"), [(1, 1, 3), (50, 300, 3), (300, 9, 2), (20, 260, 5)])
@pytest.mark.parametrize("scale", [2.0, 0.05, 1e-4])
def test_softmin(kernels, n, m, dim, scale, dtype):
    x, y = random(2, n, dim, seed=17, dtype=dtype), random(2, m, dim, seed=18, dtype=dtype)
    potential = random(2, m, seed=19, dtype=dtype)
    got = kernels.softmin(x, y, potential, scale)
    for b in range(2):
        terms = potential[b].astype(np.float64) - cdist(x[b].astype(np.float64), y[b].astype(np.float64))
        want = -scale * logsumexp(terms / scale, axis=1)
        tolerance = 3e-6 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(got[b], want, rtol=tolerance, atol=tolerance)


def approximate_match(x, y, first_level, zero_level, squared):
    """The three steps of each level in float64, with whole matrices."""
    n, m = len(x), len(y)
    square = cdist(x, y, "sqeuclidean")
    rest_x, rest_y = np.full(n, max(1, m // n), float), np.full(m, max(1, n // m), float)
    match = np.zeros((n, m))
    for factor in [*(-(4.0**j) for j in range(first_level, -2, -1)), *([0.0] if zero_level else [])]:
        weight = np.exp(factor * square)
        left = rest_x / (1e-9 + weight @ rest_y)
        asked = rest_y * (weight.T @ left)
        right = rest_y * np.minimum(rest_y / (asked + 1e-9), 1)
        rest_y = np.maximum(rest_y - asked, 0)
        given = left[:, None] * weight * right
        rest_x = np.maximum(rest_x - given.sum(1), 0)
        match += given
    return match, (match * (square if squared else np.sqrt(square))).sum()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m", "dim"), [(40, 40, 3), (300, 300, 3), (64, 32, 2), (30, 270, 3), (30, 30, 5)])
@pytest.mark.parametrize(("first_level", "zero_level", "squared"), [(7, False, False), (8, True, True)])
def test_approximate_match(kernels, n, m, dim, first_level, zero_level, squared, dtype):
    x, y = 0.4 * random(2, n, dim, seed=20, dtype=dtype), 0.4 * random(2, m, dim, seed=21, dtype=dtype)
    left, right, cost = kernels.match(x, y, first_level, zero_level, squared)
    for b in range(2):
        a, c = x[b].astype(np.float64), y[b].astype(np.float64)
        match, want = approximate_match(a, c, first_level, zero_level, squared)
        np.testing.assert_allclose(cost[b], want, rtol=1e-4 if dtype == np.float32 else 1e-9)
        if dtype == np.float64:
            factors = [-(4.0 ** (first_level - s)) for s in range(first_level + 2)] + [0.0] * zero_level
            weight = np.exp(np.multiply.outer(factors, cdist(a, c, "sqeuclidean")))
            rebuilt = (left[b][:, :, None] * weight * right[b][:, None, :]).sum(0)
            np.testing.assert_allclose(rebuilt, match, rtol=1e-7, atol=1e-10)


def exact(x, y):
    distance = cdist(x.astype(np.float64), y.astype(np.float64))
    rows, columns = linear_sum_assignment(distance)
    return distance[rows, columns].mean()


def check_certificate(x, y, assignment, cost, bound, tolerance):
    """Check all that the op promises about one pair.

    The oracles' squares must neither overflow nor vanish: tiny clouds are brought to a size that is none, exactly.
    """
    # A coordinate that all points share is no part of any distance.
    varies = ((x != x[0]) | (y != x[0])).any(0)
    x, y = np.where(varies, x, 0), np.where(varies, y, 0)
    atol = 0.0
    if 0 < max(np.abs(x).max(), np.abs(y).max()) < 1e-100:
        up = 2.0**600
        atol = np.finfo(cost.dtype).smallest_subnormal * up
        x, y, cost, bound = x * up, y * up, cost * up, bound * up
    assert sorted(assignment) == list(range(len(x)))
    length = np.linalg.norm(x.astype(np.float64) - y.astype(np.float64)[assignment], axis=1).mean()
    rounding = np.finfo(x.dtype).eps
    np.testing.assert_allclose(cost, length, rtol=4 * rounding, atol=atol)
    optimum = exact(x, y)
    assert bound <= optimum * (1 + 1e-12)
    assert cost >= optimum * (1 - 4 * rounding) - atol
    assert cost - bound <= tolerance * cost + 2 * atol


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize(("n", "dim"), [(1, 3), (2, 3), (3, 1), (65, 2), (130, 3), (60, 5)])
def test_the_auctions_certificate_holds(kernels, n, dim, tolerance, dtype):
    x, y = random(2, n, dim, seed=22, dtype=dtype), random(2, n, dim, seed=23, dtype=dtype)
    y[1] *= 0.2
    assignment, cost, bound, _ = kernels.assign(x, y, tolerance)
    for b in range(2):
        check_certificate(x[b], y[b], assignment[b], cost[b], bound[b], tolerance)


def test_the_auction_on_many_surfaces(library):
    xs, ys = surfaces(60, 96, seed=24), surfaces(60, 96, seed=25)
    assignment, cost, bound, bids = host_kernels.Kernels(library, 256).assign(xs, ys, 1e-3)
    for b in range(60):
        check_certificate(xs[b], ys[b], assignment[b], cost[b], bound[b], 1e-3)
    # Far from the bound on the work, which is 400 a point.
    assert bids.mean() / 96 < 60


def test_the_auction_does_not_depend_on_threads(library):
    xs, ys = surfaces(6, 120, seed=26), surfaces(6, 120, seed=27)
    results = [host_kernels.Kernels(library, *how).assign(xs, ys, 1e-3) for how in HOW]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0][0], other[0])
        np.testing.assert_array_equal(results[0][3], other[3])
        np.testing.assert_allclose(results[0][2], other[2], rtol=1e-6)  # sums are split among more or fewer threads


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_auction_ends_on_hard_clouds(kernels, dtype):
    """Identical, shuffled, duplicated, gridded, collinear clouds; huge, tiny, far and thin ones."""
    rng = np.random.default_rng(28)
    cloud = rng.standard_normal((1, 80, 3)).astype(dtype)
    shuffled = cloud[:, rng.permutation(80)]
    twice = np.repeat(cloud[:, :40], 2, axis=1)
    line = np.concatenate([cloud[:, :, :1], np.zeros_like(cloud[:, :, 1:])], axis=2)
    points = np.zeros_like(cloud)
    pairs = {
        "identical": (cloud, cloud, 0),
        "shuffled": (cloud, shuffled, 0),
        "one point": (points, points, 0),
        "onto one point": (cloud, points, None),
        "from one point": (points, cloud, None),
        "from nearly one point": (cloud[:, ::-1] * dtype(1e-4), cloud, None),
        "twice, shuffled": (twice, twice[:, rng.permutation(80)], 0),
        "grids": (grid(1, 80, 3, 29, dtype), grid(1, 80, 3, 30, dtype), None),
        "line": (line, line[:, ::-1] * dtype(1.25), None),
        "huge": (cloud * dtype(1e30), cloud[:, ::-1] * dtype(2e30), None),
        "tiny": (cloud * dtype(1e-30), cloud[:, ::-1] * dtype(2e-30), None),
        "far": (cloud + dtype(500), cloud[:, ::-1] + dtype(501), None),
        "nearly identical": (cloud, cloud * dtype(1 + 1e-5), None),
        "far along an axis": (at_height(1e30, cloud), at_height(1e30, cloud[:, ::-1] * dtype(1e-6)), None),
    }
    if dtype == np.float64:
        first, second = rng.random((1, 80, 3)), rng.random((1, 80, 3))
        pairs["subnormal"] = (first * 1e-310, second * 1e-310, None)
        pairs["one bit each"] = (np.round(first * 9) * 5e-324, np.round(second * 9) * 5e-324, None)
        pairs["subnormal, from one point"] = (points + 1e-320, first * 1e-310, None)
        for name, size, height in (("tiny", 1e-200, 1e200), ("subnormal", 1e-310, -1e308)):
            flat = at_height(height, first * size), at_height(height, second * size)
            pairs[f"{name}, far along an axis"] = (*flat, None)
    for name, (x, y, want) in pairs.items():
        x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
        assignment, cost, bound, bids = kernels.assign(x, y, 1e-3)
        check_certificate(x[0], y[0], assignment[0], cost[0], bound[0], 1e-3)
        assert want is None or cost[0] == want, name
        assert bids[0] <= 2 * 400 * 80, name


def at_height(height, cloud):
    """Return the cloud flattened into a plane where the second coordinate is `height`."""
    flat = cloud.copy()
    flat[:, :, 1] = height
    return flat


def test_the_bound_allows_for_the_rounding_of_many_squares(library):
    """In float32 the object that is nearest to the second person looks farther than the other.

    The nearer one's squares, all alike, add up to too much by e, relatively. The other object lies along an axis,
    where only one square is not 0, at the nearer one's distance times 1 + e / 2.
    """
    dim, tried = 4096, 0
    for seed in range(60):
        value = np.float32(np.random.default_rng(seed).uniform(1.0, 1.9))
        length = float(value) * dim**0.5
        added = np.cumsum(np.full(dim, value * value), dtype=np.float32)[-1]
        excess = float(added) ** 0.5 / length - 1
        if excess < 5e-6:
            continue
        tried += 1
        spread, along = np.full(dim, value), np.zeros(dim, np.float32)
        along[0] = length * (1 + excess / 2)
        wide = along.astype(np.float64)
        between = ((wide + spread) / 2 + (wide - spread) * 2e-5).astype(np.float32)
        x, y = np.stack([np.zeros_like(spread), between]), np.stack([along, spread])
        assignment, cost, bound, _ = host_kernels.Kernels(library, 256).assign(x[None], y[None], 1e-3)
        check_certificate(x, y, assignment[0], cost[0], bound[0], 1e-3)
    assert tried > 10


def test_without_tolerance_the_auction_goes_as_far_as_numbers_do(kernels):
    x, y = random(2, 50, 3, seed=31), random(2, 50, 3, seed=32)
    assignment, cost, bound, _ = kernels.assign(x, y, 0.0)
    for b in range(2):
        check_certificate(x[b], y[b], assignment[b], cost[b], bound[b], 1e-6)


def test_the_auction_keeps_to_the_lengths(kernels):
    x, y, lengths = random(3, 40, 3, seed=33), random(3, 40, 3, seed=34), np.array([1, 25, 40])
    assignment, cost, bound, _ = kernels.assign(x, y, 1e-3, lengths)
    for b, n in enumerate(lengths):
        check_certificate(x[b, :n], y[b, :n], assignment[b, :n], cost[b], bound[b], 1e-3)
        np.testing.assert_array_equal(assignment[b, n:], np.arange(n, 40))


def test_the_auction_of_a_matrix(kernels):
    xs, ys = random(3, 30, 3, seed=35), random(4, 30, 3, seed=36)
    _, cost, bound, _ = kernels.assign(xs, ys, 1e-3, matrix=True)
    want = np.array([[exact(x, y) for y in ys] for x in xs])
    assert (cost.reshape(3, 4) >= want * (1 - 1e-6)).all()
    assert (bound.reshape(3, 4) <= want).all()
    assert (cost - bound <= 1e-3 * cost).all()
    upper = kernels.assign(xs, xs, 1e-3, matrix=True, upper=True)
    whole = kernels.assign(xs, xs, 1e-3, matrix=True)
    for values in (1, 2):
        np.testing.assert_array_equal(upper[values].reshape(3, 3), np.triu(whole[values].reshape(3, 3), 1))


def test_the_auction_returns_from_nan(kernels):
    x, y = random(2, 30, 3, seed=37), random(2, 30, 3, seed=38)
    x[0, 3, 1] = np.nan
    assignment, cost, bound, _ = kernels.assign(x, y, 1e-3)
    assert np.isnan(cost[0])
    assert np.isnan(bound[0])
    assert sorted(assignment[0]) == list(range(30))
    check_certificate(x[1], y[1], assignment[1], cost[1], bound[1], 1e-3)
