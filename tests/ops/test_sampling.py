"""Farthest point sampling against a plain loop and pytorch3d, on every path this machine has."""

import re

import numpy as np
import pytest
import torch
from golden_files import load
from torch.library import opcheck

from pcdiff import ops
from pcdiff.errors import InputError
from pcdiff.ops.sampling import farthest_point_sample


def clouds(batch, n, dim, seed=0, dtype=torch.float32):
    return torch.randn(batch, n, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def greedy(cloud, k, start):
    """The rule written out, in float64, for one cloud (n, dim)."""
    cloud = cloud.double().numpy()
    chosen, distance = [start], np.inf
    while len(chosen) < k:
        distance = np.minimum(distance, ((cloud - cloud[chosen[-1]]) ** 2).sum(-1))
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return chosen


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_follows_the_greedy_rule(path, dim, dtype):
    for n, k in [(1, 1), (15, 15), (16, 7), (17, 17), (300, 40)]:
        x = clouds(3, n, dim, n, dtype)
        got = farthest_point_sample(x, k, start=n // 2)
        assert got.dtype == torch.int64
        assert got.tolist() == [greedy(cloud, k, n // 2) for cloud in x]


def test_all_paths_return_the_same_indices(path):
    # Integer places: many ties, many duplicates.
    x = (2 * clouds(2, 500, 3, 1)).round()
    got = farthest_point_sample(x, 500)
    assert got.tolist() == [greedy(cloud, 500, 0) for cloud in x]


def test_ties_and_duplicates(path):
    square = torch.tensor([[[0.0, 0], [1, 0], [0, 1], [1, 1], [1, 1]]])
    assert farthest_point_sample(square, 5).tolist() == [[0, 3, 1, 2, 4]]
    assert farthest_point_sample(torch.ones(1, 6, 3), 6, start=2).tolist() == [[2, 0, 1, 3, 4, 5]]


def published(cloud, k, start):
    """The published kernels' rule written out: ties by (index mod 512, index), chosen points may come again."""
    cloud, places = cloud.double().numpy(), np.arange(len(cloud))
    chosen, distance = [start], np.inf
    while len(chosen) < k:
        distance = np.minimum(distance, ((cloud - cloud[chosen[-1]]) ** 2).sum(-1))
        ties = places[distance == distance.max()]
        chosen.append(int(min(ties, key=lambda place: (place % 512, place))))
    return chosen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_legacy_follows_the_published_rule(path, dtype):
    # Places on a coarse grid, whose distances are exact: most of them tie.
    for n, k in [(1, 3), (20, 33), (512, 30), (1100, 90)]:
        x = clouds(2, n, 3, n, dtype).round()
        got = farthest_point_sample(x, k, start=n // 2, legacy=True)
        assert got.tolist() == [published(cloud, k, n // 2) for cloud in x]
    lengths = torch.tensor([1100, 600])
    got = farthest_point_sample(x, 90, lengths=lengths, legacy=True)
    assert got.tolist() == [published(cloud[:length], 90, 0) for cloud, length in zip(x, lengths, strict=True)]


@pytest.mark.parametrize("hidden", [1e6, float("nan"), float("inf")])
def test_lengths_hide_the_rows_past_them(path, hidden):
    x = clouds(4, 50, 3, 2)
    lengths = torch.tensor([50, 31, 16, 8])
    junk = x.clone()
    for b, length in enumerate(lengths):
        junk[b, length:] = hidden
    got = farthest_point_sample(junk, 8, start=5, lengths=lengths)
    for b, length in enumerate(lengths):
        assert torch.equal(got[b], farthest_point_sample(x[b : b + 1, :length], 8, start=5)[0])


def test_starts(path):
    x = clouds(3, 40, 3, 3)
    starts = torch.tensor([0, 39, 7])
    got = farthest_point_sample(x, 10, start=starts)
    for b, start in enumerate(starts.tolist()):
        assert got[b].tolist() == greedy(x[b], 10, start)
    assert torch.equal(farthest_point_sample(x, 10, np.int64(7)), farthest_point_sample(x, 10, 7))
    lengths = torch.tensor([1, 2, 40])
    draws = [
        farthest_point_sample(x, 1, "random", lengths, torch.Generator().manual_seed(seed))[:, 0]
        for seed in range(40)
    ]
    assert all((draw < lengths).all() for draw in draws)
    assert len({tuple(draw.tolist()) for draw in draws}) > 10
    one, two = (farthest_point_sample(x, 3, "random", generator=torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(one, two)


def test_strides_and_precisions(path):
    x = clouds(2, 64, 3, 4)
    want = farthest_point_sample(x, 20)
    assert torch.equal(farthest_point_sample(x.transpose(1, 2).contiguous().transpose(1, 2), 20), want)
    assert torch.equal(farthest_point_sample(x.half(), 20), farthest_point_sample(x.half().float(), 20))
    assert torch.equal(farthest_point_sample(x.bfloat16(), 20), farthest_point_sample(x.bfloat16().float(), 20))
    assert farthest_point_sample(x[:0], 20).shape == (0, 20)


def test_compiles_to_one_graph(path):
    x = clouds(2, 64, 3, 5)
    compiled = torch.compile(lambda a: farthest_point_sample(a, 9, start=3), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), farthest_point_sample(x, 9, start=3))


@pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")
def test_opcheck():
    op = torch.ops.pcdiff.farthest_points.default
    x, start = clouds(2, 30, 3), torch.tensor([1, 2])
    opcheck(op, (x, 5, start, None, False))
    opcheck(op, (x.double(), 5, start, torch.tensor([6, 30]), False))
    opcheck(op, (x, 40, start, None, True))
    # What the Python side cannot check inside a compiled graph.
    for arguments in [(x, 5, start + 30, None), (x, 5, start, torch.tensor([4, 30])), (x, 5, start, start + 30)]:
        with pytest.raises(RuntimeError, match="must be"):
            op(*arguments, False)


X = torch.zeros(2, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], 1), "x must be (B, N, D), got (4, 3)"),
        ((X, 5), "k must be in 1..4, the points of x, got 5"),
        ((X, 0), "k must be in 1..4, the points of x, got 0"),
        ((X, 2.0), "k must be an integer, got 2.0"),
        ((X, 2, 4), "start must be in 0..3, the points of its cloud, got 4"),
        ((X, 2, -1), "start must be in 0..3, the points of its cloud, got -1"),
        ((X, 2, "last"), "start must be one of random, got 'last'"),
        ((X, 2, None), 'start must be an index, an int64 tensor (2,) or "random", got None'),
        ((X, 2, torch.zeros(3, dtype=torch.int64)), "start must be an int64 tensor (2,) on cpu like x"),
        ((X, 2, torch.zeros(2)), "got torch.float32 (2,) on cpu"),
        ((X, 2, 0, torch.tensor([4, 1])), "k must be at most every length, got 2 with a length of 1"),
        ((X, 2, 3, torch.tensor([4, 3])), "start must be in 0..2, the points of its cloud, got 3"),
        ((X, 2, 0, torch.tensor([4, 5])), "lengths must be in 1..4"),
        ((X, 2, 0, torch.tensor([4, 4, 4])), "lengths must be None or an int64 tensor (2,)"),
        ((X, 2, 0, None, torch.Generator()), 'generator is only for start="random"'),
        ((X / 0, 2), "x must be finite, got 24 NaN"),
    ],
)
def test_bad_input(path, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        farthest_point_sample(*arguments)


@pytest.mark.golden
def test_same_choices_as_pytorch3d(path, golden):
    data = load(golden, "3d/pytorch3d/chamfer_knn.npz")
    key = next(key for key in data if key.startswith("fps_K") and key.endswith("_idx"))
    x, lengths, want = torch.from_numpy(data["x"]), torch.from_numpy(data["x_lengths"]), data[key]
    k = want.shape[1]
    long = lengths >= k
    got = farthest_point_sample(x[long], k, lengths=lengths[long])
    np.testing.assert_array_equal(got.numpy(), want[long.numpy()])
    points = x[long].gather(1, got[..., None].expand(-1, -1, 3)).numpy()
    np.testing.assert_array_equal(points, data[key.replace("_idx", "_points")][long.numpy()])
    # It fills up clouds of fewer than k points with -1; here those are refused, and agree up to their length.
    for b in (~long).nonzero()[:, 0].tolist():
        length = int(lengths[b])
        got = farthest_point_sample(x[b : b + 1], length, lengths=lengths[b : b + 1])[0]
        np.testing.assert_array_equal(got.numpy(), want[b, :length])
        assert (want[b, length:] == -1).all()
