"""Loading: layouts, splits, statistics, fingerprints and errors."""

import h5py
import numpy as np
import pytest
import torch

from pcdiff.data import procedural, shapenet
from pcdiff.data.clouds import DatasetIdentity
from pcdiff.data.shapenet import SPLITS, announce, load_clouds
from pcdiff.errors import InputError

PLANE, CHAIR = "02691156", "03001627"
COUNTS = {"train": 4, "val": 2, "test": 3}


def clouds(category, split, points=16):
    rng = np.random.default_rng([int(category) if category.isdigit() else 7, SPLITS.index(split)])
    return rng.normal(size=(COUNTS[split], points, 3)).astype(np.float32)


@pytest.fixture
def hdf5(tmp_path):
    path = tmp_path / "tiny.hdf5"
    with h5py.File(path, "w") as file:
        for category in (CHAIR, PLANE):
            for split in SPLITS:
                file[f"{category}/{split}"] = clouds(category, split)
    return path


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "above" / "Clouds.PC16"
    for category in (CHAIR, PLANE, "human"):
        for split in SPLITS:
            folder = root / category / split
            folder.mkdir(parents=True)
            (folder / "notes.txt").write_text("not a cloud")
            for i, cloud in enumerate(clouds(category, split)):
                np.save(folder / f"shape{9 - i}.npy", cloud)
    return root


def change(path, key, values):
    with h5py.File(path, "r+") as file:
        del file[key]
        if values is not None:
            file[key] = values


def test_hdf5_keeps_the_files_order(hdf5):
    dataset = load_clouds(hdf5, "chair,airplane", "val", "none")
    expected = np.concatenate([clouds(PLANE, "val"), clouds(CHAIR, "val")])
    assert np.array_equal(dataset.points.numpy(), expected)
    assert dataset.categories == ["airplane"] * 2 + ["chair"] * 2
    assert dataset.ids == ["0", "1", "0", "1"]
    assert (dataset.split, dataset.normalization) == ("val", "none")
    assert dataset.identity.name == "shapenet.hdf5 layout: tiny.hdf5"
    assert dataset.identity.categories == ("airplane", "chair")
    assert not dataset.identity.stand_in


def test_folders_are_sorted_and_other_files_skipped(folders):
    dataset = load_clouds(folders, "chair", "test", "none")
    assert dataset.ids == ["shape7", "shape8", "shape9"]
    assert np.array_equal(dataset.points.numpy(), clouds(CHAIR, "test")[::-1])
    assert dataset.identity.name == "Clouds.PC16"


def test_the_folder_above_the_root_is_accepted(folders):
    direct, above = (load_clouds(path, "chair", "val") for path in (folders, folders.parent))
    assert torch.equal(direct.points, above.points)
    assert direct.identity == above.identity


def test_a_category_of_its_own_name(folders):
    dataset = load_clouds(folders, "Human, chair", "val", "none")
    assert dataset.identity.categories == ("chair", "human")
    assert np.array_equal(dataset.points[2:].numpy(), clouds("human", "val")[::-1])


def test_all_means_what_the_data_set_holds(folders, hdf5):
    assert load_clouds(folders, "all", "val").identity.categories == ("airplane", "chair", "human")
    assert load_clouds(hdf5, ["all"], "val").identity.categories == ("airplane", "chair")
    assert load_clouds(hdf5, f"{CHAIR}", "val").categories == ["chair"] * 2


@pytest.mark.parametrize("layout", ["hdf5", "folders"])
def test_fingerprint_is_one_per_content(layout, request):
    path = request.getfixturevalue(layout)
    prints = {
        load_clouds(path, "chair", split, mode).identity.fingerprint
        for split in SPLITS
        for mode in ("none", "shape_bbox")
    }
    assert len(prints) == 1
    assert load_clouds(path, "airplane", "val").identity.fingerprint not in prints
    assert load_clouds(path, "airplane,chair", "val").identity.fingerprint not in prints
    moved = clouds(CHAIR, "test")
    moved[1, 3, 0] += 1e-3
    if layout == "hdf5":
        change(path, f"{CHAIR}/test", moved)
    else:
        np.save(path / CHAIR / "test" / "shape8.npy", moved[1])
    assert load_clouds(path, "chair", "train").identity.fingerprint not in prints


