"""Matrices of distances between sets of clouds."""

import sys

import pytest
import torch

from pcdiff import ops


def clouds(count, n, dim, seed, dtype=torch.float32):
    return torch.randn(count, n, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dim", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entries_are_the_chamfer_distances(path, dim, dtype):
    xs, ys = clouds(5, 70, dim, 0, dtype), clouds(4, 45, dim, 1, dtype)
    matrix = ops.pairwise(xs, ys)
    assert matrix.shape == (5, 4)
    assert matrix.dtype == dtype
    for i in range(5):
        want = ops.chamfer(xs[i].expand(4, -1, -1), ys)
        torch.testing.assert_close(matrix[i], want, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0)
    torch.testing.assert_close(ops.pairwise(ys, xs), matrix.T, rtol=1e-6, atol=0)


@pytest.mark.parametrize("distance", ["chamfer", "emd-exact"])
def test_one_set_is_the_two_set_matrix_with_itself(distance):
    xs = clouds(6, 30, 3, 2)
    one, two = ops.pairwise(xs, distance=distance), ops.pairwise(xs, xs.clone(), distance=distance)
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-12)
    assert torch.equal(one, one.T)
    assert torch.equal(one.diagonal(), torch.zeros(6))


@pytest.mark.parametrize("strip", [1, 7, 13, 1000])
@pytest.mark.parametrize("symmetric", [True, False])
def test_strips_change_nothing_and_count_every_pair(path, strip, symmetric, monkeypatch):
    xs, ys = clouds(9, 20, 3, 3), clouds(5, 25, 3, 4)
    arguments = (xs,) if symmetric else (xs, ys)
    whole = ops.pairwise(*arguments)
    monkeypatch.setitem(sys.modules["pcdiff.ops.pairwise"]._PAIRS_AT_ONCE["cpu"], "chamfer", strip)
    seen = []
    assert torch.equal(ops.pairwise(*arguments, progress=seen.append), whole)
    assert seen == sorted(seen)
    assert seen[-1] == (9 * 8 // 2 if symmetric else 45)


def test_no_gradient_and_empty_sets():
    xs = clouds(2, 10, 3, 5).requires_grad_()
    assert not ops.pairwise(xs).requires_grad
    assert not ops.pairwise(xs, distance="emd").requires_grad
    assert ops.pairwise(xs[:0]).shape == (0, 0)
    assert ops.pairwise(xs[:0], xs).shape == (0, 2)
    assert ops.pairwise(xs[:1], distance="emd").tolist() == [[0]]
    assert ops.pairwise(xs, xs[:0], distance="emd").shape == (2, 0)


def test_half_precision_gives_float32():
    xs = clouds(3, 20, 3, 6).half()
    assert torch.equal(ops.pairwise(xs), ops.pairwise(xs.float()))
