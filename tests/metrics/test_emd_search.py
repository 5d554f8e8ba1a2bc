"""The search for nearest clouds by EMD gives the scores of the whole matrix, and solves few pairs for them."""

import numpy as np
import pytest
import torch

from pcdiff.metrics._blocks import in_order
from pcdiff.metrics.emd_search import Effort, emd_neighbors
from pcdiff.metrics.generation import scores_of
from pcdiff.metrics.neighbors import neighbors_in_matrices
from pcdiff.metrics.protocols import normalize_bbox
from pcdiff.ops import pairwise


def brute_force(samples, reference):
    matrices = (pairwise(*sets, "emd-exact") for sets in ((samples, reference), (reference, None), (samples, None)))
    return neighbors_in_matrices(*matrices)


def search(samples, reference):
    steps = []
    found, effort = emd_neighbors(samples, reference, in_order, "EMD", steps.append)
    count, other = len(samples), len(reference)
    assert sum(steps) == effort.pairs == count * other + count * (count - 1) // 2 + other * (other - 1) // 2
    return found, effort


def assert_same(found, expected):
    ours, theirs = scores_of(found), scores_of(expected)
    assert (ours.mmd, ours.coverage, ours.one_nna) == (theirs.mmd, theirs.coverage, theirs.one_nna)
    for name in "reference_distance covered sample_votes reference_votes nearest_reference sample_distance".split():
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def ellipsoids(count, points, seed, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, points, 3, generator=g)
    return x / x.norm(dim=2, keepdim=True) * (1 + spread * torch.rand(count, 1, 3, generator=g))


def copies(seed):
    clouds = ellipsoids(6, 48, seed)
    return torch.cat([clouds, clouds.flip(1), clouds[:2]])  # the same clouds, points in another order


CASES = {
    "like sets": lambda: (ellipsoids(14, 64, 0), ellipsoids(14, 64, 1)),
    "unequal sets": lambda: (ellipsoids(5, 32, 0), ellipsoids(17, 32, 1)),
    "disjoint": lambda: (ellipsoids(8, 32, 0), ellipsoids(8, 32, 1) + 9),
    "collapsed": lambda: (ellipsoids(1, 40, 0).expand(9, -1, -1).clone(), ellipsoids(9, 40, 1)),
    "copies of the references": lambda: (ellipsoids(7, 40, 0), ellipsoids(7, 40, 0)),
    "duplicates everywhere": lambda: (copies(3), copies(3)),
    "nearly equal distances": lambda: (ellipsoids(10, 24, 0, 1e-6), ellipsoids(10, 24, 0, 1e-6).flip(0)),
    "two and two": lambda: (ellipsoids(2, 16, 0), ellipsoids(2, 16, 1)),
    "points": lambda: (torch.randn(9, 1, 3, generator=torch.Generator().manual_seed(2)), torch.zeros(9, 1, 3)),
    "lattice": lambda: tuple((3 * ellipsoids(12, 20, s)).round() for s in (0, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_the_whole_matrix(case):
    samples, reference = CASES[case]()
    found, _ = search(samples, reference)
    assert_same(found, brute_force(samples, reference))


@pytest.mark.parametrize("seed", range(12))
def test_random_sets(seed):
    g = np.random.default_rng(seed)
    count, other, points = g.integers(2, 20), g.integers(2, 20), g.integers(1, 40)
    samples = ellipsoids(int(count), int(points), seed, float(g.choice([0.01, 0.3, 2])))
    reference = ellipsoids(int(other), int(points), seed + 100) + float(g.choice([0, 0.2]))
    if seed % 3 == 0:
        samples[: min(count, other) // 2] = reference[: min(count, other) // 2].flip(1)
    found, _ = search(samples, reference)
    assert_same(found, brute_force(samples, reference))


@pytest.mark.slow
def test_real_chairs_need_few_pairs(shared_data):
    h5py = pytest.importorskip("h5py")
    (path,) = shared_data.glob("modelnet10/chair*.hdf5")
    with h5py.File(path, "r") as file:
        (category,) = file.values()
        samples, reference = (normalize_bbox(category[s][:40, :256]) for s in ("train", "test"))
    found, effort = search(samples, reference)
    assert_same(found, brute_force(samples, reference))
    assert effort.solved < 0.4 * effort.pairs
    assert effort.bounded > 0.5 * effort.pairs


def test_the_effort_adds_up():
    effort = Effort(pairs=10, stopped=3, solved=2)
    assert effort.to_dict() == {
        "pairs": 10,
        "bounded": 5,
        "stopped_early": 3,
        "solved_to_the_end": 2,
        "share_solved_to_the_end": 0.2,
    }


@pytest.mark.filterwarnings("ignore:pcdiff.ops runs on its slow PyTorch reference")
def test_without_kernels_the_scores_are_the_same(monkeypatch):
    samples, reference = CASES["like sets"]()
    expected = scores_of(search(samples, reference)[0])
    monkeypatch.setattr("pcdiff.ops._native._missing", "hidden by this test")
    found = scores_of(search(samples, reference)[0])
    assert found.one_nna == expected.one_nna
    assert found.coverage == expected.coverage
    assert found.mmd == pytest.approx(expected.mmd, rel=1e-6)
