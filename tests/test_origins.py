"""Clouds far from the origin (map coordinates): nothing is lost on the way into and out of float32."""

import json

import h5py
import numpy as np
import pytest
import torch
from script_tools import script

from pcdiff.commands.flags import Reconstruct
from pcdiff.commands.units import read_clouds
from pcdiff.data import load_clouds, load_raw
from pcdiff.interop import read_cloud_set, stack_clouds, write_clouds
from pcdiff.metrics import evaluate
from pcdiff.ops.far_origin import is_far, placed, shared_offset
from pcdiff.ops.normalization import NORMALIZATIONS, normalize, spreads

UTM = np.array([694_386.125, 5_155_487.5, 381.0])  # meters: float32 tells 0.06 and 0.5 apart there
SHAPES = [mode for mode in NORMALIZATIONS if mode.startswith("shape")]


@pytest.fixture
def near():
    """Return clouds about a meter wide, in steps of 2^-22 m: moved by UTM, double holds them exactly."""
    clouds = np.random.default_rng(0).uniform(-0.5, 0.5, size=(6, 50, 3)) * [1, 0.8, 0.4]
    return np.round(clouds * 2.0**22) / 2.0**22


def test_far_is_far_for_its_size(near):
    tensor = torch.from_numpy(near)
    assert not is_far(tensor)
    assert not is_far(tensor + 60)
    assert is_far(tensor + 70)
    assert not is_far(1000 * (tensor + 60))
    assert not is_far(torch.full((2, 5, 3), 1e6))  # one repeated point: no size
    assert shared_offset([tensor, tensor + 60]).tolist() == [0, 0, 0]
    low, high = near.min((0, 1)), near.max((0, 1))
    offset = shared_offset([tensor + torch.from_numpy(UTM), tensor + 1 + torch.from_numpy(UTM)])
    np.testing.assert_allclose(offset.numpy(), UTM + (low + high + 1) / 2, rtol=1e-15)


def test_placed_stays_float32_where_that_holds_it(near):
    clouds = torch.from_numpy(near).float()
    scale, shift = torch.full((6, 1, 1), 2.0), torch.from_numpy(UTM)
    assert placed(clouds, scale, torch.ones(3)).dtype == torch.float32
    made = placed(clouds, scale, shift)
    assert made.dtype == torch.float64
    np.testing.assert_array_equal(made.numpy(), near.astype(np.float32).astype(float) * 2 + UTM)


@pytest.mark.parametrize("mode", [mode for mode in SHAPES if mode in ("shape_bbox", "shape_unit_per_axis")])
def test_a_unit_does_not_depend_on_the_place(near, mode):
    expected, _, scale = normalize(torch.from_numpy(near), mode)
    for place in (np.array([10.0, 0, 0]), UTM):
        points, shift, other = normalize(torch.from_numpy(near + place), mode)
        assert points.dtype == torch.float32
        # float32 rounds to 2^-24 of at most 4; double has left 2^-53 * 5e6 of the place
        np.testing.assert_allclose(points.numpy(), expected.numpy(), atol=4 * 2.0**-24 + 5e-9)
        np.testing.assert_allclose(other.numpy(), scale.numpy(), rtol=1e-8)
        undone = points.double() * other + shift
        np.testing.assert_allclose(undone.numpy(), near + place, atol=2.0**-24 + 5e-9)


