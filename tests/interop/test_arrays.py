"""Arrays of clouds: `.npy`, `.npz`, HDF5 and torch files."""

import os
import zipfile

import h5py
import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.interop import read_cloud_set

CLOUDS = np.random.default_rng(0).normal(size=(4, 10, 3)).astype(np.float32)


class Runs:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def refused(match, path):
    with pytest.raises(InputError, match=match) as raised:
        read_cloud_set(path)
    assert "\n" not in str(raised.value)
    assert str(path).split(":")[0] in str(raised.value)


def store(path, array):
    """Write one array in the format of the suffix."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, array)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["a/b"] = array
        return f"{path}:a/b"
    else:
        torch.save(torch.from_numpy(array), path)
    return str(path)


FORMATS = pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".pt"])


@FORMATS
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_every_float_type_is_read_as_float32_or_double(tmp_path, suffix, dtype):
    if suffix == ".pt" and dtype == ">f4":
        pytest.skip("torch has no other byte order")
    path = store(tmp_path / f"a{suffix}", CLOUDS.astype(dtype))
    for i, cloud in enumerate(read_cloud_set(path).clouds):
        assert cloud.dtype == (np.float64 if dtype == "<f8" else np.float32)
        assert cloud.dtype.isnative
        np.testing.assert_array_equal(cloud, CLOUDS[i].astype(dtype))


@FORMATS
def test_one_cloud_alone_carries_no_index(tmp_path, suffix):
    path = store(tmp_path / f"a{suffix}", CLOUDS[1])
    (cloud,), (name,) = read_cloud_set(path)
    np.testing.assert_array_equal(cloud, CLOUDS[1])
    assert name == path


@FORMATS
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 2)), r"expected clouds \(n, P, 3\) or one cloud \(P, 3\), got shape \(5, 2\)$"),
        (np.zeros((5, 6)), r"got shape \(5, 6\); keep the columns x, y, z only"),
        (np.zeros((2, 5, 6)), r"got shape \(2, 5, 6\); keep the columns x, y, z only"),
        (np.zeros((5, 3, 7)), r"got shape \(5, 3, 7\); swap the last two axes"),
        (np.zeros((2, 2, 5, 3)), r"got shape \(2, 2, 5, 3\)"),
        (np.zeros(3), r"got shape \(3,\)"),
        (np.zeros(()), r"got shape \(\)"),
        (np.ones((2, 5, 3), dtype=int), "expected float coordinates, got dtype int64"),
        (np.ones((2, 5, 3), dtype=complex), "got dtype complex128"),
        (np.zeros((0, 5, 3)), r"holds no point, shape \(0, 5, 3\)"),
        (np.zeros((2, 0, 3)), r"holds no point, shape \(2, 0, 3\)"),
        (np.zeros((0, 3)), r"holds no point, shape \(0, 3\)"),
        (np.full((2, 5, 3), 1e300), r"\[0\]: NaN or inf in 5 of 5 points, first in point 0"),
        (np.full((5, 3), np.nan), r": NaN or inf in 5 of 5 points"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, suffix, array, message):
    refused(message, store(tmp_path / f"a{suffix}", array))


@pytest.mark.parametrize("order", ["C", "F"])
def test_fortran_order(tmp_path, order):
    np.save(tmp_path / "a.npy", np.asarray(CLOUDS, order=order))
    np.savez(tmp_path / "a.npz", np.asarray(CLOUDS, order=order))
    for name in ("a.npy", "a.npz"):
        np.testing.assert_array_equal(read_cloud_set(tmp_path / name).clouds, CLOUDS)


@pytest.mark.parametrize("shape", [(10**12, 10, 3), (2**32, 2**32, 3), (-1, 3), (-2, -5, 3)])
def test_a_header_that_lies_is_refused(tmp_path, shape):
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.write(bytes(480))
    refused("truncated, damaged", tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "x.npy")
    refused("truncated, damaged or not a .npz file", tmp_path / "a.npz")


def test_pickles_are_not_run(tmp_path):
    trap = np.array([Runs(tmp_path / "ran")], dtype=object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    refused("holds Python objects", tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", x=trap)
    refused("holds Python objects", tmp_path / "a.npz")
    for content in (Runs(tmp_path / "ran"), {"x": Runs(tmp_path / "ran")}, [Runs(tmp_path / "ran")]):
        for zipped in (True, False):
            torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
            refused(r"refused to open: it asks for \S*mkdir, which could run code", tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_several_arrays_need_a_key(tmp_path):
    np.savez(tmp_path / "a.npz", x=CLOUDS, **{"y/z:1": CLOUDS[1]}, label=np.arange(4))
    refused(r"name one of its entries as a\.npz:KEY; it holds x, y/z:1, label", tmp_path / "a.npz")
    refused("has no entry 'w'; it holds x, y/z:1, label", f"{tmp_path}/a.npz:w")
    refused(r"a\.npz:label: expected clouds", f"{tmp_path}/a.npz:label")
    (cloud,), (name,) = read_cloud_set(f"{tmp_path}/a.npz:y/z:1")
    np.testing.assert_array_equal(cloud, CLOUDS[1])
    assert name == f"{tmp_path}/a.npz:y/z:1"
    assert read_cloud_set(f"{tmp_path}/a.npz:x").names[3] == f"{tmp_path}/a.npz:x[3]"
    np.savez(tmp_path / "a.npz")
    refused("it holds none", tmp_path / "a.npz")


def test_other_zip_compressions_and_false_sizes_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((100, 1000, 3)))
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", kind) as archive:
            archive.write(tmp_path / "x.npy", "x.npy")
        refused("compressed in a way numpy does not write", tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
    assert len(read_cloud_set(tmp_path / "a.npz").clouds) == 100  # a thousandth of its size, and honest


def test_hdf5_candidates(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["labels"] = np.arange(4)
        file["chair/one"] = CLOUDS[0]
        file["gone"] = h5py.SoftLink("/nowhere")
    refused(r"expected a data set of shape \(n, P, 3\); it holds chair/one \(10, 3\), labels \(4,\)", path)
    with h5py.File(path, "r+") as file:
        file["chair/test"] = CLOUDS
    assert read_cloud_set(path).names[1] == f"{path}[1]"
    with h5py.File(path, "r+") as file:
        file.create_dataset("chair/train", data=CLOUDS[1:], compression="gzip")
        file["nothing"] = h5py.Empty("f4")
        file.create_dataset("unwritten", (10**9, 10**3, 3), "f4", chunks=(1, 1000, 3))
    refused(r"name one .*a\.hdf5:KEY; it holds chair/test, chair/train, unwritten", path)
    np.testing.assert_array_equal(read_cloud_set(f"{path}:/chair/train").clouds, CLOUDS[1:])
    np.testing.assert_array_equal(read_cloud_set(f"{path}:chair/one").clouds, CLOUDS[:1])
    for key, message in (
        ("chair", "has no entry 'chair'"),
        ("gone", "has no entry 'gone'"),
        ("nothing", "holds no point"),
        ("unwritten", "promises 12000000000000 bytes and stores 0"),
    ):
        refused(message, f"{path}:{key}")


def test_torch_contents(tmp_path):
    path = tmp_path / "a.pt"
    ragged = [torch.rand(5, 3), torch.rand(2, 3, dtype=torch.bfloat16)]
    torch.save(ragged, path)
    read = read_cloud_set(path)
    assert read.names == [f"{path}[0]", f"{path}[1]"]
    for ours, theirs in zip(read.clouds, ragged, strict=True):
        np.testing.assert_array_equal(ours, theirs.float())
    torch.save({"x": torch.nn.Parameter(torch.ones(1, 4, 3)), 5: ragged, "note": "text"}, path)
    refused(r"name one of its entries as a\.pt:KEY; it holds x, 5, note", path)
    assert len(read_cloud_set(f"{path}:5").clouds) == 2
    assert read_cloud_set(f"{path}:x").names == [f"{path}:x[0]"]
    refused(r"a\.pt:note: expected a tensor or a list of tensors \(P, 3\), got str", f"{path}:note")
    for content, message in (
        ([], "holds no cloud"),
        ([torch.rand(2, 5, 3)], r"\[0\]: expected one cloud \(P, 3\) a list entry, got shape \(2, 5, 3\)"),
        ([torch.rand(5, 3), torch.rand(5, 2)], r"\[1\]: expected clouds .*got shape \(5, 2\)"),
        ([torch.rand(5, 3), torch.ones(5, 3) / 0], r"\[1\]: NaN or inf in 5 of 5"),
        ([torch.rand(5, 3), [1.0]], r"\[1\]: expected a tensor .*got list"),
        (torch.eye(3).to_sparse(), "a dense tensor"),
        (torch.empty(2, 3, device="meta"), "a dense tensor"),
        ({}, "it holds none"),
    ):
        torch.save(content, path)
        refused(message, path)
    torch.save(torch.rand(5, 3), path)
    refused("has no entry 'x'; it holds one Tensor", f"{path}:x")


def test_an_archive_named_npy_is_refused(tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        np.savez(file, clouds=CLOUDS)
    refused(r"not a \.npy file", tmp_path / "a.npy")


def test_real_chairs(shared_data):
    (path,) = shared_data.glob("modelnet10/chair*.hdf5")
    refused("it holds 03001627/test, 03001627/train, 03001627/val", path)
    with h5py.File(path) as file:
        expected = file["03001627/test"][()]
    np.testing.assert_array_equal(read_cloud_set(f"{path}:03001627/test").clouds, expected)
