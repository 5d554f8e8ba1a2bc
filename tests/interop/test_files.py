"""Reading and writing `.npy` files of clouds."""

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.interop.files import read_clouds, write_clouds


@pytest.fixture
def clouds():
    return np.random.default_rng(0).normal(size=(4, 10, 3)).astype(np.float32)


@pytest.mark.parametrize("convert", [np.asarray, np.asfortranarray, torch.from_numpy, lambda a: a[::-1][::-1]])
def test_round_trip(tmp_path, clouds, convert):
    path = write_clouds(tmp_path / "new" / "clouds.npy", convert(clouds))
    np.testing.assert_array_equal(read_clouds(path), clouds)
    assert [file.name for file in path.parent.iterdir()] == ["clouds.npy"]


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_any_float_type_is_read_as_writable_float32(tmp_path, clouds, dtype):
    np.save(tmp_path / "a.npy", clouds.astype(dtype))
    read = read_clouds(tmp_path / "a.npy")
    assert read.dtype == np.float32
    assert read.dtype.isnative
    assert read.flags.writeable
    np.testing.assert_array_equal(read, clouds.astype(dtype).astype(np.float32))


def test_missing_and_wrong_suffix(tmp_path):
    with pytest.raises(InputError, match=r"gone\.npy: no such file"):
        read_clouds(tmp_path / "gone.npy")
    with pytest.raises(InputError, match=r"expected a \.npy file, got \.ply"):
        read_clouds(tmp_path / "a.ply")
    with pytest.raises(InputError, match=r"expected a \.npy file, got no suffix"):
        write_clouds(tmp_path / "a", np.zeros((1, 1, 3)))


@pytest.mark.parametrize("keep", [0, 3, 6, 9, 60, 127, 128, 200, 607])
def test_a_truncated_file_is_refused(tmp_path, clouds, keep):
    path = write_clouds(tmp_path / "a.npy", clouds)
    whole = path.read_bytes()
    assert len(whole) == 608
    path.write_bytes(whole[:keep])
    with pytest.raises(InputError, match=r"a\.npy: (not a \.npy file|truncated or damaged)"):
        read_clouds(path)


def test_a_header_that_promises_too_much_is_refused(tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 10, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(480))
    with pytest.raises(InputError, match="truncated or damaged"):
        read_clouds(tmp_path / "a.npy")


class _Trap:
    """Leaves a mark if it is ever unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def test_pickles_are_not_run(tmp_path):
    np.save(tmp_path / "a.npy", np.array([_Trap(tmp_path / "mark")], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="holds Python objects"):
        read_clouds(tmp_path / "a.npy")
    assert not (tmp_path / "mark").exists()


def test_an_archive_named_npy_is_refused(tmp_path, clouds):
    with open(tmp_path / "a.npy", "wb") as file:
        np.savez(file, clouds=clouds)
    with pytest.raises(InputError, match=r"not a \.npy file"):
        read_clouds(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 3)), r"got shape \(5, 3\); one cloud needs a leading axis"),
        (np.zeros((5, 3, 7)), r"got shape \(5, 3, 7\); swap the last two axes"),
        (np.zeros((2, 5, 4)), r"expected clouds \(n, P, 3\), got shape \(2, 5, 4\)"),
        (np.zeros((2, 5, 3), dtype=int), "expected float coordinates, got dtype int64"),
        (np.zeros((2, 5, 3), dtype=complex), "got dtype complex128"),
        (np.zeros((0, 5, 3)), r"holds no point, shape \(0, 5, 3\)"),
        (np.zeros((2, 0, 3)), r"holds no point, shape \(2, 0, 3\)"),
        (np.full((2, 5, 3), 1e300), r"cloud 0 holds NaN or inf \(2 of 2 clouds do\)"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=message):
        read_clouds(tmp_path / "a.npy")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_bad_cloud_is_named(tmp_path, clouds, value):
    clouds[2:, 7, 1] = value
    np.save(tmp_path / "a.npy", clouds)
    with pytest.raises(InputError, match=r"a\.npy: cloud 2 holds NaN or inf \(2 of 4"):
        read_clouds(tmp_path / "a.npy")
    with pytest.raises(InputError, match="clouds: cloud 2 holds NaN or inf"):
        write_clouds(tmp_path / "b.npy", clouds)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, clouds, monkeypatch):
    path = write_clouds(tmp_path / "a.npy", clouds)

    def full(file, array, **_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_clouds(path, clouds + 1)
    assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]
    np.testing.assert_array_equal(read_clouds(path), clouds)


def test_a_folder_that_cannot_be_made(tmp_path, clouds):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write \(.*what was there is untouched"):
        write_clouds(tmp_path / "file" / "a.npy", clouds)
    for bad in (clouds[0], clouds[:0], clouds.astype(int)):
        with pytest.raises(InputError, match="clouds must"):
            write_clouds(tmp_path / "a.npy", bad)