def test_per_axis_unit_has_the_deviation_it_says(near):
    points, _, scale = normalize(torch.from_numpy(near + UTM), "shape_unit_per_axis")
    about = near - near.mean(axis=1, keepdims=True)
    expected = np.sqrt((about**2).sum(axis=(1, 2)) / (about[0].size - 1))
    np.testing.assert_allclose(scale.flatten().numpy(), expected, rtol=1e-8)
    np.testing.assert_allclose(spreads(points, "shape_unit_per_axis").numpy(), 1, rtol=1e-6)
    # on the diagonal both forms are one
    centered = torch.from_numpy(about + 3)
    for a, b in zip(normalize(centered, "shape_unit_per_axis"), normalize(centered, "shape_unit"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_dpms_form_keeps_its_number_off_the_diagonal(near):
    """A cloud moved by d in x gains d^2 / 3 - d^2 / 9 of variance about one mean of all coordinates."""
    about = near - near.mean(axis=1, keepdims=True)
    points, _, _ = normalize(torch.from_numpy(about + np.array([10, 0, 0])), "shape_unit")
    count = about[0].size
    squares = (about**2).sum(axis=(1, 2))
    expected = np.sqrt(squares / (squares + count * 100 * 2 / 9))
    np.testing.assert_allclose(spreads(points, "shape_unit").numpy(), expected, rtol=1e-5)
    assert (expected < 0.1).all()


@pytest.fixture(params=["folder", "hdf5"])
def far_set(request, near, tmp_path):
    """Write a data set of far clouds in double."""
    if request.param == "hdf5":
        with h5py.File(tmp_path / "far.hdf5", "w") as file:
            for split in ("train", "val", "test"):
                file[f"tree/{split}"] = near + UTM
        return tmp_path / "far.hdf5"
    for split in ("train", "val", "test"):
        (tmp_path / "far" / "tree" / split).mkdir(parents=True)
        for i, cloud in enumerate(near + UTM):
            np.save(tmp_path / "far" / "tree" / split / f"{i}.npy", cloud)
    return tmp_path / "far"


def test_training_sets_are_centered_before_float32(far_set, near, caplog):
    for mode in ("shape_bbox", "shape_unit_per_axis", "global"):
        dataset = load_clouds(far_set, "tree", "train", mode)
        assert dataset.points.dtype == torch.float32
        back = dataset.points.double() * dataset.scale + dataset.shift
        size = dataset.scale.max().item() * dataset.points.abs().max().item()
        np.testing.assert_allclose(back.numpy(), near + UTM, atol=size * 2.0**-24 + 5e-9)
        assert dataset.denormalize(dataset.points, range(6)).dtype == torch.float64
        assert not caplog.records or mode == "global"
    np.testing.assert_array_equal(load_raw(far_set, "tree", "val").numpy(), near + UTM)
    caplog.clear()
    load_clouds(far_set, "tree", "val", "shape_unit")
    load_clouds(far_set, "tree", "val", "none")
    unit, none = (record.getMessage() for record in caplog.records)
    assert "6 of 6 read less than 0.75" in unit
    assert "shape_unit_per_axis" in unit
    assert "float32 blurs them" in none


def test_text_and_double_files_keep_their_precision(near, tmp_path):
    np.savetxt(tmp_path / "a.xyz", near[0] + UTM, fmt="%.17g")
    rows = "".join(f"v {x!r} {y!r} {z!r}\n" for x, y, z in (near[0] + UTM).tolist())
    (tmp_path / "b.obj").write_text(rows)
    np.save(tmp_path / "c.npy", near[0] + UTM)
    torch.save(torch.from_numpy(near[0] + UTM), tmp_path / "d.pt")
    held = read_cloud_set(tmp_path)
    np.testing.assert_array_equal(stack_clouds(held, None, None), np.repeat(near[:1] + UTM, 4, axis=0))
    chosen = stack_clouds(held, 20, "farthest")
    expected = stack_clouds(held._replace(clouds=[near[0]] * 4), 20, "farthest")
    np.testing.assert_array_equal(chosen, expected + UTM)


def test_clouds_are_written_so_that_none_is_lost(near, tmp_path):
    for clouds, dtype in ((near, np.float32), (near + UTM, np.float64)):
        np.testing.assert_array_equal(np.load(write_clouds(tmp_path / "a.npy", clouds)), clouds.astype(dtype))
        assert np.load(tmp_path / "a.npy").dtype == dtype


@pytest.mark.parametrize("protocol", ["dpm", "raw"])
def test_scores_do_not_depend_on_the_place(near, protocol):
    other = np.random.default_rng(1).permutation(near.reshape(-1, 3)).reshape(near.shape)
    train = near[::-1] + np.random.default_rng(2).normal(scale=0.05, size=near.shape)
    sets = {"samples": other, "reference": near, "train": train}
    here = evaluate(**sets, protocol=protocol, resamples=0)
    there = evaluate(**{k: v + UTM for k, v in sets.items()}, protocol=protocol, resamples=0)
    for name in ("MMD-CD", "MMD-EMD", "COV-CD", "1-NNA-CD", "1-NNA-EMD"):
        assert there["scores"][name] == pytest.approx(here["scores"][name], rel=1e-5), name
    assert there["memorization"]["summary"] == here["memorization"]["summary"]
    said = [note for note in there["details"]["notes"] if "far from the origin" in note]
    assert len(said) == (protocol == "raw")
    assert not any("far from the origin" in note for note in here["details"]["notes"])


def test_evaluate_on_files_far_away(near, tmp_path):
    for name, moved in (("near", near), ("far", near + UTM)):
        np.savez(tmp_path / f"{name}.npz", a=moved, b=moved[::-1] + 2.0**-6)
        pair = ["--reference", f"{tmp_path}/{name}.npz:a", "--output", tmp_path / f"{name}.json"]
        assert script("evaluate.py", "--reconstructions", f"{tmp_path}/{name}.npz:b", *pair) == 0
    here, there = (json.loads((tmp_path / f"{name}.json").read_text())["scores"] for name in ("near", "far"))
    for name, value in here.items():
        assert there[name] == pytest.approx(value, rel=1e-9), name  # all in double


def test_commands_write_in_the_inputs_unit(near, tmp_path, caplog):
    np.save(tmp_path / "in.npy", near + UTM)
    command = Reconstruct(run=tmp_path, input=tmp_path / "in.npy", output=tmp_path / "out.npy")
    given = read_clouds(command.input, command, "shape_unit_per_axis")
    assert given.points.dtype == torch.float32
    assert not caplog.records
    made = given.restore(given.points)
    np.testing.assert_allclose(np.load(write_clouds(command.output, made)), near + UTM, atol=2.0**-24 + 5e-9)
    read_clouds(command.input, command, "shape_unit")
    assert "6 of 6 read less than 0.75" in caplog.text