def test_global_std_comes_from_the_train_split_and_legacy_from_all(hdf5):
    train = np.concatenate([clouds(PLANE, "train"), clouds(CHAIR, "train")]).astype(np.float64)
    everything = np.concatenate([clouds(c, s).ravel() for c in (PLANE, CHAIR) for s in SPLITS]).astype(np.float64)
    for split in SPLITS:
        ours = load_clouds(hdf5, "all", split, "global_unit").scale
        legacy = load_clouds(hdf5, "all", split, "global_unit_legacy_dpm").scale
        np.testing.assert_allclose(ours.numpy(), train.std(ddof=1), rtol=1e-6)
        np.testing.assert_allclose(legacy.numpy(), everything.std(ddof=1), rtol=1e-6)


def test_global_shift_and_scale_come_from_the_train_split(hdf5):
    train = np.concatenate([clouds(PLANE, "train"), clouds(CHAIR, "train")]).astype(np.float64)
    for split in SPLITS:
        dataset = load_clouds(hdf5, "all", split, "global")
        np.testing.assert_allclose(dataset.scale.numpy(), np.full((len(dataset), 1, 1), train.std()), rtol=1e-6)
        mean = np.broadcast_to(train.mean(axis=(0, 1)), (len(dataset), 1, 3))
        np.testing.assert_allclose(dataset.shift.numpy(), mean, rtol=1e-5)
        raw = load_clouds(hdf5, "all", split, "none").points
        torch.testing.assert_close(dataset.denormalize_generated(dataset.points), raw, rtol=1e-5, atol=1e-6)


