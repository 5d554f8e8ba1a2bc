"""Interpolation from the three nearest points: against float64 loops, derivatives of every mode, refusals."""

import re

import numpy as np
import pytest
import torch
from cloud_kinds import cloud
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from pcdiff import ops
from pcdiff.errors import InputError

FORWARD_MODE = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, on its way there
needs_native = pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")


def interpolated(x, y, features):
    """The definition in a loop, for one cloud, in float64."""
    x, y, features = (t.double().numpy() for t in (x, y, features))
    out = []
    for point in x:
        square = ((point - y) ** 2).sum(1)
        nearest = square.argsort(kind="stable")[:3].tolist()
        near = [*square[nearest].tolist(), *[1e10] * (3 - len(nearest))]
        weights = 1 / np.clip(near, 1e-10, 1e10)
        nearest += [0] * (3 - len(nearest))
        out.append(weights / weights.sum() @ features[nearest])
    return torch.from_numpy(np.stack(out))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("dim", [2, 3, 5])
def test_follows_the_definition(path, dim, dtype, bound):
    for n, m in [(1, 1), (5, 2), (40, 3), (30, 70)]:
        x, y, features = (cloud("random", 2, rows, d, rows + d, dtype) for rows, d in ((n, dim), (m, dim), (m, 4)))
        got = ops.three_nn_interpolate(x, y, features)
        want = torch.stack([interpolated(*one) for one in zip(x, y, features, strict=True)])
        assert got.dtype == dtype
        # A weight changes by the relative rounding of a squared distance: a few units in the last place.
        torch.testing.assert_close(got.double(), want, rtol=0, atol=bound * 5)


def test_far_points_and_points_that_coincide(path):
    y, features = torch.tensor([[[0.0], [1.0], [3.0]]]), torch.tensor([[[1.0], [10.0], [100.0]]])
    # At a point of y its weight is 1e10 of 1e10 + 1 + 1/9.
    assert ops.three_nn_interpolate(y, y, features)[0, :, 0].tolist() == pytest.approx([1, 10, 100], rel=1e-6)
    # 1e6 away every squared distance is cut to 1e10: a plain mean.
    assert ops.three_nn_interpolate(y + 1e6, y, features)[0, :, 0].tolist() == pytest.approx([37] * 3, rel=1e-6)
    # One point of y: its features. Two of three missing have index 0 too.
    assert ops.three_nn_interpolate(y, y[:, 2:], features[:, 2:]).tolist() == [[[100.0]] * 3]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 12), m=st.integers(1, 12))
def test_properties(seed, n, m):
    x, y = cloud("random", 2, n, 3, seed, torch.float64), cloud("random", 2, m, 3, seed + 1, torch.float64)
    features = cloud("random", 2, m, 2, seed + 2, torch.float64)
    out = ops.three_nn_interpolate(x, y, features)
    # Between the least and the greatest of the features; a constant is kept.
    assert (out <= features.amax(1, keepdim=True) + 1e-12).all()
    assert (out >= features.amin(1, keepdim=True) - 1e-12).all()
    # The order of either cloud does not matter, nor where the clouds lie.
    generator = torch.Generator().manual_seed(seed)
    p, q = torch.randperm(n, generator=generator), torch.randperm(m, generator=generator)
    if m >= 3:  # a missing neighbor's place is taken by whatever comes first, at a weight of 1e-10
        got = ops.three_nn_interpolate(x[:, p], y[:, q], features[:, q])
        torch.testing.assert_close(got, out[:, p], rtol=0, atol=1e-12)
    moved = ops.three_nn_interpolate(x + 1, y + 1, features)
    torch.testing.assert_close(moved, out, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("hidden", [0.0, float("nan")])
def test_ragged_batches_equal_their_clouds_one_by_one(path, hidden):
    x, y, features = (cloud("random", 4, n, d, n) for n, d in ((20, 3), (15, 3), (15, 2)))
    nx, ny = torch.tensor([20, 1, 17, 16]), torch.tensor([2, 15, 10, 1])
    for b in range(4):
        x[b, nx[b] :] = y[b, ny[b] :] = features[b, ny[b] :] = hidden
    out = ops.three_nn_interpolate(x, y, features, nx, ny)
    for b, (n, m) in enumerate(zip(nx, ny, strict=True)):
        want = ops.three_nn_interpolate(x[b : b + 1, :n], y[b : b + 1, :m], features[b : b + 1, :m])
        torch.testing.assert_close(out[b : b + 1, :n], want, rtol=1e-6, atol=1e-6)
        assert not out[b, n:].any()


@FORWARD_MODE
def test_derivatives_of_every_mode(native_or_not):
    x, y, features = (cloud("random", 2, n, d, n, torch.float64) for n, d in ((2, 3), (4, 3), (4, 2)))
    inputs = tuple(t.requires_grad_() for t in (x, y, features))
    lengths = torch.tensor([2, 1]), torch.tensor([4, 2])
    assert gradcheck(ops.three_nn_interpolate, inputs, check_forward_ad=True)
    assert gradgradcheck(ops.three_nn_interpolate, inputs)
    assert gradcheck(lambda *t: ops.three_nn_interpolate(*t, *lengths), inputs, check_forward_ad=True)
    along = tuple(cloud("random", *t.shape, 9, torch.float64) for t in inputs)
    slope = torch.func.jvp(ops.three_nn_interpolate, tuple(t.detach() for t in inputs), along)[1]
    step = 1e-6
    ends = [
        ops.three_nn_interpolate(*(t.detach() + sign * step * a for t, a in zip(inputs, along, strict=True)))
        for sign in (1, -1)
    ]
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7)


