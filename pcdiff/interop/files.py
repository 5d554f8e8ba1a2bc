"""Files of clouds: any of the field's formats is read, `.npy` is written (docs/formats.md)."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pcdiff.errors import InputError
from pcdiff.interop import meshes
from pcdiff.interop.arrays import read_hdf5, read_npy, read_npz, read_torch
from pcdiff.interop.checks import check_count, checked_clouds, listed
from pcdiff.interop.pcd import read_pcd
from pcdiff.interop.xyz import read_xyz
from pcdiff.ops.far_origin import is_far
from pcdiff.runtime.atomic_write import replacing
from pcdiff.runtime.paths import entries, exists, is_file, is_folder

_Arrays = np.ndarray | list[np.ndarray]
_KEYED: dict[str, Callable[[Path, str | None], _Arrays]] = {
    ".npz": read_npz,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".pt": read_torch,
    ".pth": read_torch,
}
_PLAIN: dict[str, Callable[[Path], np.ndarray]] = {".npy": read_npy, ".xyz": read_xyz, ".pcd": read_pcd}
SUFFIXES = (*_PLAIN, *_KEYED, *meshes.SUFFIXES)


class CloudSet(NamedTuple):
    """Clouds of any sizes.

    Attributes:
        clouds: each `(P_i, 3)`, C-contiguous and finite; float64 where the file has more than float32 (text and
            double), so that clouds far from the origin can be centered before they are rounded, else float32.
        names: where each came from, for messages: `"a.npy[3]"`, `"folder/x.ply"`.
    """

    clouds: list[np.ndarray]
    names: list[str]


def read_cloud_set(path: str | os.PathLike, *, mesh_points: int = 2048, seed: int = 2020) -> CloudSet:
    """Read all clouds of a file, or of the files of a folder in the order of their names.

    The formats, by suffix: docs/formats.md. Nothing in a file is executed.

    Args:
        path: a file; `FILE:KEY` for one entry of an `.npz`, `.h5`, `.hdf5`, `.pt` or `.pth` file; or a folder.
        mesh_points: points drawn on each surface (a mesh file that has faces).
        seed: of those draws, which depend on it and the file's name alone.

    Raises:
        InputError: a file is missing, damaged or of an unknown format, a folder has no file of clouds, the entry is
            not known, or a cloud is empty, not `(P, 3)`, not of floats, or has NaN or infinite coordinates; one
            line that names the file and the cloud's index in it.

    Example:
        >>> clouds, names = read_cloud_set("shapenet.hdf5:03001627/test")  # doctest: +SKIP
    """
    check_count("mesh_points", mesh_points)
    file, key = _file_and_key(path)
    if not is_folder(file):
        return _read_file(file, key, mesh_points, seed)
    clouds, names = [], []
    for each in _files_of(file):
        one = _read_file(each, None, mesh_points, seed)
        clouds += one.clouds
        names += one.names
    return CloudSet(clouds, names)


def _file_and_key(path: str | os.PathLike) -> tuple[Path, str | None]:
    if not exists(path):
        match = re.match(r"(.+?\.(\w+)):(.+)", os.fspath(path), re.DOTALL)
        if match and f".{match[2].lower()}" in SUFFIXES:
            if f".{match[2].lower()}" not in _KEYED:
                raise InputError(f"{path}: a .{match[2]} file has no entries; leave out :{match[3]}")
            return Path(match[1]), match[3]
    return Path(path), None


def _files_of(folder: Path) -> list[Path]:
    """Return a folder's files of clouds by name, hidden ones left out."""
    held = entries(folder)
    shown = [entry for entry in held if not entry.name.startswith(".")]
    folders = [entry for entry in shown if is_folder(entry)]
    files = [entry for entry in shown if entry not in folders]
    known = [entry for entry in files if entry.suffix.lower() in SUFFIXES]
    if not known:
        others = listed(sorted({entry.suffix or entry.name for entry in files}))
        raise InputError(
            f"{folder}: no file of clouds; found {len(folders)} folders, {len(held) - len(shown)} hidden entries "
            f"and {len(files)} other files ({others}); expected {', '.join(SUFFIXES)}"
        )
    return known


def _read_file(path: Path, key: str | None, mesh_points: int, seed: int) -> CloudSet:
    if not is_file(path):
        raise InputError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    if suffix in _KEYED:
        stored = _KEYED[suffix](path, key)
    elif suffix in _PLAIN:
        stored = _PLAIN[suffix](path)
    elif suffix in meshes.SUFFIXES:
        stored = meshes.read_mesh(path, mesh_points, seed)
    else:
        raise InputError(f"{path}: expected one of {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}")
    return CloudSet(*checked_clouds(stored, str(path) if key is None else f"{path}:{key}"))


def write_clouds(path: str | os.PathLike, clouds) -> Path:
    """Write a set of clouds `(n, P, 3)` as `.npy`; the file appears whole or not at all.

    As float32; as float64 where float64 clouds are so far from the origin that float32 would blur them.

    Args:
        path: ends in `.npy`; its folder is made where missing.
        clouds: array or tensor `(n, P, 3)`, finite.

    Returns:
        The path written.

    Raises:
        InputError: for a path that cannot be written, and for whatever `read_cloud_set` would refuse.
    """
    path = Path(path)
    if path.suffix.lower() != ".npy":
        raise InputError(f"{path}: expected a .npy file, got {path.suffix or 'no suffix'}")
    if hasattr(clouds, "detach"):
        clouds = clouds.detach().cpu().numpy()
    clouds = np.asarray(clouds)
    if clouds.ndim == 2:
        raise InputError(f"clouds must be (n, P, 3), got {clouds.shape}; clouds[None] makes one cloud a set")
    stacked = np.stack(checked_clouds(clouds, "clouds")[0])
    if not is_far(torch.from_numpy(stacked)):
        stacked = stacked.astype(np.float32)
    with replacing(path) as draft:
        np.save(draft, stacked, allow_pickle=False)
    return path
