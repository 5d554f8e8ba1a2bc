"""The data set's own behavior: its moments, its identity, its clouds."""

import json

import numpy as np
import pytest
import torch

from pcdiff.data.clouds import CloudDataset, DatasetIdentity, StreamingMoments
from pcdiff.errors import InputError
from pcdiff.ops.normalization import NORMALIZATIONS, SHARED_MODES, normalize

MEAN = torch.tensor([0.5, -3.0, 1.0])
IDENTITY = DatasetIdentity("a place", False, ("airplane", "chair"), "0123456789abcdef")


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(3)
    stretch = torch.tensor([1.0, 2.0, 0.5])
    return torch.randn(5, 40, 3, generator=generator) * stretch + torch.tensor([0.3, -4.0, 2.0])


@pytest.mark.parametrize("ddof", [0, 1])
def test_streaming_moments_equal_the_one_pass_values(points, ddof):
    running = StreamingMoments()
    moved = points + torch.tensor([1000.0, 0.0, -200.0])
    for part in moved.split(2):
        running.add(part)
    whole = moved.double().numpy()
    assert running.count == 200
    assert running.std(ddof) == pytest.approx(np.std(whole, ddof=ddof), rel=1e-12)
    np.testing.assert_allclose(running.mean.numpy(), whole.mean(axis=(0, 1)), rtol=1e-12)


def test_streaming_moments_do_not_lose_digits_to_a_far_place():
    """Spread 1e-3 at 1000: the sum of squares minus the squared sum keeps no digit of it in float32."""
    running, step = StreamingMoments(), 2.0**-10
    near, far = (torch.full((1 << 20, 3), 1024.0 + sign * step) for sign in (-1, 1))
    for part in (near, far, near[:1], far[:1]):
        running.add(part)
    assert running.std(ddof=0) == pytest.approx(step, rel=1e-9)


def test_identity_survives_json():
    assert DatasetIdentity.from_dict(json.loads(json.dumps(IDENTITY.to_dict()))) == IDENTITY
    with pytest.raises(InputError, match="must have the keys"):
        DatasetIdentity.from_dict({"name": "x"})


def test_dataset_items_and_denormalize(points):
    cloud, shift, scale = normalize(points, "shape_unit")
    names, ids = ["chair"] * 5, list("abcde")
    dataset = CloudDataset(cloud, shift, scale, names, ids, "train", "shape_unit", IDENTITY)
    assert len(dataset) == 5
    item = dataset[3]
    assert (item["category"], item["id"], item["index"]) == ("chair", "d", 3)
    undone = item["points"] * item["scale"] + item["shift"]
    torch.testing.assert_close(undone, points[3].double(), rtol=1e-5, atol=1e-5)
    back = dataset.denormalize(cloud[[4, 1]][:, :7], [4, 1])
    torch.testing.assert_close(back, points[[4, 1]][:, :7], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"\(B, M, 3\) with B indices"):
        dataset.denormalize(cloud[:2], [1])
    with pytest.raises(InputError, match=r"indices must be in 0\.\.4"):
        dataset.denormalize(cloud[:1], [5])


@pytest.mark.parametrize("mode", NORMALIZATIONS)
def test_generated_clouds_are_denormalized_where_all_share_one_shift_and_scale(points, mode):
    cloud, shift, scale = normalize(points, mode, stats=1.7, mean=MEAN)
    dataset = CloudDataset(cloud, shift, scale, ["chair"] * 5, list("abcde"), "train", mode, IDENTITY)
    if mode in SHARED_MODES:
        back = dataset.denormalize_generated(cloud.repeat(2, 1, 1)[:7, :9])  # more clouds than the set holds
        torch.testing.assert_close(back, points.repeat(2, 1, 1)[:7, :9], rtol=1e-5, atol=1e-5)
        for bad in (cloud[0], cloud[..., :2], cloud.sum()):
            with pytest.raises(InputError, match=r"points must be \(B, M, 3\), got"):
                dataset.denormalize_generated(bad)
        return
    with pytest.raises(
        InputError, match=rf"{mode} keeps a shift and scale for each.*--normalization global"
    ) as caught:
        dataset.denormalize_generated(cloud)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", NORMALIZATIONS)
def test_statistics_are_what_a_global_normalization_took(points, mode):
    dataset = CloudDataset(
        *normalize(points, mode, 1.5, mean=MEAN), ["chair"] * 5, list("abcde"), "val", mode, IDENTITY
    )
    expected = {"mean": MEAN.tolist()} if mode in ("global", "global_per_axis") else {}
    if mode.startswith("global"):
        expected["std"] = [1.5] * 3 if mode == "global_per_axis" else 1.5
    assert dataset.statistics == expected
