"""Readers of the two layouts clouds come in: one HDF5 file, or folders of `.npy` files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
import torch
from torch import Tensor

from pcdiff.data.categories import SYNSET_TO_NAME
from pcdiff.errors import InputError
from pcdiff.interop.child_process import opened
from pcdiff.runtime.paths import entries, is_folder

SPLITS = ("train", "val", "test")
_PROBES = 16  # clouds hashed per category and split: all of a small set, a spread of a large one


class Source(Protocol):
    """A place that holds clouds by category and split.

    Attributes:
        name: for the data set's identity.
        where: for messages.
        stand_in: whether the shapes are made up.
        held: category name -> the source's own key (a synset id, or the name itself).
    """

    name: str
    where: str
    stand_in: bool
    held: dict[str, str]

    def read(self, key: str, split: str) -> tuple[Tensor, list[str]]:
        """Return clouds `(n, P, 3)` and their ids, checked; float64 where they are stored so, else float32.

        None is an `InputError`.
        """
        ...

    def digest(self, key: str) -> bytes:
        """Return what the fingerprint takes from one category: of all three splits, whichever is loaded."""
        ...


def fingerprint(source: Source, keys: Mapping[str, str]) -> str:
    """Return the short SHA-256 over the chosen categories (name -> key) and each one's `Source.digest`.

    It covers the shapes (of a folder: the file names and sizes) of every split, and the coordinates of up to 16
    clouds of each, spread evenly, the first and the last among them. Of a larger split it does not see the other
    clouds: a change of coordinates there alone leaves the fingerprint as it was.
    """
    sha = hashlib.sha256()
    for name, key in keys.items():
        sha.update(os.fsencode(f"{name}:") + source.digest(key) + b";")
    return sha.hexdigest()[:16]


def _probes(count: int) -> list[int]:
    """Return up to `_PROBES` indices spread evenly over 0..count-1, both ends included."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, _PROBES))}) if count else []


def _float32_bytes(cloud: np.ndarray) -> bytes:
    with np.errstate(over="ignore"):  # in a split that is not loaded nobody has looked for such values yet
        return np.ascontiguousarray(cloud, dtype="<f4").tobytes()


def _held(keys: Iterable[str], where: Path) -> dict[str, str]:
    held: dict[str, str] = {}
    for key in keys:
        name = SYNSET_TO_NAME.get(key, key)
        if name in held:
            raise InputError(f"{where} holds {name} twice, as {held[name]} and {key}; rename or remove one")
        held[name] = key
    return held


def _kept(stored: np.dtype) -> type:
    """Return the type that clouds are read as: double stays, so that far clouds are centered before it is lost."""
    return np.float64 if stored.itemsize > 4 else np.float32


def _check_finite(clouds: np.ndarray, where: str, ids: list[str]) -> None:
    # One pass, no mask of the whole array: a float64 sum of float32 is finite only where every term is.
    with np.errstate(invalid="ignore", over="ignore"):
        wrong = ~np.isfinite(clouds.sum(axis=(1, 2), dtype=np.float64))
        if clouds.dtype == np.float64:  # what float32 cannot hold counts as infinite
            wrong |= ~(np.abs(clouds).max(axis=(1, 2)) <= np.finfo(np.float32).max)
        bad = np.flatnonzero(wrong)
    if len(bad):
        raise InputError(f"{where} cloud {ids[bad[0]]} has NaN or infinite coordinates; repair or remove it")


class Hdf5Source:
    """An HDF5 file with `f[key][split]` of `(n, P, 3)` floating point.

    Raises:
        InputError: the file cannot be opened, or holds no category.
    """

    stand_in = False

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        self.name = f"shapenet.hdf5 layout: {path.name}"
        with self._open() as file:
            for key in file:  # a damaged name: bytes where it is not UTF-8, or such as no one-line message holds
                if not isinstance(key, str) or not key.isprintable():
                    raise ValueError(f"entry named {key!a}")
            keys = sorted(key for key in file if isinstance(file[key], h5py.Group))
            keys = [key for key in keys if any(split in file[key] for split in SPLITS)]
        if not keys:
            raise InputError(f"{path} holds no category: expected groups <synset id>/train|val|test")
        self.held = _held(keys, path)

    @contextmanager
    def _open(self) -> Iterator[h5py.File]:
        try:
            with opened(self.path) as file:
                yield file
        except InputError:
            raise
        # Damage shows wherever h5py meets it: at the opening, at a look-up, or at the reading of clouds.
        except (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{self.path}: truncated or damaged HDF5, or another format ({reason}); fetch it again"
            ) from None

    def _entry(self, file: h5py.File, key: str, split: str) -> h5py.Dataset | None:
        entry = file[key].get(split)
        where = f"{self.path}: {key}/{split}"
        if entry is None:
            return None
        if not isinstance(entry, h5py.Dataset) or entry.dtype.kind != "f":
            found = entry.dtype if isinstance(entry, h5py.Dataset) else "a group"
            raise InputError(f"{where} must hold floating point (n, P, 3), got {found}")
        if entry.ndim != 3 or entry.shape[2] != 3 or (len(entry) and entry.shape[1] < 1):
            raise InputError(f"{where} must be (n, P, 3), got {entry.shape}")
        return entry

    def read(self, key: str, split: str) -> tuple[Tensor, list[str]]:
        """Return the clouds in the file's order; their ids are row numbers."""
        where = f"{self.path}: {key}/{split}"
        with self._open() as file:
            entry = self._entry(file, key, split)
            if entry is None or not len(entry):
                present = ", ".join(s for s in SPLITS if s in file[key] and len(file[key][s]))
                raise InputError(f"{where} is empty or absent (splits with clouds: {present or 'none'})")
            clouds: np.ndarray = np.asarray(entry, dtype=_kept(entry.dtype))
        ids = [str(i) for i in range(len(clouds))]
        _check_finite(clouds, where, ids)
        return torch.from_numpy(clouds), ids

    def digest(self, key: str) -> bytes:
        """Hash the shapes of all three splits, and up to 16 clouds of each as float32."""
        sha = hashlib.sha256()
        with self._open() as file:
            for split in SPLITS:
                entry = self._entry(file, key, split)
                sha.update(f"{split}{None if entry is None else entry.shape}".encode())
                for i in _probes(0 if entry is None else len(entry)):
                    sha.update(_float32_bytes(entry[i]))
        return sha.digest()


