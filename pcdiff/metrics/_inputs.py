"""Checks on what a caller hands to the metrics."""

import numpy as np
import torch

from pcdiff.errors import InputError, OutOfRange


def as_clouds(clouds, name: str, keep_double: bool = False) -> torch.Tensor:
    """Return a set of clouds as a finite `(n, P, 3)` float32 tensor, on the device it came on.

    Args:
        clouds: array, tensor, or what numpy makes an array of.
        name: of the argument, for messages.
        keep_double: leave float64 as it is, for what moves the clouds before float32 could blur them.

    Raises:
        InputError: naming the argument, and the index of the first bad cloud.
    """
    if not isinstance(clouds, torch.Tensor):
        try:
            array = np.asarray(clouds)
        except ValueError:
            raise InputError(f"{name} must be one array (n, P, 3), got clouds of unequal shapes") from None
        if array.dtype.kind != "f":
            raise InputError(f"{name} must hold floats, got {array.dtype}")
        clouds = torch.from_numpy(array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32))
    if clouds.ndim != 3 or clouds.shape[2] != 3:
        raise InputError(f"{name} must be (n, P, 3), got {tuple(clouds.shape)}")
    if clouds.numel() == 0:
        raise InputError(f"{name} must hold at least one cloud of one point, got {tuple(clouds.shape)}")
    if not clouds.is_floating_point():
        raise InputError(f"{name} must hold floats, got {clouds.dtype}")
    clouds = clouds.detach()
    single = clouds.to(torch.float32)  # beyond float32 becomes inf
    clouds = clouds if keep_double and clouds.dtype == torch.float64 else single
    bad = torch.nonzero(~torch.isfinite(single).all(dim=2).all(dim=1)).flatten()
    if bad.numel():
        raise InputError(f"{name}[{int(bad[0])}] holds NaN or inf ({bad.numel()} of {len(clouds)} clouds do)")
    return clouds


def as_numbers(values, name: str, what: str = "numbers") -> np.ndarray:
    """Return one finite number for each cloud, `(n,)` float64.

    Raises:
        InputError: naming the argument and `what` it must hold.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be {what} (n,), got {type(values).__name__}") from None
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"{name} must be {what} (n,) with n >= 1, got shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise OutOfRange(f"{name}[{bad[0]}]", "finite", array[bad[0]])
    return array


def as_matrix(matrix, name: str) -> np.ndarray:
    """Return a distance matrix as float64 NumPy, without NaN.

    Raises:
        InputError: naming the argument.
    """
    if isinstance(matrix, torch.Tensor):
        matrix = matrix.detach().cpu().numpy()
    try:
        matrix = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a matrix of distances, got {type(matrix).__name__}") from None
    if matrix.ndim != 2 or matrix.size == 0:
        raise InputError(f"{name} must be a matrix of distances, not empty, got shape {matrix.shape}")
    if np.isnan(matrix).any():
        row, column = np.argwhere(np.isnan(matrix))[0]
        raise InputError(f"{name}[{row}, {column}] is NaN; look for NaN in the clouds")
    return matrix
