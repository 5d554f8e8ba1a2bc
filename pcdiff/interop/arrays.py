"""Arrays of clouds in `.npy`, `.npz`, HDF5 and torch files. Nothing in them is executed."""

import math
import mmap
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from pcdiff.errors import InputError
from pcdiff.interop.checks import check_form, listed, unreadable
from pcdiff.interop.child_process import opened
from pcdiff.runtime.torch_files import load_without_code

# DEFLATE stores at best about a thousandth. A file whose header promises more than this many times its size is
# damaged.
_MOST_COMPRESSED = 1100
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(path: Path) -> np.ndarray:
    """Map a `.npy` array; a header that promises more than the file holds is refused before memory is taken.

    Raises:
        InputError: it is damaged, no `.npy`, or no clouds.
    """
    with unreadable(str(path), "a .npy file"), path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = _npy_header(mapped, str(path))
        return _npy_array(memoryview(mapped)[mapped.tell() :], *header)


def _npy_header(file: BinaryIO | mmap.mmap, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in _NPY_HEADERS:
        raise ValueError(f"version {version}")
    shape, fortran_order, dtype = _NPY_HEADERS[version](file)
    if dtype.hasobject:
        raise InputError(f"{name}: holds Python objects, expected floats; save equal point counts as one array")
    check_form(shape, dtype, name)
    if min(shape) < 0:
        raise ValueError(f"shape {shape}")
    return shape, fortran_order, dtype


def _npy_array(
    data: bytes | memoryview, shape: tuple[int, ...], fortran_order: bool, dtype: np.dtype
) -> np.ndarray:
    flat = np.frombuffer(data, dtype, math.prod(shape))
    return flat.reshape(shape, order="F" if fortran_order else "C")


def read_npz(path: Path, key: str | None) -> np.ndarray:
    """Read the array called `key`, or the only one, of what `numpy.savez` or `savez_compressed` wrote.

    Raises:
        InputError: it is damaged or no `.npz`, the array is no clouds, or none or several could be meant.
    """
    with unreadable(str(path), "a .npz file"), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        key, name = _choose(path, key, list(members))
        info = members[key]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{key} is compressed in a way numpy does not write")
        with archive.open(info) as member:
            header = _npy_header(member, name)
            promised, left = math.prod(header[0]) * header[2].itemsize, info.file_size - member.tell()
            stored = min(info.compress_size, path.stat().st_size)
            if promised != left or promised > stored * _MOST_COMPRESSED:
                raise ValueError(f"{key} promises {promised} bytes and stores {stored}")
            return _npy_array(member.read(), *header)


def _choose(path: Path, key: str | None, keys: list[str]) -> tuple[str, str]:
    """Return the key asked for, or the only one, and the name for messages."""
    if key is None:
        if len(keys) != 1:
            raise InputError(f"{path}: name one of its entries as {path.name}:KEY; it holds {listed(keys)}")
        return keys[0], str(path)
    if key not in keys:
        raise InputError(f"{path}: has no entry {key!r}; it holds {listed(keys)}")
    return key, f"{path}:{key}"


def read_hdf5(path: Path, key: str | None) -> np.ndarray:
    """Read the data set at the path `key` inside an HDF5 file, or the only one there of shape `(n, P, 3)`.

    Raises:
        InputError: it is damaged or no HDF5, the data set is no clouds, or none or several could be meant.
    """
    import h5py  # here, because it is slow to import and few need it

    shapes: dict[str, tuple | None] = {}

    def visit(name: str, entry: h5py.Group | h5py.Dataset) -> None:
        if isinstance(entry, h5py.Dataset):
            shapes[name] = entry.shape

    with unreadable(str(path), "an HDF5 file"), opened(path) as file:
        file.visititems(visit)
        if key is None:
            fitting = [name for name, shape in shapes.items() if shape and len(shape) == 3 and shape[2] == 3]
            if not fitting:
                held = listed(f"{name} {shape}" for name, shape in shapes.items())
                raise InputError(f"{path}: expected a data set of shape (n, P, 3); it holds {held}")
            place, name = _choose(path, None, fitting)
        else:
            place, name = _choose(path, key.strip("/"), list(shapes))
        entry = file[place]
        if entry.shape is None:
            raise InputError(f"{name}: holds no point")
        check_form(entry.shape, entry.dtype, name)
        # HDF5 fills what was never written with zeros, as many as the header gives.
        promised, stored = math.prod(entry.shape) * entry.dtype.itemsize, entry.id.get_storage_size()
        if promised > stored * _MOST_COMPRESSED:
            raise InputError(f"{name}: promises {promised} bytes and stores {stored}; it was not written whole")
        return entry[()]


def read_torch(path: Path, key: str | None) -> np.ndarray | list[np.ndarray]:
    """Read a tensor, or a list of tensors `(P_i, 3)`, from what `torch.save` wrote; of a dict the entry `key`.

    Raises:
        InputError: it is damaged or no torch file, would run code, holds other things than tensors, or none or
            several entries could be meant.
    """
    content, name = load_without_code(path), str(path)
    if isinstance(content, dict):
        entries = {str(entry): value for entry, value in content.items()}
        key, name = _choose(path, key, list(entries))
        content = entries[key]
    elif key is not None:
        raise InputError(f"{path}: has no entry {key!r}; it holds one {type(content).__name__}")
    if isinstance(content, (list, tuple)):
        return [_tensor_array(each, f"{name}[{i}]") for i, each in enumerate(content)]
    return _tensor_array(content, name)


def _tensor_array(value: object, name: str) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{name}: expected a tensor or a list of tensors (P, 3), got {type(value).__name__}")
    with unreadable(name, "a dense tensor"):
        if value.is_floating_point() and value.dtype != torch.float64:
            value = value.float()  # numpy has no bfloat16
        return value.numpy(force=True)