def _is_root(folder: Path) -> bool:
    return any(is_folder(child / split) for child in entries(folder) if is_folder(child) for split in SPLITS)


def find_root(folder: Path) -> Path:
    """Return the folder whose children are categories: the one given, or the only such one right below it.

    Raises:
        InputError: there is none, or more than one.
    """
    if _is_root(folder):
        return folder
    below = [child for child in entries(folder) if is_folder(child) and _is_root(child)]
    if len(below) == 1:
        return below[0]
    if below:
        names = ", ".join(child.name for child in below)
        raise InputError(f"{folder} holds several data sets ({names}); give the path of one")
    if any(is_folder(folder / split) for split in SPLITS):
        raise InputError(f"{folder} is the folder of one category; give its parent {folder.absolute().parent}")
    raise InputError(f"{folder} has no <category>/train|val|test folder and is no HDF5 file")


class FolderSource:
    """Folders `<root>/<key>/<split>/*.npy`, one `(P, 3)` floating-point file per cloud (PC15k's layout)."""

    stand_in = False

    def __init__(self, root: Path) -> None:
        self.root, self.where, self.name = root, str(root), root.absolute().name
        children = [child for child in entries(root) if is_folder(child)]
        self.held = _held((c.name for c in children if any(is_folder(c / s) for s in SPLITS)), root)

    def _files(self, key: str, split: str) -> list[Path]:
        return sorted((self.root / key / split).glob("*.npy"))

    def _load(self, file: Path) -> np.ndarray:
        # Mapped, a header that promises more than the file holds is refused before any memory is taken; and unlike
        # np.load this opens nothing but .npy, whatever the file is: no archive, no pickle.
        try:
            cloud = np.lib.format.open_memmap(file, mode="r")
        except Exception as error:  # the header is Python text, and its parser raises what it likes
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{file} cannot be read as .npy ({reason}); remove it") from None
        if cloud.dtype.kind != "f" or cloud.ndim != 2 or cloud.shape[1] != 3 or not len(cloud):
            raise InputError(f"{file} must be floating point (P, 3), got {cloud.dtype} {cloud.shape}")
        return cloud

    def read(self, key: str, split: str) -> tuple[Tensor, list[str]]:
        """Return the clouds by sorted file name; their ids are the names without `.npy`."""
        files = self._files(key, split)
        folder = self.root / key / split
        if not files:
            present = ", ".join(s for s in SPLITS if self._files(key, s))
            raise InputError(f"{folder} has no .npy file (splits with clouds: {present or 'none'})")
        clouds = None
        for i, file in enumerate(files):
            cloud = self._load(file)
            if clouds is None:
                clouds = np.empty((len(files), *cloud.shape), dtype=_kept(cloud.dtype))
            if cloud.shape != clouds.shape[1:]:
                raise InputError(
                    f"{file} has {len(cloud)} points where {files[0].name} has {clouds.shape[1]};"
                    " all clouds of a category must have as many"
                )
            if clouds.dtype == np.float32 and _kept(cloud.dtype) == np.float64:
                clouds = clouds.astype(np.float64)
            clouds[i] = cloud
        ids = [file.stem for file in files]
        _check_finite(clouds, str(folder), ids)
        return torch.from_numpy(clouds), ids

    def digest(self, key: str) -> bytes:
        """Hash the file names and sizes of all three splits, and up to 16 clouds of each as float32."""
        sha = hashlib.sha256()
        for split in SPLITS:
            files = self._files(key, split)
            sha.update(f"{split}{len(files)}".encode())
            for file in files:
                sha.update(os.fsencode(f"{file.name} {file.stat().st_size}"))
            for i in _probes(len(files)):
                sha.update(_float32_bytes(self._load(files[i])))
        return sha.digest()
