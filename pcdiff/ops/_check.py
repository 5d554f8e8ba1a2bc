"""Checks of the ops' arguments, in one place, so that all ops give the same messages."""

import numbers

import torch
from torch.func import debug_unwrap

from pcdiff.errors import InputError, UnknownName

# Voxels along a side: a grid of them has fewer than 2^31.
MOST_VOXELS = 1024


def clouds(name: str, value, shape: str = "(B, N, D)") -> torch.Tensor:
    """Return `value` as float32 or float64 clouds (half and bfloat16 become float32).

    Raises:
        InputError: not a tensor, not three-dimensional, not floating point, or without points or coordinates.
    """
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{name} must be a torch.Tensor {shape}, got {type(value).__name__}")
    given = tuple(value.shape)
    if value.ndim != 3:
        hint = f"; add the batch dimension with {name}[None]" if value.ndim == 2 else ""
        raise InputError(f"{name} must be {shape}, got {given}{hint}")
    if value.shape[1] == 0 or value.shape[2] == 0:
        raise InputError(f"{name} must be {shape} with at least one point and one coordinate, got {given}")
    if value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    if value.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{name} must be floating point, got {value.dtype}; convert it with {name}.float()")
    return value


def alike(x_name: str, x: torch.Tensor, y_name: str, y: torch.Tensor, batch: bool = True) -> None:
    """Check that two tensors of clouds can be compared.

    Raises:
        InputError: different point dimension, dtype, device or, with `batch`, batch size.
    """
    if x.shape[2] != y.shape[2]:
        raise InputError(
            f"{y_name} must have points of {x.shape[2]} coordinates like {x_name}, got {tuple(y.shape)}"
        )
    if batch and x.shape[0] != y.shape[0]:
        raise InputError(
            f"{y_name} must have the batch size {x.shape[0]} of {x_name}, got {tuple(y.shape)}; "
            "for all pairs of two sets use pairwise()"
        )
    if x.dtype != y.dtype:
        raise InputError(f"{y_name} must have the dtype {x.dtype} of {x_name}, got {y.dtype}")
    if x.device != y.device:
        raise InputError(f"{y_name} must be on {x.device} like {x_name}, got {y.device}")


def one_of(name: str, value, known) -> None:
    """Check a choice by name.

    Raises:
        InputError: lists the known names.
    """
    if value not in known:
        raise UnknownName(name, value, known)


def flag(name: str, value) -> None:
    """Check a yes or no.

    Raises:
        InputError: anything but True and False.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")


def positive(name: str, value) -> None:
    """Check a length, such as a radius.

    Raises:
        InputError: not a finite number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < float("inf"):
        raise InputError(f"{name} must be a finite number above 0, got {value!r}")


def not_negative(name: str, value) -> None:
    """Check a number that may be 0.

    Raises:
        InputError: not a finite number of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < float("inf"):
        raise InputError(f"{name} must be a finite number of at least 0, got {value!r}")


def positive_integer(name: str, value) -> None:
    """Check a count.

    Raises:
        InputError: not an integer of at least 1.
    """
    if not hasattr(value, "__index__") or isinstance(value, (bool, torch.Tensor)) or value < 1:
        raise InputError(f"{name} must be an integer of at least 1, got {value!r}")


def resolution(value) -> None:
    """Check a number of voxels along a side.

    Raises:
        InputError: not an integer in 1..1024.
    """
    if not hasattr(value, "__index__") or isinstance(value, (bool, torch.Tensor)) or not 1 <= value <= MOST_VOXELS:
        raise InputError(f"resolution must be an integer in 1..{MOST_VOXELS}, got {value!r}")


def three_coordinates(name: str, clouds: torch.Tensor) -> None:
    """Check that points have a place in a grid.

    Raises:
        InputError: they have another number of coordinates than three.
    """
    if clouds.shape[2] != 3:
        raise InputError(f"{name} must be (B, N, 3), got {tuple(clouds.shape)}")


def features(name: str, value, clouds_name: str, clouds: torch.Tensor) -> None:
    """Check features, a row for each point.

    Raises:
        InputError: not a floating-point tensor `(B, N, C)` with the clouds' B and N on their device.
    """
    batch, points = clouds.shape[:2]
    expected = (
        f"{name} must be a floating-point tensor ({batch}, {points}, C), a row for each point of {clouds_name}"
    )
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{expected}, got {type(value).__name__}")
    if value.ndim != 3 or value.shape[:2] != clouds.shape[:2] or value.shape[2] == 0:
        raise InputError(f"{expected}, got {tuple(value.shape)}")
    if not value.is_floating_point():
        raise InputError(f"{expected}, got {value.dtype}")
    if value.device != clouds.device:
        raise InputError(f"{name} must be on {clouds.device} like {clouds_name}, got {value.device}")


def grid(name: str, value) -> None:
    """Check a batch of grids of voxels.

    Raises:
        InputError: not a floating-point tensor `(B, C, r, r, r)` with r in 1..1024.
    """
    expected = f"{name} must be a floating-point tensor (B, C, r, r, r) with r in 1..{MOST_VOXELS}"
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{expected}, got {type(value).__name__}")
    sides = set(value.shape[2:])
    if value.ndim != 5 or len(sides) != 1 or not 1 <= value.shape[2] <= MOST_VOXELS or value.shape[1] == 0:
        raise InputError(f"{expected}, got {tuple(value.shape)}")
    if not value.is_floating_point():
        raise InputError(f"{expected}, got {value.dtype}")


def same_batch(x_name: str, x: torch.Tensor, y_name: str, y: torch.Tensor) -> None:
    """Check that two tensors belong together.

    Raises:
        InputError: different batch size or device.
    """
    if x.shape[0] != y.shape[0]:
        raise InputError(f"{y_name} must have the batch size {x.shape[0]} of {x_name}, got {tuple(y.shape)}")
    if x.device != y.device:
        raise InputError(f"{y_name} must be on {x.device} like {x_name}, got {y.device}")


def within(name: str, value: torch.Tensor, top: int) -> None:
    """Check that coordinates are in a grid, where their values can be asked for.

    Raises:
        InputError: a coordinate is NaN or outside of 0..top.
    """
    if out_of_reach(value.device):
        return
    value = debug_unwrap(value.detach())
    bad = value[~((value >= 0) & (value <= top))]
    if len(bad):
        raise InputError(f"{name} must be in 0..{top}, where the grid's voxels are, got {float(bad[0]):g}")


def wide(value: torch.Tensor) -> torch.Tensor:
    """Return a floating-point tensor as what its values are added up in: half and bfloat16 as float32."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def equal_sizes(x_name: str, x: torch.Tensor, y_name: str, y: torch.Tensor) -> None:
    """Check that two tensors of clouds have the same number of points.

    Raises:
        InputError: they do not.
    """
    if x.shape[1] != y.shape[1]:
        raise InputError(
            f"{y_name} must have {x.shape[1]} points a cloud like {x_name} (EMD is a bijection), "
            f"got {tuple(y.shape)}; subsample the larger clouds, or use emd's method='sinkhorn'"
        )


