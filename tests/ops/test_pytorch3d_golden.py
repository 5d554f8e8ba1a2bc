"""Chamfer and neighbors of ragged batches against the numbers that pytorch3d produced.

Which cases there are is read from the files: every key must be compared or be skipped for a reason given here.
"""

import re

import numpy as np
import pytest
import torch

from pcdiff import ops

pytestmark = pytest.mark.golden

CHAMFER = re.compile(
    r"chamfer_norm(?P<norm>\d)_point_(?P<point>\w+?)_batch_(?P<batch>\w+?)_single_(?P<single>True|False)"
    r"(?P<weighted>_weighted)?(?P<f64>_f64)?"
)
KNN = re.compile(r"knn_K(?P<k>\d+)_norm(?P<norm>\d)_(?P<what>dists|idx|nn)")


@pytest.fixture(scope="module")
def data(golden):
    files = sorted(golden.glob("3d/pytorch3d/*chamfer*.npz"))
    if not files:
        pytest.skip(f"no 3d/pytorch3d/*chamfer*.npz under {golden}")
    loaded = np.load(files[0])
    return {name: torch.from_numpy(np.asarray(loaded[name])) for name in loaded.files}


def matching(data, pattern):
    """Return the keys of a kind with their parts; not norm 1, which there is the sum of absolute differences."""
    cases = [(name, match.groupdict()) for name in data if (match := pattern.fullmatch(name))]
    cases = [(name, part) for name, part in cases if part["norm"] == "2"]
    assert cases, f"no {pattern.pattern} with norm 2 in the golden files"
    return cases


def lengths(data):
    return data["x_lengths"], data["y_lengths"]


def cloud_by_cloud(data, part, dtype):
    x, y = data["x"].to(dtype), data["y"].to(dtype)
    if part["point"] == "max":
        there = ops.nearest(x, y, *lengths(data)).squared_distance.amax(dim=1)
        back = ops.nearest(y, x, *lengths(data)[::-1]).squared_distance.amax(dim=1)
        return there if part["single"] == "True" else torch.maximum(there, back)
    directions = "x_to_y" if part["single"] == "True" else "both"
    return ops.chamfer(x, y, *lengths(data), reduction=part["point"], directions=directions)


def over_the_batch(values, weights, batch):
    values = values if weights is None else values * weights
    if batch == "None":
        return values
    # Its mean over a weighted batch divides by the weights' sum.
    return values.sum() if batch == "sum" else values.sum() / (len(values) if weights is None else weights.sum())


def test_chamfer_of_every_option(path, data):
    for name, part in matching(data, CHAMFER):
        dtype, rtol = (torch.float64, 1e-12) if part["f64"] else (torch.float32, 1e-6)
        weights = data["weights"].to(dtype) if part["weighted"] else None
        got = over_the_batch(cloud_by_cloud(data, part, dtype), weights, part["batch"])
        np.testing.assert_allclose(got.numpy(), data[name].numpy(), rtol=rtol, err_msg=name)


def test_points_gradients_and_totals(path, data):
    x, y = data["x"].clone().requires_grad_(), data["y"].clone().requires_grad_()
    for name, found in [
        ("cham_x_per_point", ops.nearest(x, y, *lengths(data))),
        ("cham_y_per_point", ops.nearest(y, x, *lengths(data)[::-1])),
    ]:
        np.testing.assert_allclose(found.squared_distance.detach(), data[name], rtol=1e-5, atol=1e-9)
    values = ops.chamfer(x, y, *lengths(data))
    np.testing.assert_allclose(values.detach(), data["per_cloud_restated_f64"], rtol=1e-6)
    values.mean().backward()
    np.testing.assert_allclose(x.grad, data["chamfer_grad_x"], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(y.grad, data["chamfer_grad_y"], rtol=1e-5, atol=1e-8)
    ignoring = ops.chamfer(data["x"], data["y"]).mean()
    np.testing.assert_allclose(ignoring, data["chamfer_ignoring_lengths"], rtol=1e-6)


def test_neighbors(path, data):
    x_lengths, y_lengths = lengths(data)
    for name, part in matching(data, KNN):
        k = int(part["k"])
        squared, index = ops.knn(data["x"], data["y"], k, x_lengths, y_lengths)
        # A missing neighbor is infinitely far here, and the point 0 at distance 0 there.
        there = index >= 0
        assert torch.equal(there.sum(dim=2)[:, 0], y_lengths.clamp(max=k))
        want = data[name]
        if part["what"] == "dists":
            np.testing.assert_allclose(squared[there], want[there], rtol=1e-5, atol=1e-9, err_msg=name)
        elif part["what"] == "idx":
            assert torch.equal(index[there], want[there])
        else:
            rows = torch.arange(len(index))[:, None, None]
            real = there & (torch.arange(index.shape[1]) < x_lengths[:, None])[..., None]
            assert torch.equal(data["y"][rows, index][real], want[real])