def test_global_per_axis_is_of_the_train_split(hdf5):
    train = np.concatenate([clouds(PLANE, "train"), clouds(CHAIR, "train")]).astype(np.float64).reshape(-1, 3)
    dataset = load_clouds(hdf5, "all", "val", "global_per_axis")
    np.testing.assert_allclose(dataset.statistics["mean"], train.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(dataset.statistics["std"], train.std(axis=0), rtol=1e-6)
    raw = load_clouds(hdf5, "all", "val", "none").points
    torch.testing.assert_close(dataset.denormalize_generated(dataset.points), raw, rtol=1e-5, atol=1e-6)


def test_stand_in_when_there_is_nothing(monkeypatch, tmp_path, hdf5):
    monkeypatch.setattr(procedural, "DEFAULT_COUNTS", {"train": 3, "val": 2, "test": 2})
    monkeypatch.setattr(shapenet, "DEFAULT_PLACES", (tmp_path / "absent.hdf5",))
    dataset = load_clouds(None, "airplane", "val", "none")
    assert dataset.identity.stand_in
    assert dataset.identity.name == "procedural stand-in"
    assert np.array_equal(dataset.points.numpy(), procedural.shape_clouds("airplane", "val"))
    train = load_clouds(None, "airplane", "train")
    assert train.identity == dataset.identity
    assert load_clouds(None, "all", "val").identity.categories == tuple(
        sorted(procedural.FAMILIES, key=shapenet.NAME_TO_SYNSET.get)
    )
    with pytest.raises(InputError, match=r"category washer \(04554684\) is a ShapeNet category but the built-in"):
        load_clouds(None, "washer", "train")
    # A data set in its place is taken, and never replaced by the stand-in when something is wrong with it.
    monkeypatch.setattr(shapenet, "DEFAULT_PLACES", (tmp_path / "absent.hdf5", hdf5))
    assert not load_clouds(None, "airplane", "val").identity.stand_in
    hdf5.write_bytes(b"broken")
    with pytest.raises(InputError, match="damaged HDF5, or another format"):
        load_clouds(None, "airplane", "val")


def test_an_installed_package_looks_in_the_working_directory(monkeypatch, tmp_path, hdf5):
    (tmp_path / "data").mkdir()
    hdf5.rename(tmp_path / "data" / "shapenet.hdf5")
    monkeypatch.chdir(tmp_path)
    assert not load_clouds(None, "airplane", "val").identity.stand_in


def test_stand_in_fingerprint_follows_version_and_counts(monkeypatch):
    first = procedural.stand_in_fingerprint(["chair"])
    assert first != procedural.stand_in_fingerprint(["chair"], seed=1)
    assert first != procedural.stand_in_fingerprint(["airplane"])
    monkeypatch.setattr(procedural, "VERSION", -1)
    assert first != procedural.stand_in_fingerprint(["chair"])


def test_the_announcement_is_loud_only_for_the_stand_in():
    loud = announce(DatasetIdentity("procedural stand-in", True, ("airplane",), "ab"))
    assert "NO DATA SET FOUND" in loud
    assert "NOT comparable" in loud
    quiet = announce(DatasetIdentity("mine", False, ("airplane", "car"), "ab"))
    assert quiet == "data: mine, categories airplane, car, fingerprint ab"
    assert "\n" not in loud + quiet


def refused(match, path, categories="chair", split="train", mode="shape_unit"):
    with pytest.raises(InputError, match=match) as caught:
        load_clouds(path, categories, split, mode)
    assert "\n" not in str(caught.value)


def test_errors_of_arguments(hdf5, tmp_path):
    refused("does not exist; leave it out", tmp_path / "none.hdf5")
    refused("split must be one of train, val, test, got 'valid'", hdf5, split="valid")
    refused("normalization must be one of .* got 'unit'", hdf5, mode="unit")
    refused(
        r"category car \(02958343\) is a ShapeNet category but .*tiny.hdf5 has no .*airplane, chair", hdf5, "car"
    )
    refused(r"unknown category 'chiar'; did you mean chair\? .*not a ShapeNet name either", hdf5, "chiar")
    refused("at least one category", hdf5, "")


def test_errors_of_hdf5_files(hdf5, tmp_path):
    garbage = tmp_path / "garbage.hdf5"
    garbage.write_bytes(b"no hdf5 at all" * 100)
    refused("garbage.hdf5: truncated or damaged HDF5, or another format", garbage)
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(hdf5.read_bytes()[:-500])
    refused("cut.hdf5: truncated or damaged HDF5", cut)
    bare = tmp_path / "bare.hdf5"
    h5py.File(bare, "w").close()
    refused("bare.hdf5 holds no category", bare)
    change(hdf5, f"{CHAIR}/val", np.zeros((0, 16, 3), np.float32))
    refused(rf"{CHAIR}/val is empty or absent \(splits with clouds: train, test\)", hdf5, split="val")
    change(hdf5, f"{CHAIR}/val", None)
    refused(f"{CHAIR}/val is empty or absent", hdf5, split="val")
    broken = clouds(CHAIR, "train")
    broken[2, 5, 1] = np.nan
    change(hdf5, f"{CHAIR}/train", broken)
    refused(f"tiny.hdf5: {CHAIR}/train cloud 2 has NaN or infinite", hdf5)
    broken[2, 5, 1], broken[2, 5, 2] = np.inf, -np.inf
    change(hdf5, f"{CHAIR}/train", broken)
    refused("cloud 2 has NaN or infinite", hdf5)
    change(hdf5, f"{CHAIR}/train", broken.astype(np.float64).clip(-1e300, 1e300))
    refused("cloud 2 has NaN or infinite", hdf5)
    broken[2] = 1.5
    change(hdf5, f"{CHAIR}/train", broken)
    refused("tiny.hdf5: chair train 2 has extent 0: shape_unit", hdf5)
    change(hdf5, f"{CHAIR}/train", np.zeros((4, 16, 2), np.float32))
    refused(rf"{CHAIR}/train must be \(n, P, 3\), got \(4, 16, 2\)", hdf5)
    change(hdf5, f"{CHAIR}/train", np.zeros((4, 16, 3), np.int32))
    refused(r"must hold floating point \(n, P, 3\), got int32", hdf5)
    change(hdf5, f"{CHAIR}/train", clouds(CHAIR, "train", points=8))
    refused("airplane has 16 points a cloud and chair 8; load them one at a time", hdf5, "airplane,chair")


def refusals_of(path):
    """Load every split; return how many were refused, each in one line that names the file."""
    messages = []
    for split in SPLITS:
        try:
            load_clouds(path, "all", split)
        except InputError as error:
            messages.append(str(error))
    assert all(path.name in message and "\n" not in message for message in messages)
    return len(messages)


def test_damaged_hdf5_loads_or_is_refused(tmp_path):
    whole = tmp_path / "whole.hdf5"
    with h5py.File(whole, "w") as file:
        for split in SPLITS:
            file[f"{CHAIR}/{split}"] = clouds(CHAIR, split)
            # Compressed chunks have an index and a checksum of their own to damage.
            file.create_dataset(f"{PLANE}/{split}", data=clouds(PLANE, split), compression="gzip", shuffle=True)
    content, rng, damaged = whole.read_bytes(), np.random.default_rng(0), tmp_path / "damaged.hdf5"
    assert refusals_of(whole) == 0
    refusals = 0
    for place in rng.integers(len(content), size=60):
        hurt = bytearray(content)
        hurt[place : place + 4] = rng.bytes(len(hurt[place : place + 4]))
        damaged.write_bytes(hurt)
        refusals += refusals_of(damaged)
    assert refusals  # some of the places matter
    for length in rng.integers(len(content), size=20):
        damaged.write_bytes(content[:length])
        assert refusals_of(damaged) == len(SPLITS)


@pytest.mark.parametrize("name", [b"0269\n156", b"0269\x82156"])
def test_a_damaged_group_name_is_refused(hdf5, name):
    content = hdf5.read_bytes()
    assert content.count(PLANE.encode()) == 1
    hdf5.write_bytes(content.replace(PLANE.encode(), name))
    refused(r"tiny.hdf5: truncated or damaged HDF5, .*entry named b?'0269\\", hdf5)


def test_a_dangling_link_is_refused(hdf5):
    with h5py.File(hdf5, "r+") as file:
        file["04256520"] = h5py.SoftLink("/nowhere")
    refused("tiny.hdf5: truncated or damaged HDF5", hdf5)


def header(shape, descr="<f4"):
    """Return the start of a `.npy` file, which need not be true."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_npy_files_that_are_not_what_they_say(folders):
    file = folders / CHAIR / "train" / "shape8.npy"
    message = "shape8.npy cannot be read as .npy"
    with file.open("wb") as out:
        np.savez(out, cloud=np.zeros((16, 3), np.float32))
    refused(message, folders)
    for rows in (10**13, 2**62, 10**30, -1):
        file.write_bytes(header((rows, 3)) + bytes(16 * 3 * 4))
        refused(message, folders)
    file.write_bytes(header((16, 3)) + bytes(16 * 3 * 4 - 1))
    refused(message, folders)
    file.write_bytes(header((16, 3), descr="|O") + bytes(16 * 3 * 8))
    refused(message, folders)
    file.write_bytes(header((16, 3)).replace(b"{", b"(") + bytes(16 * 3 * 4))
    refused(message, folders)
    file.write_bytes(header((0, 3)))
    refused("shape8.npy", folders)
    file.unlink()
    file.mkdir()
    refused(message, folders)


def test_fingerprint_covers_values_beyond_float32_in_other_splits(hdf5):
    before = load_clouds(hdf5, "chair", "val").identity.fingerprint
    change(hdf5, f"{CHAIR}/train", clouds(CHAIR, "train").astype(np.float64) * 1e300)
    assert load_clouds(hdf5, "chair", "val").identity.fingerprint != before


def test_fingerprint_covers_sixteen_clouds_of_a_split(tmp_path):
    path, many = tmp_path / "many.hdf5", np.random.default_rng(0).normal(size=(31, 8, 3))
    prints = []
    for moved in (None, 0, 15, 30, 1):
        stored = many.copy()
        if moved is not None:
            stored[moved] += 1
        with h5py.File(path, "w") as file:
            file[f"{CHAIR}/train"] = stored
        prints.append(load_clouds(path, "chair", "train").identity.fingerprint)
    # 31 clouds: every other one is looked at, the ends included; cloud 1 and cloud 15 are not.
    assert prints[0] == prints[2] == prints[4]
    assert len(set(prints)) == 3


def test_errors_of_folders(folders, tmp_path):
    files = folders / CHAIR / "train"
    refused(f"{CHAIR} is the folder of one category; give its parent", folders / CHAIR)
    refused("has no <category>/train", tmp_path)
    np.save(files / "shape8.npy", np.zeros((15, 3), np.float32))
    refused("shape8.npy has 15 points where shape6.npy has 16", folders)
    np.save(files / "shape8.npy", np.zeros((16, 3), np.int64))
    refused(r"shape8.npy must be floating point \(P, 3\), got int64", folders)
    np.save(files / "shape8.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused("shape8.npy cannot be read as .npy", folders)
    (files / "shape8.npy").write_bytes(b"")
    refused("shape8.npy cannot be read as .npy", folders)
    np.save(files / "shape8.npy", np.full((16, 3), np.nan, np.float32))
    refused("train cloud shape8 has NaN", folders)
    for file in files.glob("*.npy"):
        file.unlink()
    refused(r"train has no .npy file \(splits with clouds: val, test\)", folders)
    (folders / "chair" / "val").mkdir(parents=True)
    refused("holds chair twice", folders)


def test_several_data_sets_in_one_folder(folders):
    twin = folders.parent / "Other" / CHAIR / "train"
    twin.mkdir(parents=True)
    refused(r"holds several data sets \(Clouds.PC16, Other\); give the path of one", folders.parent)
