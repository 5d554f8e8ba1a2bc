"""Nearest clouds by the Chamfer distance, block by block, are those of the whole matrix."""

import numpy as np
import pytest
import torch

from pcdiff.metrics._blocks import in_order
from pcdiff.metrics.neighbors import chamfer_neighbors, equal, nearest_by_chamfer, neighbors_in_matrices
from pcdiff.ops import pairwise


def clouds(count, points=20, seed=0):
    return torch.randn(count, points, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [1, 2, 3, 32])
@pytest.mark.parametrize("sizes", [(7, 7), (2, 9), (9, 2)])
def test_blocks_of_any_size_give_the_matrix(side, sizes, monkeypatch):
    monkeypatch.setattr("pcdiff.metrics.neighbors._CLOUDS_IN_A_BLOCK", side)
    samples, reference = clouds(sizes[0]), clouds(sizes[1], points=15, seed=1)
    samples[-1] = samples[0]  # a tie, and the first of two equals must be found whatever the blocks
    reference[0] = samples[0, :15]
    reference[-1] = reference[0]
    steps = []
    found = chamfer_neighbors(samples, reference, in_order, "CD", steps.append)
    matrices = pairwise(samples, reference), pairwise(reference), pairwise(samples)
    expected = neighbors_in_matrices(*matrices)
    for name in ("sample_reference", "reference_sample"):
        for part in ("distance", "index", "tied"):
            ours, theirs = getattr(getattr(found, name), part), getattr(getattr(expected, name), part)
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}.{part}")
    np.testing.assert_array_equal(found.sample_sample, expected.sample_sample)
    np.testing.assert_array_equal(found.reference_reference, expected.reference_reference)
    assert expected.reference_sample.tied.any()
    n, m = sizes
    assert sum(steps) == n * m + n * (n - 1) // 2 + m * (m - 1) // 2


def test_nearest_of_another_set():
    ours, others = clouds(5), clouds(40, seed=2)
    others[33] = ours[2].flip(0)
    found = nearest_by_chamfer(ours, others, in_order, "train", lambda pairs: None)
    assert found.index[2] == 33
    assert found.distance[2] == 0
    np.testing.assert_array_equal(found.index, pairwise(ours, others).argmin(dim=1).numpy())


def test_one_cloud_alone_has_no_other():
    found = nearest_by_chamfer(clouds(3), clouds(1, seed=1), in_order, "one", lambda pairs: None)
    assert not found.tied.any()
    assert (found.index == 0).all()


def test_equal_within_the_tolerance():
    a = np.array([1.0, 1.0, 1.0, 0.0, np.inf, np.inf, 5.0])
    b = np.array([1.0, 1 + 9e-7, 1 + 2e-6, 0.0, np.inf, 1.0, np.inf])
    assert equal(a, b).tolist() == [True, True, False, True, False, False, False]
