"""Reading and writing files of clouds: one `.npy` array `(n, P, 3)`."""

import os
from pathlib import Path

import numpy as np

from pcdiff.atomic import replacing
from pcdiff.errors import InputError

_NPY_MAGIC = b"\x93NUMPY"


def read_clouds(path: str | os.PathLike) -> np.ndarray:
    """Read a set of clouds, `(n, P, 3)` float32, from a `.npy` file of any float type.

    Nothing in the file is executed (no pickles), and a header that promises more than the file holds is refused
    before any memory is taken.

    Args:
        path: a `.npy` file.

    Raises:
        InputError: if the file is missing, truncated, not `.npy`, holds objects, another shape or type, no cloud,
            or NaN or inf (the index of the first such cloud is named).

    Example:
        >>> clouds = read_clouds("samples.npy")  # doctest: +SKIP
    """
    path = _npy_path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        magic = file.read(len(_NPY_MAGIC))
    if magic != _NPY_MAGIC:
        raise InputError(f"{path}: not a .npy file (numpy.save writes one)")
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, OverflowError) as error:
        if "object" in str(error).lower():
            raise InputError(
                f"{path}: holds Python objects, expected one float array (n, P, 3); save with equal point counts"
            ) from None
        raise InputError(f"{path}: truncated or damaged .npy file; write it again") from None
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise InputError(f"{path}: expected clouds (n, P, 3), got shape {stored.shape}{_hint(stored.shape)}")
    if stored.dtype.kind != "f":
        raise InputError(f"{path}: expected float coordinates, got dtype {stored.dtype}")
    if stored.size == 0:
        raise InputError(f"{path}: holds no point, shape {stored.shape}")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, and is reported just below
        clouds = np.array(stored, dtype=np.float32, order="C")
    _check_finite(clouds, str(path))
    return clouds


def write_clouds(path: str | os.PathLike, clouds) -> Path:
    """Write a set of clouds `(n, P, 3)` as float32 `.npy`; the file appears whole or not at all.

    Args:
        path: ends in `.npy`; its folder is made where missing.
        clouds: array or tensor `(n, P, 3)`, finite.

    Returns:
        The path written.

    Raises:
        InputError: for a path that cannot be written, and for whatever `read_clouds` would refuse.
    """
    path = _npy_path(path)
    if hasattr(clouds, "detach"):
        clouds = clouds.detach().cpu().numpy()
    clouds = np.asarray(clouds)
    if clouds.ndim != 3 or clouds.shape[2] != 3 or clouds.size == 0:
        raise InputError(f"clouds must be (n, P, 3) and not empty, got {clouds.shape}{_hint(clouds.shape)}")
    if clouds.dtype.kind != "f":
        raise InputError(f"clouds must hold floats, got dtype {clouds.dtype}")
    with np.errstate(over="ignore"):
        clouds = np.ascontiguousarray(clouds, dtype=np.float32)
    _check_finite(clouds, "clouds")
    with replacing(path) as draft:
        np.save(draft, clouds, allow_pickle=False)
    return path


def _npy_path(path: str | os.PathLike) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".npy":
        raise InputError(f"{path}: expected a .npy file, got {path.suffix or 'no suffix'}")
    return path


def _hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 2 and shape[1] == 3:
        return "; one cloud needs a leading axis: clouds[None]"
    if len(shape) == 3 and shape[1] == 3:
        return "; swap the last two axes"
    return ""


def _check_finite(clouds: np.ndarray, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(clouds).all(axis=(1, 2)))
    if bad.size:
        raise InputError(f"{name}: cloud {bad[0]} holds NaN or inf ({bad.size} of {len(clouds)} clouds do)")