def test_legacy_passes_nothing_to_coordinates(native_or_not):
    x, y, features = (cloud("random", 2, n, d, n).requires_grad_() for n, d in ((5, 3), (7, 3), (7, 2)))
    out = ops.three_nn_interpolate(x, y, features, legacy=True)
    assert torch.equal(out, ops.three_nn_interpolate(x, y, features))
    to_x, to_y, to_features = torch.autograd.grad(out.sum(), (x, y, features), allow_unused=True)
    assert to_x is None
    assert to_y is None
    assert to_features.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_in_float32(native_or_not, dtype):
    x, y, features = (cloud("random", 2, n, d, n).to(dtype) for n, d in ((9, 3), (7, 3), (7, 2)))
    out = ops.three_nn_interpolate(x, y, features)
    assert torch.equal(out, ops.three_nn_interpolate(x.float(), y.float(), features.float()).to(dtype))
    # Features of a net under bfloat16, points in float32.
    assert ops.three_nn_interpolate(x.float(), y.float(), features).dtype == dtype
    assert ops.three_nn_interpolate(x[:0], y[:0], features[:0]).shape == (0, 9, 2)


@needs_native
@pytest.mark.slow
def test_compiles_to_one_graph_with_gradient():
    inputs = tuple(cloud("random", 2, n, d, n).requires_grad_() for n, d in ((9, 3), (7, 3), (7, 2)))
    lengths = torch.tensor([9, 2]), torch.tensor([2, 7])
    compiled = torch.compile(ops.three_nn_interpolate, fullgraph=True, backend="aot_eager")
    got, want = compiled(*inputs, *lengths), ops.three_nn_interpolate(*inputs, *lengths)
    torch.testing.assert_close(got, want)
    pairs = (torch.autograd.grad(out.square().sum(), inputs) for out in (got, want))
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b)


X, F = torch.zeros(2, 4, 3), torch.zeros(2, 4, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], X, F), "x must be (B, N, D), got (4, 3)"),
        ((X, X[..., :2], F), "y must have points of 3 coordinates like x, got (2, 4, 2)"),
        ((X, X.double(), F), "y must have the dtype torch.float32 of x"),
        ((X, X / 0, F), "y must be finite, got 24 NaN"),
        ((X, X, F[:, :3]), "features must be a floating-point tensor (2, 4, C), a row for each point of y, got"),
        ((X, X, F[0]), "a row for each point of y, got (4, 5)"),
        ((X, X, F.int()), "a row for each point of y, got torch.int32"),
        ((X, X, F.to("meta")), "features must be on cpu like y, got meta"),
        ((X, X, F, torch.tensor([5, 4])), "x_lengths must be in 1..4, the rows of x, got 5"),
        ((X, X, F, None, [4, 4]), "y_lengths must be None or an int64 tensor (2,)"),
        ((X, X, F, None, None, 1), "legacy must be True or False, got 1"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        ops.three_nn_interpolate(*arguments)
    assert "\n" not in str(caught.value)
