"""Images as arrays in files: numpy's .npy, and .npz as ADM writes it, with or without classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from image_pipeline.data.arrays import MOST_CLASSES, Arrays
from pcdiff.errors import InputError

ENDINGS = (".npz", ".npy")


def open_arrays(path: Path) -> np.ndarray:
    """Open uint8 images `(n, H, W, C)` in a `.npz` with `arr_0`, or in a `.npy`, which stays on the disk.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:  # np.load leaves it open
                array = stored["arr_0"]
        else:
            array = np.load(path, allow_pickle=False, mmap_mode="r")
    except Exception as error:  # a damaged zip, or a header that is no Python text, raises anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: cannot be read as images ({reason})") from None
    if not isinstance(array, np.ndarray):  # of a zip's member that is no array, its bytes
        raise InputError(f"{path}: cannot be read as images (arr_0 is no array)")
    if array.ndim != 4 or array.dtype != np.uint8 or array.shape[-1] not in (1, 3) or not len(array):
        raise InputError(f"{path}: must hold uint8 (n, H, W, 1 or 3), got {array.dtype} {array.shape}")
    return array


def read_array_file(path: Path) -> Arrays:
    """Read a `.npz` or `.npy` of uint8 images `(n, H, W, C)` as a data set without a split of its own.

    A `.npz` with integers `arr_1 (n,)` beside `arr_0`, as ADM writes its samples, has them as classes.

    Raises:
        InputError: see `open_arrays`, or the classes are not one for each image.
    """
    images = np.ascontiguousarray(open_arrays(path).transpose(0, 3, 1, 2))
    labels, names = _labels(path, len(images)) if path.suffix == ".npz" else None, ()
    if labels is not None:
        names = tuple(map(str, range(int(labels.max()) + 1)))
    return Arrays(f"arrays: {path.name}", {"all": (images, labels)}, names)


def _labels(path: Path, count: int) -> np.ndarray | None:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
        if "arr_1" not in content.files:
            return None
        try:
            labels = content["arr_1"]
        except Exception as error:  # a damaged member raises anything
            raise InputError(f"{path}: arr_1 cannot be read as classes ({type(error).__name__})") from None
    if not isinstance(labels, np.ndarray):
        raise InputError(f"{path}: arr_1 cannot be read as classes (it is no array)")
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise InputError(f"{path}: arr_1 must be classes ({count},) from 0, got {labels.dtype} {labels.shape}")
    if labels.max() >= MOST_CLASSES:
        raise InputError(f"{path}: arr_1 must be classes below {MOST_CLASSES:,}, got up to {labels.max()}")
    return labels.astype(np.int64)
