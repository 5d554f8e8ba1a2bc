"""Voxels: means per voxel and trilinear values against plain loops, derivatives of every mode, refusals."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from pcdiff import ops
from pcdiff.errors import InputError
from pcdiff.ops.voxels import voxels

FORWARD_MODE = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, on its way there
needs_native = pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")


def clouds(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def places(batch, n, r, seed=0, dtype=torch.float32):
    """Return coordinates in voxels, a third of them integers and a third halves."""
    inside = torch.rand(batch, n, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype) * (r - 1)
    inside[:, ::3] = inside[:, ::3].round()
    inside[:, 1::3] = (2 * inside[:, 1::3]).round() / 2
    return inside


def mean_in_each(features, coords, r):
    """The definition in a loop, for one cloud, in float64."""
    total, count = np.zeros((features.shape[1], r, r, r)), np.zeros((r, r, r))
    for row, (i, j, k) in zip(features.double().numpy(), np.rint(coords.numpy()).astype(int), strict=True):
        total[:, i, j, k] += row
        count[i, j, k] += 1
    return total / np.maximum(count, 1)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize(("n", "r"), [(1, 1), (1, 4), (50, 2), (200, 5)])
def test_voxelize_averages(path, n, r, dtype, bound):
    features, coords = clouds(3, n, 4, seed=1, dtype=dtype), places(3, n, r, 2, dtype)
    got = ops.voxelize(features, coords, r)
    assert got.shape == (3, 4, r, r, r)
    assert got.dtype == dtype
    for b in range(3):
        # A mean of numbers below 5 in size is a sum of n of them, each rounded twice.
        np.testing.assert_allclose(got[b].numpy(), mean_in_each(features[b], coords[b], r), rtol=0, atol=5 * bound)


def interpolated(grid, coords):
    """The definition in a loop, for one cloud, in float64: `(N, C)`."""
    grid, out = grid.double().numpy(), []
    for point in coords.double().numpy():
        low = np.floor(point).astype(int)
        share = point - low
        high = np.where(share > 0, low + 1, low)
        value = 0
        for corner in np.ndindex(2, 2, 2):
            at = np.where(corner, high, low)
            value = value + np.where(corner, share, 1 - share).prod() * grid[:, at[0], at[1], at[2]]
        out.append(value)
    return np.stack(out)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize(("n", "r"), [(1, 1), (40, 2), (100, 5)])
def test_devoxelize_interpolates(n, r, dtype, bound):
    grid, coords = clouds(2, 3, r, r, r, seed=3, dtype=dtype), places(2, n, r, 4, dtype)
    got = ops.devoxelize(grid, coords)
    assert got.shape == (2, n, 3)
    assert got.dtype == dtype
    for b in range(2):
        np.testing.assert_allclose(got[b].numpy(), interpolated(grid[b], coords[b]), rtol=0, atol=10 * bound)


def test_a_linear_function_survives_the_grid():
    """Trilinear values of a linear function are that function: at any place, to rounding."""
    r, coords = 7, places(2, 60, 7, 5, torch.float64)
    slope = torch.tensor([1.0, -2, 0.5], dtype=torch.float64)
    axis = torch.arange(r, dtype=torch.float64)
    grid = sum(s * axis.view(v) for s, v in zip(slope, [(-1, 1, 1), (1, -1, 1), (1, 1, -1)], strict=True))
    got = ops.devoxelize(grid.expand(2, 1, r, r, r), coords)[..., 0]
    torch.testing.assert_close(got, (coords * slope).sum(2), rtol=0, atol=1e-13)


def test_coordinates_by_their_definition():
    x = clouds(2, 30, 3, seed=6, dtype=torch.float64)
    about = x - x.mean(1, keepdim=True)
    far = about.norm(dim=2).amax(1)[:, None, None]
    for eps in (0, 0.5):
        want = ((about / (2 * far + eps) + 0.5) * 9).clamp(0, 8)
        torch.testing.assert_close(ops.voxel_coordinates(x, 9, eps=eps), want, rtol=0, atol=1e-13)
    want = ((about + 1) / 2 * 9).clamp(0, 8)
    torch.testing.assert_close(ops.voxel_coordinates(x, 9, normalize=False), want, rtol=0, atol=1e-13)
    # They turn with nothing, but do not change with place and size.
    torch.testing.assert_close(ops.voxel_coordinates(4 * x + 8, 9), ops.voxel_coordinates(x, 9), rtol=0, atol=1e-12)


def test_clouds_of_one_place_stand_in_the_middle():
    for n in (1, 5):
        x = torch.full((2, n, 3), 0.3, requires_grad=True)
        coords = ops.voxel_coordinates(x, 4)
        assert (coords == 2).all()
        (slope,) = torch.autograd.grad(coords.sum(), x)
        assert slope.isfinite().all()
        grid = ops.voxelize(torch.full((2, n, 1), 3.0), coords, 4)
        assert grid[:, 0, 2, 2, 2].tolist() == [3, 3]
        assert int((grid != 0).sum()) == 2


@pytest.mark.parametrize("hidden", [1e6, float("nan")])
def test_lengths_hide_the_rows_past_them(path, hidden):
    x, features, lengths = clouds(3, 20, 3, seed=7), clouds(3, 20, 2, seed=8), torch.tensor([20, 7, 1])
    junk_x, junk_features = x.clone(), features.clone()
    for b, length in enumerate(lengths):
        junk_x[b, length:] = junk_features[b, length:] = hidden
    coords = ops.voxel_coordinates(junk_x, 5, lengths)
    grid = ops.voxelize(junk_features, coords, 5, lengths)
    for b, length in enumerate(lengths):
        want = ops.voxel_coordinates(x[b : b + 1, :length], 5)
        # The mean of 20 rows, 13 of them 0, is another sum than that of 7.
        torch.testing.assert_close(coords[b : b + 1, :length], want, rtol=0, atol=1e-5)
        assert not coords[b, length:].any()
        one = ops.voxelize(features[b : b + 1, :length], coords[b : b + 1, :length], 5)
        assert torch.equal(grid[b : b + 1], one)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), r=st.integers(1, 8), c=st.integers(1, 5))
def test_the_order_of_points_does_not_matter(seed, n, r, c):
    features, coords = clouds(2, n, c, seed=seed, dtype=torch.float64), places(2, n, r, seed, torch.float64)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    grid = ops.voxelize(features, coords, r)
    torch.testing.assert_close(ops.voxelize(features[:, order], coords[:, order], r), grid, rtol=0, atol=1e-13)
    assert torch.equal(ops.devoxelize(grid, coords[:, order]), ops.devoxelize(grid, coords)[:, order])
    # Every feature is in the grid once: counts times means add up to the features.
    index, count = voxels(coords, r, None)
    inside = torch.zeros(2, r**3, dtype=torch.int64).scatter_(1, index, count)
    torch.testing.assert_close((grid.flatten(2) * inside[:, None]).sum(2), features.sum(1), rtol=0, atol=1e-12)
    # A mean between the least and the most; a constant is kept.
    assert grid.amax() <= features.amax().clamp(min=0) + 1e-12
    kept = ops.devoxelize(torch.full_like(grid, 2.5), coords)
    torch.testing.assert_close(kept, torch.full_like(kept, 2.5), rtol=0, atol=1e-14)


def through_the_grid(r, x, features, legacy=False):
    """Points to voxels and back, as in a point-voxel layer with a nonlinear middle."""
    coords = ops.voxel_coordinates(x, r, legacy=legacy)
    return ops.devoxelize(ops.voxelize(features, coords, r).sin(), coords, legacy=legacy)


@FORWARD_MODE
def test_derivatives_of_every_mode(native_or_not):
    """No coordinate is near a half (where a point changes its voxel) or an integer (where the slope changes)."""
    x = clouds(1, 4, 3, seed=9, dtype=torch.float64)
    coords = ops.voxel_coordinates(x, 3)
    assert ((2 * coords - (2 * coords).round()).abs() > 1e-4)[(coords > 0) & (coords < 2)].all()
    x, features = x.requires_grad_(), clouds(1, 4, 2, seed=10, dtype=torch.float64).requires_grad_()
    f = partial(through_the_grid, 3)
    assert gradcheck(
        f, (x, features), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert gradgradcheck(f, (x, features), check_fwd_over_rev=True)


@FORWARD_MODE
def test_the_function_transforms(native_or_not):
    x, features = clouds(2, 6, 3, seed=11, dtype=torch.float64), clouds(2, 6, 2, seed=12, dtype=torch.float64)
    f = partial(through_the_grid, 4)
    along = clouds(2, 6, 3, seed=13, dtype=torch.float64), clouds(2, 6, 2, seed=14, dtype=torch.float64)
    _, slope = torch.func.jvp(f, (x, features), along)
    step = 1e-6
    apart = f(x + step * along[0], features + step * along[1]) - f(x - step * along[0], features - step * along[1])
    torch.testing.assert_close(slope, apart / (2 * step), rtol=1e-5, atol=1e-7)
    forward, reverse = torch.func.jacfwd(f, (0, 1))(x, features), torch.func.jacrev(f, (0, 1))(x, features)
    for a, b in zip(forward, reverse, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    xs, many = clouds(3, 2, 6, 3, seed=15), clouds(3, 2, 6, 2, seed=16)
    torch.testing.assert_close(
        torch.vmap(f)(xs, many), torch.stack([f(*pair) for pair in zip(xs, many, strict=True)])
    )


def test_legacy_passes_nothing_to_coordinates(native_or_not):
    x, features = clouds(2, 8, 3, seed=17).requires_grad_(), clouds(2, 8, 2, seed=18).requires_grad_()
    out = through_the_grid(4, x, features, legacy=True)
    assert torch.equal(out, through_the_grid(4, x, features))
    to_x, to_features = torch.autograd.grad(out.sum(), (x, features), allow_unused=True)
    assert to_x is None
    assert to_features.any()
    coords = ops.voxel_coordinates(x, 4)
    assert coords.requires_grad
    assert not ops.devoxelize(clouds(2, 2, 4, 4, 4), coords, legacy=True).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_in_float32(native_or_not, dtype):
    x, features = clouds(2, 30, 3, seed=19).to(dtype), clouds(2, 30, 4, seed=20).to(dtype)
    coords = ops.voxel_coordinates(x, 3)
    assert coords.dtype == torch.float32
    assert torch.equal(coords, ops.voxel_coordinates(x.float(), 3))
    grid = ops.voxelize(features, coords, 3)
    assert torch.equal(grid, ops.voxelize(features.float(), coords, 3).to(dtype))
    assert torch.equal(ops.devoxelize(grid, coords), ops.devoxelize(grid.float(), coords).to(dtype))


def test_strides_and_an_empty_batch(native_or_not):
    features, coords = clouds(2, 3, 20).transpose(1, 2), places(2, 20, 4)
    want = ops.voxelize(features.contiguous(), coords, 4)
    assert torch.equal(ops.voxelize(features, coords.transpose(0, 2).contiguous().transpose(0, 2), 4), want)
    grid = want.to(memory_format=torch.channels_last_3d)
    assert torch.equal(ops.devoxelize(grid, coords), ops.devoxelize(want, coords))
    assert ops.voxelize(features[:0], coords[:0], 4).shape == (0, 3, 4, 4, 4)
    assert ops.devoxelize(grid[:0], coords[:0]).shape == (0, 20, 3)


@needs_native
@pytest.mark.parametrize("ragged", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiles_to_one_graph_with_gradient(ragged):
    x, features = clouds(2, 20, 3, seed=21).requires_grad_(), clouds(2, 20, 2, seed=22).requires_grad_()
    lengths = torch.tensor([20, 9]) if ragged else None

    def f(a, b):
        coords = ops.voxel_coordinates(a, 4, lengths)
        return ops.devoxelize(ops.voxelize(b, coords, 4, lengths).sin(), coords)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    got, want = compiled(x, features), f(x, features)
    torch.testing.assert_close(got, want)
    for a, b in zip(
        torch.autograd.grad(got.square().sum(), (x, features)),
        torch.autograd.grad(want.square().sum(), (x, features)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("batch", "dtype"), [(1, torch.float64), (2, torch.bfloat16), (9, torch.float32)])
def test_values_stay_when_a_gradient_is_asked(path, batch, dtype):
    """The kernel's means, PyTorch's and those of clouds one by one have the same bits."""
    features, coords = clouds(batch, 90, 5, seed=24).to(dtype), places(batch, 90, 4, 25)
    lengths = torch.arange(batch) + 82
    grid = ops.voxelize(features, coords, 4, lengths)
    assert torch.equal(ops.voxelize(features.requires_grad_(), coords, 4, lengths), grid)
    one = ops.voxelize(features[-1:, : lengths[-1]].detach(), coords[-1:, : lengths[-1]], 4)
    assert torch.equal(one, grid[-1:])


@needs_native
def test_opcheck():
    index = torch.tensor([[0, 7, 7]])
    means = (clouds(1, 3, 2), index, torch.tensor([[1, 2, 2]]), 2)
    opcheck(torch.ops.pcdiff.voxel_means.default, means)
    for wrong in [(means[0], index + 1, *means[2:]), (means[0], index[0], *means[2:]), (*means[:3], 0)]:
        with pytest.raises(RuntimeError, match=r"pcdiff: .* must"):
            torch.ops.pcdiff.voxel_means(*wrong)
    op = torch.ops.pcdiff.voxels.default
    coords = places(2, 20, 4)
    opcheck(op, (coords, 4, None))
    opcheck(op, (coords.double()[:, ::2], 4, torch.tensor([10, 1])))
    # What the Python side cannot check inside a compiled graph.
    for arguments in [
        (coords, 0, None),
        (coords, 1025, None),
        (coords, 3, None),
        (coords - 4, 4, None),
        (coords / 0, 4, None),
        (coords, 4, torch.tensor([0, 20])),
        (coords[..., :2], 4, None),
    ]:
        with pytest.raises(RuntimeError, match=r"pcdiff: .* must"):
            op(*arguments)


def test_every_path_returns_the_same_voxels(path):
    coords, lengths = places(3, 500, 6, 23), torch.tensor([500, 1, 77])
    for got, want in zip(voxels(coords, 6, lengths), ops.reference.voxels(coords, 6, lengths), strict=True):
        assert torch.equal(got, want)


X, F, G = torch.zeros(2, 4, 3), torch.zeros(2, 4, 5), torch.zeros(2, 5, 2, 2, 2)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        (ops.voxel_coordinates, (X[..., :2], 4), "x must be (B, N, 3), got (2, 4, 2)"),
        (ops.voxel_coordinates, (X[0], 4), "x must be (B, N, 3), got (4, 3); add the batch dimension with x[None]"),
        (ops.voxel_coordinates, (X[:, :0], 4), "at least one point"),
        (ops.voxel_coordinates, (X, 0), "resolution must be an integer in 1..1024, got 0"),
        (ops.voxel_coordinates, (X, 1025), "resolution must be an integer in 1..1024, got 1025"),
        (ops.voxel_coordinates, (X, 2.0), "resolution must be an integer in 1..1024, got 2.0"),
        (ops.voxel_coordinates, (X, True), "resolution must be an integer in 1..1024, got True"),
        (ops.voxel_coordinates, (X, 4, torch.tensor([4, 5])), "lengths must be in 1..4, the rows of x, got 5"),
        (ops.voxel_coordinates, (X, 4, None, 1), "normalize must be True or False, got 1"),
        (ops.voxel_coordinates, (X, 4, None, True, -1), "eps must be a finite number of at least 0, got -1"),
        (ops.voxel_coordinates, (X, 4, None, True, 0, None), "legacy must be True or False, got None"),
        (ops.voxel_coordinates, (X / 0, 4), "x must be finite, got 24 NaN"),
        (ops.voxelize, (F, X - 1, 4), "coords must be in 0..3, where the grid's voxels are, got -1"),
        (ops.voxelize, (F, X + 3.5, 4), "coords must be in 0..3, where the grid's voxels are, got 3.5"),
        (ops.voxelize, (F, X / 0, 4), "coords must be in 0..3, where the grid's voxels are, got nan"),
        (ops.voxelize, (F, X, 0), "resolution must be an integer in 1..1024, got 0"),
        (ops.voxelize, (F, X, 4, [4, 4]), "lengths must be None or an int64 tensor (2,)"),
        (ops.voxelize, (F.mT, X, 4), "features must be a floating-point tensor (2, 4, C), a row for each point of"),
        (ops.voxelize, (F[..., :0], X, 4), "a row for each point of coords, got (2, 4, 0)"),
        (ops.voxelize, (F.long(), X, 4), "a row for each point of coords, got torch.int64"),
        (ops.voxelize, (None, X, 4), "a row for each point of coords, got NoneType"),
        (ops.voxelize, (F.to("meta"), X, 4), "features must be on cpu like coords, got meta"),
        (ops.voxelize, (F, X.int(), 4), "coords must be floating point, got torch.int32"),
        (ops.devoxelize, (G[0], X), "grid must be a floating-point tensor (B, C, r, r, r) with r in 1..1024, got"),
        (ops.devoxelize, (G[..., :1], X), "(B, C, r, r, r) with r in 1..1024, got (2, 5, 2, 2, 1)"),
        (ops.devoxelize, (G.int(), X), "(B, C, r, r, r) with r in 1..1024, got torch.int32"),
        (ops.devoxelize, (None, X), "(B, C, r, r, r) with r in 1..1024, got NoneType"),
        (ops.devoxelize, (G[:1], X), "coords must have the batch size 1 of grid, got (2, 4, 3)"),
        (ops.devoxelize, (G.to("meta"), X), "coords must be on meta like grid, got cpu"),
        (ops.devoxelize, (G, X + 1.01), "coords must be in 0..1, where the grid's voxels are, got 1.01"),
        (ops.devoxelize, (G, X, "no"), "legacy must be True or False, got 'no'"),
    ],
)
def test_bad_input(op, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        op(*arguments)
    assert "\n" not in str(caught.value)


def test_a_gradient_goes_through_vmap():
    """Inside vmap a tensor does not show that it is tracked outside."""
    features, coords = torch.randn(3, 8, 2, dtype=torch.float64), 3 * torch.rand(3, 8, 3, dtype=torch.float64)

    def one(f, c):
        return ops.voxelize(f[None], c[None], 4).square().sum()

    got = torch.func.grad(lambda f: torch.func.vmap(one)(f, coords).sum())(features)
    want = torch.func.grad(lambda f: ops.voxelize(f, coords, 4).square().sum())(features)
    assert want.abs().max() > 0.1
    torch.testing.assert_close(got, want)
    x, y = torch.randn(3, 5, 3, dtype=torch.float64), torch.randn(3, 7, 3, dtype=torch.float64)
    got = torch.func.grad(
        lambda v: torch.func.vmap(lambda a, b: ops.knn(a[None], b[None], 2)[0].sum())(v, y).sum()
    )(x)
    torch.testing.assert_close(got, torch.func.grad(lambda v: ops.knn(v, y, 2)[0].sum())(x))
    got = torch.func.grad(lambda v: torch.func.vmap(lambda a, b: ops.chamfer(a[None], b[None]).sum())(v, y).sum())(
        x
    )
    torch.testing.assert_close(got, torch.func.grad(lambda v: ops.chamfer(v, y).sum())(x))
