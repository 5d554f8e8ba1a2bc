"""Normalization and the registry of protocols."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.metrics import PROTOCOLS, Protocol, normalize_bbox, normalize_unit
from pcdiff.metrics.protocols import NORMALIZATIONS, REFERENCE_POINTS, get_protocol
from pcdiff.ops import emd


def _clouds():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(5, 60, 3)) * [1, 4, 2] + [7, -3, 1])


def test_bbox_is_centered_with_longest_half_side_one():
    out = normalize_bbox(_clouds())
    low, high = out.amin(dim=1), out.amax(dim=1)
    torch.testing.assert_close(low, -high, atol=1e-5, rtol=0)
    torch.testing.assert_close(high.amax(dim=1), torch.ones(5))


def test_unit_has_mean_zero_and_deviation_one():
    out = normalize_unit(_clouds())
    torch.testing.assert_close(out.mean(dim=1), torch.zeros(5, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalize", [normalize_bbox, normalize_unit])
def test_place_and_size_are_forgotten_and_repetition_changes_nothing(normalize):
    once = normalize(_clouds())
    torch.testing.assert_close(normalize(_clouds() * 3), once, atol=1e-4, rtol=1e-4)
    if normalize is normalize_bbox:
        torch.testing.assert_close(normalize(_clouds() * 3 + 11), once, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(normalize(once), once, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["shape_bbox", "shape_unit"])
def test_a_cloud_of_one_place_is_named(name):
    clouds = _clouds()
    clouds[3] = 0.5
    with pytest.raises(InputError, match=r"samples\[3\] has zero extent"):
        NORMALIZATIONS[name](clouds, "samples")


def test_protocols_are_frozen_and_found_by_name():
    assert list(PROTOCOLS) == ["dpm", "pointflow", "pointflow-lion", "raw"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_protocol("dpm").points = 3
    with pytest.raises(InputError, match="one of dpm, pointflow, pointflow-lion, raw, got 'pvd'"):
        get_protocol("pvd")


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_every_choice_is_one_that_exists(protocol):
    assert protocol.normalization in NORMALIZATIONS
    assert protocol.reference_points in REFERENCE_POINTS
    assert protocol.split in ("test", "val")
    assert {distance.upper() for distance in protocol.distances} <= {"CD", "EMD"}
    assert float(emd(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), method=protocol.emd_method).cost) > 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpm", ("test", "shape_bbox", 2048, "first")),
        ("pointflow", ("val", "none", 2048, "from 10000")),
        ("pointflow-lion", ("val", "none", 2048, "first")),
        ("raw", ("test", "none", None, "first")),
    ],
)
def test_what_each_protocol_fixes(name, expected):
    written = json.loads(json.dumps(get_protocol(name).to_dict()))
    assert tuple(written[key] for key in ("split", "normalization", "points", "reference_points")) == expected
    assert written["name"] == name
    assert (written["distances"], written["emd_method"], written["seed"]) == (["cd", "emd"], "exact", 2020)
    assert set(written) == {field.name for field in dataclasses.fields(Protocol)}


def _numbered(points, n=2):
    """Return clouds whose point i is (i, i, i)."""
    return torch.arange(float(points))[None, :, None].expand(n, points, 3)


@pytest.mark.parametrize(
    ("name", "held", "num_points", "first", "count"),
    [
        ("dpm", 2048, None, 0, 2048),
        ("dpm", 15000, None, 0, 2048),
        ("dpm", 512, None, 0, 512),  # fewer are scored, with a note
        ("dpm", 15000, 4096, 0, 4096),
        ("pointflow", 15000, None, 10000, 2048),
        ("pointflow", 12048, None, 10000, 2048),
        ("pointflow", 15000, 512, 10000, 512),
        ("pointflow", 10001, 1, 10000, 1),
        ("pointflow", 15000, 5000, 10000, 5000),
        ("pointflow", 2048, None, 0, 2048),  # chosen already
        ("pointflow", 2048, 512, 0, 512),
        ("pointflow-lion", 15000, None, 0, 2048),
        ("pointflow-lion", 15000, 512, 0, 512),
        ("raw", 37, None, 0, 37),
        ("raw", 37, 7, 0, 7),
    ],
)
def test_the_points_of_the_reference(name, held, num_points, first, count):
    chosen = get_protocol(name).choose_points(_numbered(held), num_points)
    assert torch.equal(chosen, _numbered(first + count)[:, first:])


def test_points_chosen_already_are_told_only_of_a_rule_that_skips():
    chosen = {name: [p.already_chosen(_numbered(q)) for q in (2048, 15000)] for name, p in PROTOCOLS.items()}
    assert chosen.pop("pointflow") == [True, False]
    assert all(value == [False, False] for value in chosen.values())


@pytest.mark.parametrize(
    ("name", "held", "num_points", "message"),
    [
        (
            "pointflow",
            5000,
            None,
            r"reference has 5000 points a cloud, but protocol pointflow compares 2048 of them from point 10000 on; "
            r"give clouds of 12048 points or more, or of exactly 2048, so chosen already$",
        ),
        ("pointflow", 2047, 512, r"give clouds of 10512 points or more, or of exactly 2048"),
        ("pointflow", 12000, None, r"of exactly 2048, so chosen already, or num_points of at most 2000$"),
        ("pointflow", 15000, 5001, r"give clouds of 15001 points or more, or num_points of at most 5000$"),
        ("pointflow", 15000, 0, r"num_points must be at least 1, got 0$"),
        ("pointflow", 2048, 2049, r"num_points must be in 1\.\.2048, the points of reference, got 2049$"),
        ("pointflow-lion", 2048, 0, r"num_points must be in 1\.\.2048, the points of reference, got 0$"),
        ("raw", 9, 10, r"num_points must be in 1\.\.9, the points of reference, got 10$"),
    ],
)
def test_a_reference_that_does_not_hold_the_points(name, held, num_points, message):
    with pytest.raises(InputError, match=message) as caught:
        get_protocol(name).choose_points(_numbered(held), num_points)
    assert "\n" not in str(caught.value)


def test_raw_leaves_the_clouds_alone():
    clouds = _clouds().float()
    assert torch.equal(get_protocol("raw").normalize(clouds), clouds)


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
        normalize_bbox(clouds)


def test_read_only_and_big_endian_arrays_serve():
    clouds = np.random.default_rng(0).normal(size=(2, 9, 3))
    clouds.flags.writeable = False
    torch.testing.assert_close(normalize_bbox(clouds), normalize_bbox(clouds.astype(">f8")))
