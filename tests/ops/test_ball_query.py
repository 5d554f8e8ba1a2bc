"""The points within a radius against a plain loop, on every path this machine has."""

import re

import numpy as np
import pytest
import torch
from cloud_kinds import KINDS, cloud, tied
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from pcdiff import ops
from pcdiff.errors import InputError
from pcdiff.ops import reference

needs_native = pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")


def first_within(x, y, radius, k):
    """The definition in a loop, for one cloud: differences, squares and sums each rounded in the clouds' dtype."""
    x, y = x.numpy(), y.numpy()
    square = x.dtype.type(radius) * x.dtype.type(radius)
    out = []
    for center in x:
        distance = np.zeros(len(y), x.dtype)
        for d in range(x.shape[1]):
            distance = distance + (center[d] - y[:, d]) * (center[d] - y[:, d])
        hits = (distance < square).nonzero()[0][:k].tolist()
        out.append(hits + [hits[0] if hits else 0] * (k - len(hits)))
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_follows_the_definition(path, kind, dtype):
    for dim, n, m, k in [(1, 1, 1, 3), (3, 40, 17, 5), (3, 7, 150, 4), (5, 20, 33, 40)]:
        x, y = cloud(kind, 2, n, dim, 1, dtype), cloud(kind, 2, m, dim, 1, dtype)
        for radius in (1e-3, 0.8, 50):
            index = ops.ball_query(x, y, radius, k)
            assert index.dtype == torch.int64
            assert index.tolist() == [first_within(*pair, radius, k) for pair in zip(x, y, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_point_at_the_radius_is_outside(path, dtype):
    y = torch.tensor([[[0.0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0.25, 0.25, 0], [-0.5, 0, 0]]], dtype=dtype)
    assert ops.ball_query(y[:, :1], y, 0.5, 4).tolist() == [[[0, 3, 0, 0]]]
    above = float(torch.nextafter(torch.tensor(0.5, dtype=dtype), torch.tensor(1.0, dtype=dtype)))
    assert ops.ball_query(y[:, :1], y, above, 5).tolist() == [[[0, 1, 2, 3, 4]]]
    assert ops.ball_query(y[:, 1:2], y[:, 2:], 0.5, 2).tolist() == [[[1, 1]]]
    assert ops.ball_query(9 + y[:, :1], y, 0.5, 3).tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_are_decided_alike_on_every_path(path, dtype):
    """Most distances equal the radius but for the rounding of their sums."""
    x, y = tied(2, 60, 3, 3, dtype), tied(2, 90, 3, 4, dtype)
    for radius in (0.1, 0.2, 0.3):
        index = ops.ball_query(x, y, radius, 6)
        assert torch.equal(index, reference.ball_query(x, y, radius, 6))
        assert index.tolist() == [first_within(*pair, radius, 6) for pair in zip(x, y, strict=True)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), m=st.integers(1, 40), k=st.integers(1, 20), radius=st.floats(0.05, 3))
def test_properties(seed, m, k, radius):
    x, y = cloud("random", 2, 9, 3, seed), cloud("random", 2, m, 3, seed + 1)
    index = ops.ball_query(x, y, radius, k)
    # More neighbors begin with the fewer, but for what fills up.
    more = ops.ball_query(x, y, radius, k + 3)
    distance = reference.squared_distances(x, y)
    inside = distance < torch.tensor(radius).square()
    found = inside.sum(2).clamp(max=k)
    for b, i in np.ndindex(2, 9):
        real = index[b, i, : found[b, i]]
        assert torch.equal(real, inside[b, i].nonzero()[:k, 0])
        assert (index[b, i, found[b, i] :] == (real[0] if len(real) else 0)).all()
        assert torch.equal(more[b, i, : found[b, i]], real)
    # Centers in another order: the rows in that order.
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(ops.ball_query(x[:, order], y, radius, k), index[:, order])
    # Points in another order: where all neighbors are asked for, the same set.
    shuffle = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    everything, shuffled = ops.ball_query(x, y, radius, m), shuffle[ops.ball_query(x, y[:, shuffle], radius, m)]
    some = inside.any(2)
    for row, other in zip(everything[some].tolist(), shuffled[some].tolist(), strict=True):
        assert set(row) == set(other)


@pytest.mark.parametrize("dim", [3, 5])
@pytest.mark.parametrize("hidden", [0.0, float("nan")])
def test_ragged_batches_equal_their_clouds_one_by_one(path, dim, hidden):
    x, y = cloud("random", 4, 40, dim, 7), cloud("random", 4, 35, dim, 8)
    nx, ny = torch.tensor([40, 1, 17, 16]), torch.tensor([2, 35, 20, 1])
    for b in range(4):
        x[b, nx[b] :] = y[b, ny[b] :] = hidden
    index = ops.ball_query(x, y, 1.5, 6, nx, ny)
    for b, (n, m) in enumerate(zip(nx, ny, strict=True)):
        assert torch.equal(index[b, :n], ops.ball_query(x[b : b + 1, :n], y[b : b + 1, :m], 1.5, 6)[0])
        assert not index[b, n:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(path, dtype):
    x, y = cloud("random", 2, 30, 3, 11).to(dtype), cloud("random", 2, 40, 3, 12).to(dtype)
    assert torch.equal(ops.ball_query(x, y, 0.7, 4), ops.ball_query(x.float(), y.float(), 0.7, 4))


def test_strides_transforms_and_an_empty_batch(native_or_not):
    base, y = cloud("random", 4, 60, 3, 13), cloud("random", 2, 50, 3, 14)
    for x in (base[::2, ::3], base.flip(2)[:2], base[:1].expand(2, -1, -1)):
        assert torch.equal(ops.ball_query(x, y, 1, 5), ops.ball_query(x.contiguous(), y, 1, 5))
    assert ops.ball_query(base[:0], y[:0], 1, 7).shape == (0, 60, 7)
    many = base.unflatten(0, (2, 2))
    got = torch.vmap(lambda x: ops.ball_query(x, y, 1, 5))(many)
    assert torch.equal(got, torch.stack([ops.ball_query(x, y, 1, 5) for x in many]))
    assert not ops.ball_query(base.requires_grad_(), base, 1, 5).requires_grad


def test_gathered_neighbors_have_a_gradient():
    y = cloud("random", 2, 12, 3, 15, torch.float64).requires_grad_()
    index = ops.ball_query(y[:, ::3], y, 1.5, 5)
    assert torch.autograd.gradcheck(lambda a: ops.gather_points(a, index), (y,), check_forward_ad=True)
    neighbors = ops.gather_points(y, index)
    assert neighbors.shape == (2, 4, 5, 3)
    for b, i, j in np.ndindex(2, 4, 5):
        assert torch.equal(neighbors[b, i, j], y[b, index[b, i, j]])
    # A wrong index is refused, and does not read another cloud.
    for wrong in (12, -1):
        with pytest.raises(IndexError, match="index out of range"):
            ops.gather_points(y, torch.tensor([[0], [wrong]]))


@needs_native
def test_opcheck_and_one_graph():
    op = torch.ops.pcdiff.ball_query.default
    x, y = cloud("random", 2, 20, 3, 22), cloud("random", 2, 17, 3, 23)
    opcheck(op, (x, y, 0.5, 4, None, None))
    opcheck(op, (x.double()[:, ::2], y.double(), 0.5, 40, torch.tensor([10, 3]), torch.tensor([1, 17])))
    compiled = torch.compile(lambda a, b: ops.ball_query(a, b, 0.5, 4), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, y), ops.ball_query(x, y, 0.5, 4))
    # What the Python side cannot check inside a compiled graph.
    for arguments in [
        (x / 0, y, 0.5, 4, None, None),
        (x, y / 0, 0.5, 4, None, None),
        (x, y, 0.0, 4, None, None),
        (x, y, float("nan"), 4, None, None),
        (x, y, 0.5, 0, None, None),
        (x, y[:1], 0.5, 4, None, None),
        (x, y, 0.5, 4, None, torch.tensor([0, 17])),
    ]:
        with pytest.raises(RuntimeError, match=r"pcdiff: .* (must|holds NaN)"):
            op(*arguments)


X = torch.zeros(2, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, X, 0, 4), "radius must be a finite number above 0, got 0"),
        ((X, X, -0.1, 4), "radius must be a finite number above 0, got -0.1"),
        ((X, X, float("nan"), 4), "radius must be a finite number above 0, got nan"),
        ((X, X, float("inf"), 4), "radius must be a finite number above 0, got inf"),
        ((X, X, True, 4), "radius must be a finite number above 0, got True"),
        ((X, X, "1", 4), "radius must be a finite number above 0, got '1'"),
        ((X, X, 1, 0), "k must be an integer of at least 1, got 0"),
        ((X, X, 1, 2.0), "k must be an integer of at least 1, got 2.0"),
        ((X, X, 1, True), "k must be an integer of at least 1, got True"),
        ((X[0], X, 1, 4), "x must be (B, N, D), got (4, 3); add the batch dimension with x[None]"),
        ((X, X[..., :2], 1, 4), "y must have points of 3 coordinates like x, got (2, 4, 2)"),
        ((X, X[:1], 1, 4), "y must have the batch size 2 of x, got (1, 4, 3)"),
        ((X, X.double(), 1, 4), "y must have the dtype torch.float32 of x, got torch.float64"),
        ((X, X.to("meta"), 1, 4), "y must be on cpu like x, got meta"),
        ((X, X[:, :0], 1, 4), "at least one point and one coordinate, got (2, 0, 3)"),
        ((X, X / 0, 1, 4), "y must be finite, got 24 NaN"),
        ((X, X, 1, 4, torch.tensor([4, 5])), "x_lengths must be in 1..4, the rows of x, got 5"),
        ((X, X, 1, 4, None, torch.tensor([0, 4])), "y_lengths must be in 1..4, the rows of y, got 0"),
    ],
)
def test_bad_input(path, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        ops.ball_query(*arguments)
    assert "\n" not in str(caught.value)
