"""The ops of point-voxel nets against numbers of the published kernels: `3d/nets/ops3d_io.npz`.

The files hold channels first, `(B, C, N)`; these tests turn them round.
"""

import json
from functools import cache

import numpy as np
import pytest
import torch
from golden_files import found

from pcdiff import ops
from pcdiff.ops.voxels import corners, voxels

pytestmark = pytest.mark.golden

# float32 and float64, by the suffix of the arrays; the published float64 numbers come from the same float32 input.
KINDS = [("", torch.float32, 1e-4), ("_f64", torch.float64, 1e-7)]


@cache
def cases(folder):
    (path,) = found(folder, "3d/nets/ops3d.json")
    table = np.load(path.with_name("ops3d_io.npz"))
    out = {}
    for name, settings in json.loads(path.read_text())["cases"].items():
        arrays = {key.removeprefix(f"{name}/"): table[key] for key in table.files if key.startswith(f"{name}/")}
        out[name] = (settings, {key: torch.from_numpy(array) for key, array in arrays.items()})
    return out


def of(golden, kind):
    """Return the cases of one op: name, settings and arrays."""
    chosen = [(name, *case) for name, case in cases(golden).items() if name.startswith(f"{kind}/")]
    assert chosen, f"no {kind} among the cases"
    return chosen


def rows(array, dtype=None):
    """Return `(B, C, ...)` as `(B, ..., C)`."""
    array = array.movedim(1, -1)
    return array.contiguous() if dtype is None else array.to(dtype).contiguous()


def close(got, want, bound, what):
    """Compare relative to the array's largest value, as the files' own gaps are given."""
    assert got.shape == want.shape, what
    error = (got.double() - want.double()).abs().max() / want.double().abs().max().clamp(min=1e-30)
    assert error <= bound, f"{what}: {error:.2e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ball_query(path, golden, dtype):
    for name, settings, io in of(golden, "ball_query"):
        x, y = rows(io["centers"], dtype), rows(io["points"], dtype)
        index = ops.ball_query(x, y, settings["radius"], settings["k"])
        assert torch.equal(index, io["indices"].long()), name


@pytest.mark.parametrize(("suffix", "dtype", "bound"), KINDS)
def test_gathering_and_its_gradient(golden, suffix, dtype, bound):
    for name, settings, io in of(golden, "ball_query"):
        features = rows(io["features"], dtype).clone().requires_grad_()
        index = ops.ball_query(rows(io["centers"]), rows(io["points"]), settings["radius"], settings["k"])
        grouped = ops.gather_points(features, index)
        if suffix == "":
            assert torch.equal(grouped, rows(io["grouped"])), name
            # What set abstraction pools over: places relative to the center, then features.
            there = ops.gather_points(rows(io["points"]), index) - rows(io["centers"])[:, :, None]
            assert torch.equal(torch.cat([there, grouped], dim=3), rows(io["module_features"])), name
        grouped.backward(rows(io["upstream"], dtype))
        close(features.grad, rows(io[f"grad_features{suffix}"]), bound, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_farthest_points(path, golden, dtype):
    distinct = 0
    for name, settings, io in of(golden, "fps"):
        x, k, want = rows(io["points"], dtype), settings["m"], io["indices"].long()
        got = ops.farthest_point_sample(x, k, start=0, legacy=True)
        assert torch.equal(got, want), name
        assert torch.equal(rows(ops.gather_points(x, got).movedim(2, 1)), rows(io["coords"], dtype)), name
        # Where no point comes twice and no tie falls to another thread, the published choice is the plain rule's.
        if settings["same_as_lowest_index_ties"] and all(len(set(row)) == k for row in want.tolist()):
            assert torch.equal(ops.farthest_point_sample(x, k), want), name
            distinct += 1
    assert distinct


@pytest.mark.parametrize(("suffix", "dtype", "bound"), KINDS)
def test_three_nearest(path, golden, suffix, dtype, bound):
    for name, _, io in of(golden, "three_nn"):
        x, y = rows(io["points"], dtype), rows(io["centers"], dtype)
        features = rows(io["features"], dtype).clone().requires_grad_()
        index, weights = ops.interpolation.three_nearest(x, y)
        assert torch.equal(index, rows(io[f"indices{suffix}"]).long()), name
        close(weights, rows(io[f"weights{suffix}"]), bound, name)
        out = ops.three_nn_interpolate(x, y, features)
        close(out, rows(io[f"out{suffix}"]), bound, name)
        out.backward(rows(io["upstream"], dtype))
        close(features.grad, rows(io[f"grad_features{suffix}"]), bound, name)


@pytest.mark.parametrize(("suffix", "dtype", "bound"), KINDS)
def test_voxels(path, golden, suffix, dtype, bound):
    for name, settings, io in of(golden, "voxel"):
        r = settings["resolution"]
        x = rows(io["points"], dtype)
        coords = ops.voxel_coordinates(x, r, normalize=settings["normalize"], eps=settings["eps"])
        # As coordinates are given: a share of the grid's size, not of the largest of them.
        assert (coords - rows(io[f"norm_coords{suffix}"])).abs().max() <= bound * r, name
        index, count = voxels(coords, r, None)
        assert torch.equal(index, io[f"voxel_index{suffix}"].long()), name
        assert torch.equal(count, io[f"counts{suffix}"].long().gather(1, index)), name

        features = rows(io["features"], dtype).clone().requires_grad_()
        grid = ops.voxelize(features, coords, r)
        close(grid, io[f"average{suffix}"], bound, name)
        grid.backward(io["voxel_upstream"].to(dtype))
        close(features.grad, rows(io[f"grad_features{suffix}"]), bound, name)
        check_devoxelized(name, io, coords, suffix, dtype, bound, "devox", "devox_upstream")


@pytest.mark.parametrize(("suffix", "dtype", "bound"), KINDS)
def test_trilinear_values_at_given_places(golden, suffix, dtype, bound):
    for name, _, io in of(golden, "devox"):
        check_devoxelized(name, io, rows(io["coords"], dtype), suffix, dtype, bound, "out", "upstream")


def check_devoxelized(name, io, coords, suffix, dtype, bound, out, upstream):
    grid = io["grid_features"].to(dtype, copy=True).requires_grad_()
    index, weights = corners(coords, grid.shape[2])
    assert torch.equal(index, rows(io[f"corner_index{suffix}"]).long()), name
    # A weight is as far off as a coordinate, whose error is a share of the grid's size.
    assert (weights - rows(io[f"corner_weights{suffix}"])).abs().max() <= bound * grid.shape[2], name
    values = ops.devoxelize(grid, coords)
    close(values, rows(io[f"{out}{suffix}"]), bound, name)
    values.backward(rows(io[upstream], dtype))
    close(grid.grad, io[f"grad_grid{suffix}"], bound, name)
