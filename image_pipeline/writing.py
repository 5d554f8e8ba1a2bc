"""Images as files: arrays that other tools read, and back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from image_pipeline.data import load_images
from image_pipeline.data.transforms import read_image
from pcdiff.atomic import replacing
from pcdiff.errors import InputError
from pcdiff.places import is_file


def save_images(path: Path, images: Tensor) -> None:
    """Write uint8 images `(n, C, H, W)` as `.npz` with the one array `arr_0 (n, H, W, C)`, ADM's form.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path) as draft:
        np.savez_compressed(draft, images.permute(0, 2, 3, 1).numpy())


def read_images(path: Path, shape: tuple[int, int, int] | None) -> Tensor:
    """Read images as uint8 `(n, C, H, W)`: one file, a folder or zip of them, or what `save_images` wrote.

    Args:
        path: a `.npz` with `arr_0`, a `.npy` of uint8 `(n, H, W, C)`, an image file, or what `load_images` takes.
        shape: (C, H, W) that the model takes; greys become colours, sizes must be right. None takes all.

    Raises:
        InputError: nothing there, it cannot be read, or the images are of another size.
    """
    path = Path(path)
    channels = None if shape is None else shape[0]
    if path.suffix in (".npz", ".npy"):
        images = _read_arrays(path)
    elif is_file(path) and path.suffix.lower() != ".zip":
        images = torch.from_numpy(read_image(path, channels))[None]
    else:
        images = load_images(str(path), "all", channels=None if str(path) == "digits" else channels).images
        images = images[torch.arange(len(images))]
    if channels == 3 and images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    check_shape(path, images.shape[1:], shape)
    return images


def check_shape(path: Path | str, got: Sequence[int], shape: Sequence[int] | None) -> None:
    """Refuse images `(C, H, W)` of another shape than wanted; None takes all.

    Raises:
        InputError: as said.
    """
    if shape is not None and tuple(got) != tuple(shape):
        wanted, found = ("x".join(map(str, dims)) for dims in (shape, got))
        raise InputError(
            f"{path}: images must be {wanted} here, got {found}; "
            "python -m image_pipeline prepare brings them to a size"
        )


def _read_arrays(path: Path) -> Tensor:
    return torch.from_numpy(open_arrays(path).transpose(0, 3, 1, 2).copy())


def open_arrays(path: Path) -> np.ndarray:
    """Open uint8 images `(n, H, W, C)` in a `.npz` with `arr_0`, or in a `.npy`, which stays on the disk.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
        array = loaded["arr_0"] if path.suffix == ".npz" else loaded
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as images ({str(error).splitlines()[0]})") from None
    except Exception as error:  # a damaged zip raises anything
        raise InputError(f"{path}: truncated or no array file ({type(error).__name__})") from None
    if array.ndim != 4 or array.dtype != np.uint8 or array.shape[-1] not in (1, 3) or not len(array):
        raise InputError(f"{path}: must hold uint8 (n, H, W, 1 or 3), got {array.dtype} {array.shape}")
    return array
