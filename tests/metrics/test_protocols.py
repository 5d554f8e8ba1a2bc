"""Normalisation and the registry of protocols."""

import dataclasses

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.metrics import PROTOCOLS, normalise_bbox, normalise_unit
from pcdiff.metrics.protocols import NORMALISATIONS, get_protocol


def _clouds():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(5, 60, 3)) * [1, 4, 2] + [7, -3, 1])


def test_bbox_is_centred_with_longest_half_side_one():
    out = normalise_bbox(_clouds())
    low, high = out.amin(dim=1), out.amax(dim=1)
    torch.testing.assert_close(low, -high, atol=1e-5, rtol=0)
    torch.testing.assert_close(high.amax(dim=1), torch.ones(5))


def test_unit_has_mean_zero_and_deviation_one():
    out = normalise_unit(_clouds())
    torch.testing.assert_close(out.mean(dim=1), torch.zeros(5, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalise", [normalise_bbox, normalise_unit])
def test_place_and_size_are_forgotten_and_repetition_changes_nothing(normalise):
    once = normalise(_clouds())
    torch.testing.assert_close(normalise(_clouds() * 3), once, atol=1e-4, rtol=1e-4)
    if normalise is normalise_bbox:
        torch.testing.assert_close(normalise(_clouds() * 3 + 11), once, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(normalise(once), once, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["shape_bbox", "shape_unit"])
def test_a_cloud_of_one_place_is_named(name):
    clouds = _clouds()
    clouds[3] = 0.5
    with pytest.raises(InputError, match=r"samples\[3\] has zero extent"):
        NORMALISATIONS[name](clouds, "samples")


def test_protocols_are_frozen_and_found_by_name():
    assert get_protocol("dpm").normalisation == "shape_bbox"
    assert get_protocol("dpm").points == 2048
    assert all(protocol.normalisation in NORMALISATIONS for protocol in PROTOCOLS.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_protocol("dpm").points = 3
    with pytest.raises(InputError, match=r"one of \['dpm', 'raw'\], got 'pvd'"):
        get_protocol("pvd")


def test_raw_leaves_the_clouds_alone():
    clouds = _clouds().float()
    assert torch.equal(get_protocol("raw").normalise(clouds), clouds)


@pytest.mark.parametrize(
    ("clouds", "message"),
    [
        (np.zeros((4, 3)), r"clouds must be \(n, P, 3\), got \(4, 3\)"),
        (np.zeros((4, 3, 5)), r"got \(4, 3, 5\)"),
        (np.zeros((0, 5, 3)), "at least one cloud"),
        (np.zeros((2, 5, 3), dtype=int), "must hold floats, got int64"),
        (torch.zeros(2, 5, 3, dtype=torch.int32), "must hold floats"),
        ([np.zeros((5, 3)), np.zeros((4, 3))], "unequal shapes"),
        (np.full((2, 5, 3), 1e300), r"clouds\[0\] holds NaN or inf"),
    ],
)
def test_bad_clouds(clouds, message):
    with pytest.raises(InputError, match=message):
        normalise_bbox(clouds)


def test_read_only_and_big_endian_arrays_serve():
    clouds = np.random.default_rng(0).normal(size=(2, 9, 3))
    clouds.flags.writeable = False
    torch.testing.assert_close(normalise_bbox(clouds), normalise_bbox(clouds.astype(">f8")))
