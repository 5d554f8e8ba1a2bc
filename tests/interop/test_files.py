"""Sets of clouds from files and folders; writing `.npy`."""

import re

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.interop import read_cloud_set, write_clouds
from pcdiff.interop.files import SUFFIXES


@pytest.fixture
def clouds():
    return np.random.default_rng(0).normal(size=(4, 10, 3)).astype(np.float32)


@pytest.mark.parametrize("convert", [np.asarray, np.asfortranarray, torch.from_numpy, lambda a: a[::-1][::-1]])
def test_round_trip(tmp_path, clouds, convert):
    path = write_clouds(tmp_path / "new" / "clouds.npy", convert(clouds))
    read = read_cloud_set(str(path))
    np.testing.assert_array_equal(np.stack(read.clouds), clouds)
    assert read.names == [f"{path}[{i}]" for i in range(4)]
    assert [file.name for file in path.parent.iterdir()] == ["clouds.npy"]


def test_a_folder_is_read_by_name_and_may_mix_formats_and_sizes(tmp_path, clouds):
    np.save(tmp_path / "b.npy", clouds[:2])
    np.savetxt(tmp_path / "a.XYZ", clouds[2])
    np.save(tmp_path / "c.npy", clouds[3, :4])
    (tmp_path / "notes.txt").write_text("not a cloud")
    (tmp_path / ".d.npy").write_text("hidden")
    (tmp_path / "more.npy").mkdir()
    read = read_cloud_set(tmp_path)
    assert read.names == [str(tmp_path / name) for name in ("a.XYZ", "b.npy[0]", "b.npy[1]", "c.npy")]
    np.testing.assert_allclose(read.clouds[0], clouds[2])
    np.testing.assert_array_equal(read.clouds[3], clouds[3, :4])
    for cloud in read.clouds:
        assert cloud.dtype == (np.float64 if cloud is read.clouds[0] else np.float32)
        assert cloud.flags.c_contiguous
        assert cloud.flags.writeable


def test_a_folder_without_clouds_says_what_is_there(tmp_path):
    with pytest.raises(InputError, match=r"found 0 folders, 0 hidden entries and 0 other files \(none\)"):
        read_cloud_set(tmp_path)
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    (tmp_path / ".a.npy").touch()
    for i in range(10):
        (tmp_path / f"a.x{i}").touch()
    with pytest.raises(InputError) as raised:
        read_cloud_set(tmp_path)
    text = str(raised.value)
    assert "found 2 folders, 1 hidden entries and 10 other files (.x0, " in text
    assert ".x7 and 2 more)" in text
    assert text.endswith("expected " + ", ".join(SUFFIXES))


def test_a_bad_file_in_a_folder_is_named(tmp_path, clouds):
    np.save(tmp_path / "a.npy", clouds)
    clouds[2:, 7, 1] = np.inf
    np.save(tmp_path / "b.npy", clouds)
    with pytest.raises(InputError, match=r"b\.npy\[2\]: NaN or inf in 1 of 10 points, first in point 7"):
        read_cloud_set(tmp_path)


def test_paths_that_name_nothing(tmp_path):
    for name, message in (
        ("gone.npy", "no such file or folder"),
        ("gone.npz:key", "no such file or folder"),
        (":", "no such file or folder"),
        ("x" * 5000, r"cannot be opened \(File name too long\)"),
        ("nul\0.npy", r"nul\\x00\.npy: cannot be a path"),
        ("", "no file of clouds"),
    ):
        with pytest.raises(InputError, match=message):
            read_cloud_set(tmp_path / name)
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match=r"a: expected one of \.npy, .*, got no suffix"):
        read_cloud_set(tmp_path / "a")
    (tmp_path / "a.npy").touch()
    with pytest.raises(InputError, match=r"a \.npy file has no entries; leave out :key"):
        read_cloud_set(f"{tmp_path}/a.npy:key")


def test_a_colon_in_a_name_is_no_key(tmp_path, clouds):
    np.savez(tmp_path / "a.npz:b.npz", x=clouds)
    assert len(read_cloud_set(tmp_path / "a.npz:b.npz").clouds) == 4


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_mesh_points_must_be_a_positive_integer(tmp_path, value):
    with pytest.raises(InputError, match=re.escape(f"mesh_points must be a positive integer, got {value!r}")):
        read_cloud_set(tmp_path, mesh_points=value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_write_names_the_first_bad_cloud(tmp_path, clouds, value):
    clouds = clouds.astype(np.float64)
    clouds[2:, 7, 1] = value
    with pytest.raises(InputError, match=r"clouds\[2\]: NaN or inf in 1 of 10 points"):
        write_clouds(tmp_path / "b.npy", clouds)
    assert not list(tmp_path.iterdir())


def test_write_refuses_other_shapes_types_and_suffixes(tmp_path, clouds):
    for bad, message in (
        (clouds[0], r"must be \(n, P, 3\), got \(10, 3\); clouds\[None\]"),
        (clouds[:0], r"clouds: holds no point, shape \(0, 10, 3\)"),
        (clouds.astype(int), "clouds: expected float coordinates, got dtype int64"),
        (clouds.transpose(0, 2, 1), "swap the last two axes"),
    ):
        with pytest.raises(InputError, match=message):
            write_clouds(tmp_path / "a.npy", bad)
    for name, found in (("a", "no suffix"), ("a.ply", r"\.ply")):
        with pytest.raises(InputError, match=rf"expected a \.npy file, got {found}"):
            write_clouds(tmp_path / name, clouds)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, clouds, monkeypatch):
    path = write_clouds(tmp_path / "a.npy", clouds)

    def full(file, array, **_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_clouds(path, clouds + 1)
    assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]
    np.testing.assert_array_equal(read_cloud_set(path).clouds, clouds)


def test_a_folder_that_cannot_be_made(tmp_path, clouds):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write \(.*what was there is untouched"):
        write_clouds(tmp_path / "file" / "a.npy", clouds)


def test_real_bodies(shared_data):
    folder = shared_data / "points_cc0" / "human" / "test"
    read = read_cloud_set(folder)
    files = sorted(folder.glob("*.npy"))
    assert read.names == [str(file) for file in files]
    for cloud, file in zip(read.clouds, files, strict=True):
        np.testing.assert_array_equal(cloud, np.load(file))
