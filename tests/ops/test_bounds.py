"""Bounds of the earth mover's distance: never wrong, and a pair is given up only where it may be."""

import math

import pytest
import torch
from torch.library import opcheck

from pcdiff.errors import InputError
from pcdiff.ops import backend, emd, emd_pairs, pairwise, sliced_bound, slices
from pcdiff.ops.bounds import _frames

KINDS = {
    "blobs": lambda g, n, p: torch.randn(n, p, 3, generator=g) * torch.rand(n, 1, 3, generator=g),
    "grid": lambda g, n, p: (2 * torch.randn(n, p, 3, generator=g)).round(),
    "line": lambda g, n, p: torch.randn(n, p, 3, generator=g) * torch.tensor([1.0, 0.0, 0.0]),
    "far": lambda g, n, p: torch.randn(n, p, 3, generator=g) + 1e4,
    "tiny": lambda g, n, p: torch.randn(n, p, 3, generator=g) * 1e-6,
    "copies": lambda g, n, p: torch.randn(1, p, 3, generator=g).expand(n, -1, -1).clone(),
}


def sets(kind, points, n=5, m=4, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    make = KINDS[kind]
    return make(g, n, points).to(dtype), make(g, m, points).to(dtype)


def all_pairs(n, m):
    return torch.cartesian_prod(torch.arange(n), torch.arange(m))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("points", [1, 7, 64, 300, pytest.param(768, marks=pytest.mark.slow)])
def test_the_sliced_bound_is_below_the_distance_and_above_the_centroids(kind, points):
    xs, ys = sets(kind, points)
    center = torch.cat([xs, ys]).double().mean(dim=(0, 1))
    bound = sliced_bound(slices(xs, center), slices(ys, center)).double()
    exact = pairwise(xs.double(), ys.double(), "emd-exact")
    assert (bound <= exact).all()
    centroids = torch.cdist(xs.double().mean(1), ys.double().mean(1))
    scale = (torch.cat([xs, ys]).double() - center).norm(dim=2).max()
    assert (bound >= centroids * (1 - 1e-4) - 1e-5 * scale).all()


def test_the_sliced_bound_is_tight_for_a_shift_and_on_a_line():
    xs, ys = sets("line", 512)
    center = torch.zeros(3, dtype=torch.float64)
    exact = pairwise(xs, ys, "emd-exact")
    # The frames' axes are not the line's own: the best of 32 comes within a few percent.
    bound = sliced_bound(slices(xs, center), slices(ys, center))
    torch.testing.assert_close(bound, exact, rtol=0.05, atol=1e-4)
    shift = torch.tensor([0.3, -1.0, 2.0])
    shifted = sliced_bound(slices(xs, center), slices(xs + shift, center)).diagonal()
    torch.testing.assert_close(shifted, shift.norm().expand(len(xs)), rtol=1e-4, atol=0)


def test_a_finite_number_of_rows_at_once_changes_nothing(monkeypatch):
    xs, ys = sets("blobs", 300, n=9)
    a, b = slices(xs, xs.mean((0, 1))), slices(ys, xs.mean((0, 1)))
    whole = sliced_bound(a, b)
    monkeypatch.setattr("pcdiff.ops.bounds._FLOATS_AT_ONCE", 1)
    assert torch.equal(sliced_bound(a, b), whole)


def test_the_frames_are_rotations_and_differ():
    frames = _frames(32)
    identity = torch.eye(3, dtype=torch.float64).expand(32, -1, -1)
    torch.testing.assert_close(frames @ frames.mT, identity, rtol=0, atol=1e-14)
    assert (torch.linalg.det(frames) > 0.99).all()
    apart = (frames[:, None] - frames[None]).flatten(2).norm(dim=2) + 9 * torch.eye(32)
    assert apart.min() > 0.3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_limits_the_pairs_are_the_exact_matrix(kind, dtype):
    xs, ys = sets(kind, 96, dtype=dtype)
    found = emd_pairs(xs, ys, all_pairs(5, 4))
    assert torch.equal(found.cost, pairwise(xs, ys, "emd-exact").flatten())
    assert torch.equal(found.cost, found.lower_bound)


@pytest.mark.parametrize("kind", ["blobs", "far", "tiny"])
@pytest.mark.parametrize("share", [0.3, 0.8, 0.99, 1.0, 1.01])
def test_a_limit_is_proved_or_the_pair_is_solved(kind, share):
    xs, ys = sets(kind, 256)
    exact = pairwise(xs, ys, "emd-exact").flatten()
    enough = share * exact.double()
    found = emd_pairs(xs, ys, all_pairs(5, 4), enough)
    given_up = found.lower_bound > enough
    assert (found.lower_bound <= exact).all()
    assert (found.cost >= exact).all()
    assert torch.equal(found.cost[~given_up], exact[~given_up])
    assert torch.equal(found.lower_bound[~given_up], exact[~given_up])
    if share >= 1:
        assert not given_up.any()
    if share < 0.5:
        assert given_up.all()
        assert (found.lower_bound < exact).any()  # not all were solved to the end


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_limit_at_a_bound_itself_is_not_enough(dtype):
    xs, ys = sets("blobs", 256, n=12, m=12, dtype=dtype)
    pairs = all_pairs(12, 12)
    exact = emd_pairs(xs, ys, pairs).cost
    first = emd_pairs(xs, ys, pairs, 0.5 * exact.double())
    assert (first.lower_bound < exact).any()
    for enough in (first.lower_bound.double(), first.lower_bound.double() * (1 + 1e-9)):
        found = emd_pairs(xs, ys, pairs, enough)
        # Either proved to be above the limit in the numbers that are returned, or solved.
        assert ((found.lower_bound > enough) | (found.lower_bound == exact)).all()


def test_a_limit_of_minus_infinity_gives_up_at_once_and_nan_never():
    xs, ys = sets("blobs", 64)
    limits = torch.tensor([-math.inf, math.nan], dtype=torch.float64)
    found = emd_pairs(xs, ys, torch.tensor([[0, 1], [0, 1]]), limits)
    exact = emd(xs[:1], ys[1:2], "exact").cost[0]
    assert found.lower_bound[0] <= exact <= found.cost[0]
    assert found.cost[1] == exact


def test_no_limit_is_none_for_the_largest_numbers_too():
    xs, ys = sets("blobs", 64, dtype=torch.float64)
    xs, ys = xs * 1e305, ys * 1e305 + 1e307
    found = emd_pairs(xs, ys, all_pairs(5, 4))
    assert torch.equal(found.cost, found.lower_bound)
    assert torch.equal(found.cost, emd_pairs(xs, ys, all_pairs(5, 4), torch.full((20,), math.nan).double()).cost)


def test_pairs_may_repeat_and_be_none():
    xs, ys = sets("blobs", 32)
    found = emd_pairs(xs, ys, torch.tensor([[4, 3], [4, 3], [0, 0]]))
    assert found.cost[0] == found.cost[1]
    assert emd_pairs(xs, ys, torch.zeros(0, 2, dtype=torch.int64)).cost.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": torch.tensor([[0, 4]])}, r"pairs must be in 0\.\.4 and 0\.\.3, got \(0, 4\)"),
        ({"pairs": torch.tensor([[-1, 0]])}, r"got \(-1, 0\)"),
        (
            {"pairs": torch.tensor([[0.0, 1.0]])},
            r"pairs must be an int64 tensor \(K, 2\), got torch.float32 \(1, 2\)",
        ),
        ({"pairs": [[0, 1]]}, r"got list"),
        (
            {"enough": torch.zeros(2, dtype=torch.float64)},
            r"enough must be a float64 tensor \(1,\), got torch.float64 \(2,\)",
        ),
        ({"enough": torch.zeros(1)}, r"got torch.float32"),
        ({"ys": torch.zeros(4, 31, 3)}, "must have 32 points a cloud like xs"),
        ({"ys": torch.full((4, 32, 3), math.nan)}, "ys must be finite"),
    ],
)
def test_errors(change, message):
    xs, ys = sets("blobs", 32)
    arguments = {"xs": xs, "ys": ys, "pairs": torch.tensor([[0, 1]])} | change
    with pytest.raises(InputError, match=message):
        emd_pairs(**arguments)


def test_slices_are_of_three_coordinates():
    with pytest.raises(InputError, match=r"clouds must be \(n, N, 3\), got \(2, 8, 2\)"):
        slices(torch.zeros(2, 8, 2), torch.zeros(2))


@pytest.mark.skipif(backend() == "reference", reason="the native ops are not built")
def test_opcheck():
    xs, ys = sets("blobs", 16)
    pairs, enough = torch.tensor([[0, 1], [2, 3]]), torch.tensor([math.inf, 0.1], dtype=torch.float64)
    opcheck(torch.ops.pcdiff.assign_listed.default, (xs, ys, pairs, enough, 0.0))
    with pytest.raises(RuntimeError, match="pairs must lie in"):
        torch.ops.pcdiff.assign_listed(xs, ys, pairs + 9, enough, 0.0)
