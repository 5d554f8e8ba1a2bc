"""Data sets that fit in memory: CIFAR-10 and -100, MNIST's idx files, and scikit-learn's digits."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_pipeline.data.unpickling import load_arrays
from pcdiff.errors import InputError
from pcdiff.runtime.paths import is_file

MOST_CLASSES = 1_000_000
"""More classes than a data set has; each gets a name."""

_Reader = Callable[[Path], tuple[np.ndarray, np.ndarray]]
_CIFAR_SHAPE = (3, 32, 32)
_IDX_HEADERS = {1: 2049, 3: 2051}  # number of axes -> the magic number of unsigned bytes


@dataclass(frozen=True)
class Arrays:
    """A whole data set in memory.

    Attributes:
        name: layout and file name.
        parts: split -> uint8 images `(n, C, H, W)` and int64 labels `(n,)`, or None without classes; the key `all`
            alone where the data set has no split of its own.
        class_names: name per class.
    """

    name: str
    parts: Mapping[str, tuple[np.ndarray, np.ndarray | None]]
    class_names: tuple[str, ...]


def read_cifar(folder: Path) -> Arrays | None:
    """Read CIFAR-10 or CIFAR-100 (its 100 fine classes), in the binary or the Python form; None if it is neither.

    The Python form is a pickle; it is opened without running code.

    Raises:
        InputError: a file is truncated or damaged.
    """
    for kind, meta, train, test, read in (
        ("CIFAR-10 binary", "batches.meta.txt", "data_batch_*.bin", "test_batch.bin", _binary(1, 10)),
        ("CIFAR-100 binary", "fine_label_names.txt", "train.bin", "test.bin", _binary(2, 100)),
        ("CIFAR-10 Python", "batches.meta", "data_batch_[1-5]", "test_batch", _python("labels", 10)),
        ("CIFAR-100 Python", "meta", "train", "test", _python("fine_labels", 100)),
    ):
        files = {split: sorted(p for p in folder.glob(x) if is_file(p)) for split, x in _both(train, test)}
        if not any(files.values()):
            continue
        parts = {}
        for split, paths in files.items():
            if paths:
                read_parts = [read(path) for path in paths]
                parts[split] = tuple(np.concatenate(arrays) for arrays in zip(*read_parts, strict=True))
        classes = 100 if "100" in kind else 10
        return Arrays(f"{kind}: {folder.name}", parts, _cifar_names(folder / meta, classes))
    return None


def _both(train: str, test: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("train", train), ("test", test)


def _binary(label_bytes: int, classes: int) -> _Reader:
    record = label_bytes + math.prod(_CIFAR_SHAPE)

    def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        data = np.fromfile(path, np.uint8)
        if not len(data) or len(data) % record:
            raise InputError(
                f"{path}: truncated or no CIFAR-{classes} file: {len(data)} bytes are no multiple of the record's"
                f" {record}; fetch it again"
            )
        rows = data.reshape(-1, record)
        # CIFAR-100 puts the coarse label first and the fine one last
        labels = _checked_labels(rows[:, label_bytes - 1], classes, path)
        return rows[:, label_bytes:].reshape(-1, *_CIFAR_SHAPE), labels

    return read


def _python(key: str, classes: int) -> _Reader:
    def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        batch = _text_keys(load_arrays(path), path)
        images, labels = batch.get("data"), np.asarray(batch.get(key, []))
        if not (isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 2):
            raise InputError(f"{path}: must hold a uint8 array (n, 3072) under the key data; fetch it again")
        if images.shape != (len(labels), math.prod(_CIFAR_SHAPE)) or labels.ndim != 1 or not len(labels):
            raise InputError(
                f"{path}: must hold images (n, 3072) and n {key}, got {images.shape} and {labels.shape}"
            )
        return images.reshape(-1, *_CIFAR_SHAPE), _checked_labels(labels, classes, path)

    return read


def _text_keys(content: object, path: Path) -> dict:
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a dict, got {type(content).__name__}")
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}


def _cifar_names(meta: Path, classes: int) -> tuple[str, ...]:
    """Return the class names that lie beside the batches, or numbers where the file is absent."""
    if not is_file(meta):
        return tuple(map(str, range(classes)))
    if meta.suffix == ".txt":
        names = meta.read_text(encoding="latin1").split()
    else:
        entries = _text_keys(load_arrays(meta), meta)
        stored = entries.get("label_names" if classes == 10 else "fine_label_names", [])
        names = [name.decode("latin1") if isinstance(name, bytes) else str(name) for name in stored]
    if len(names) != classes:
        raise InputError(f"{meta}: must name {classes} classes, got {len(names)}")
    return tuple(names)


def read_idx_folder(folder: Path) -> Arrays | None:
    """Read MNIST, Fashion-MNIST and their like: `train-` and `t10k-` idx files, gzipped or not; None without any.

    Raises:
        InputError: a file is truncated or damaged, or the labels of some images are absent.
    """
    parts = {}
    for split, prefix in _both("train", "t10k"):
        images, labels = (_idx_file(folder, prefix, what) for what in ("images", "labels"))
        if images is None:
            continue
        if labels is None:
            raise InputError(f"{folder}: has {images.name} and no {prefix}-labels-idx1-ubyte(.gz); fetch it too")
        pixels, classes = read_idx(images, 3), read_idx(labels, 1)
        if len(pixels) != len(classes):
            raise InputError(f"{folder}: {images.name} has {len(pixels)} images and {labels.name} {len(classes)}")
        parts[split] = (pixels[:, None], classes.astype(np.int64))
    if not parts:
        return None
    count = 1 + max(int(labels.max()) for _, labels in parts.values())
    return Arrays(f"MNIST idx: {folder.name}", parts, tuple(map(str, range(max(count, 10)))))


def _idx_file(folder: Path, prefix: str, what: str) -> Path | None:
    axes = 3 if what == "images" else 1
    names = [f"{prefix}-{what}{dot}idx{axes}-ubyte{gz}" for gz in ("", ".gz") for dot in "-."]
    return next((folder / name for name in names if is_file(folder / name)), None)


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read one idx file of unsigned bytes with the given number of axes.

    Raises:
        InputError: it is truncated, damaged or of another kind.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *shape = struct.unpack_from(f">{1 + axes}I", data)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise InputError(f"{path}: truncated or damaged ({error}); fetch it again") from None
    if magic != _IDX_HEADERS[axes]:
        raise InputError(f"{path}: must be an idx file of bytes with {axes} axes, got the header number {magic}")
    header = 4 + 4 * axes
    if len(data) - header != math.prod(shape) or 0 in shape:
        raise InputError(
            f"{path}: truncated or damaged: shape {tuple(shape)} and {len(data) - header} bytes; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()


def read_digits() -> Arrays:
    """Return scikit-learn's 1,797 real handwritten digits (UCI's optical digits, test part), 8 x 8, 17 gray levels.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("the data set digits needs scikit-learn: pip install 'pcdiff[images]'") from None
    stored = load_digits()
    pixels = np.rint(stored.images * (255 / 16)).astype(np.uint8)
    names = tuple(map(str, range(10)))
    return Arrays("digits of scikit-learn", {"all": (pixels[:, None], stored.target.astype(np.int64))}, names)


def _checked_labels(labels: np.ndarray, classes: int, path: Path) -> np.ndarray:
    labels = labels.astype(np.int64)
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"{path}: labels must be in 0..{classes - 1}, got up to {labels.max()}; is it damaged?")
    return labels