def lengths(name: str, value, clouds_name: str, clouds: torch.Tensor) -> None:
    """Check how many rows of each cloud are points; None means all.

    Raises:
        InputError: not an int64 tensor `(B,)` on the clouds' device, or a length outside 1..N.
    """
    if value is None:
        return
    batch, most = clouds.shape[:2]
    expected = f"{name} must be None or an int64 tensor ({batch},) like the batch of {clouds_name}"
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{expected}, got {type(value).__name__}")
    if tuple(value.shape) != (batch,):
        raise InputError(f"{expected}, got {tuple(value.shape)}")
    if value.dtype != torch.int64:
        raise InputError(f"{expected}, got {value.dtype}")
    if value.device != clouds.device:
        raise InputError(f"{name} must be on {clouds.device} like {clouds_name}, got {value.device}")
    if out_of_reach(value.device):
        return
    bad = value[(value < 1) | (value > most)]
    if len(bad):
        raise InputError(f"{name} must be in 1..{most}, the rows of {clouds_name}, got {int(bad[0])}")


def count_of_points(k, name: str, clouds: torch.Tensor) -> None:
    """Check a number k of points to be found in the clouds.

    Raises:
        InputError: not an integer in 1..N.
    """
    if not hasattr(k, "__index__") or isinstance(k, (bool, torch.Tensor)):
        raise InputError(f"k must be an integer, got {k!r}")
    if not 1 <= k <= clouds.shape[1]:
        raise InputError(f"k must be in 1..{clouds.shape[1]}, the points of {name}, got {k}")


def equal_lengths(x_lengths: torch.Tensor | None, y_lengths: torch.Tensor | None) -> None:
    """Check that clouds between which a bijection is wanted are of one size, pair by pair.

    Raises:
        InputError: they are not, or only one cloud of a pair has a length.
    """
    if x_lengths is None and y_lengths is None:
        return
    hint = "EMD is a bijection; for unequal sizes use method='sinkhorn'"
    if x_lengths is None or y_lengths is None:
        given = "x_lengths" if y_lengths is None else "y_lengths"
        raise InputError(f"x_lengths and y_lengths must be given together, got only {given} ({hint})")
    if out_of_reach(x_lengths.device):
        torch._assert_async((x_lengths == y_lengths).all(), f"y_lengths must equal x_lengths ({hint})")
        return
    different = (x_lengths != y_lengths).nonzero()
    if len(different):
        b = int(different[0])
        raise InputError(
            f"y_lengths must equal x_lengths, got {int(y_lengths[b])} and {int(x_lengths[b])} for pair {b} ({hint})"
        )


def out_of_reach(device: torch.device) -> bool:
    """Return whether looking at a tensor's values would break a graph that is being compiled or captured."""
    if torch.compiler.is_compiling():
        return True
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def finite(**tensors: torch.Tensor) -> None:
    """Check tensors given by name for NaN and infinite coordinates.

    Raises:
        InputError: names the first tensor that has some, and how many.
    """
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise InputError(
                f"{name} must be finite, got {bad} NaN or infinite coordinates of {tensor.numel()}; "
                "drop those clouds or look for a diverged model"
            )


def tolerance(value) -> None:
    """Check a relative tolerance.

    Raises:
        InputError: not a positive number below 1.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < 1:
        raise InputError(
            f"tolerance must be a number above 0 and below 1, got {value!r}; for the optimum use method='exact'"
        )
