"""Images as files: arrays that other tools read, and back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from image_pipeline.data import load_images
from image_pipeline.data.array_files import ENDINGS, open_arrays
from image_pipeline.data.transforms import read_image
from pcdiff.errors import InputError
from pcdiff.runtime.atomic_write import replacing
from pcdiff.runtime.invocation import command_line
from pcdiff.runtime.paths import is_file


def save_images(path: Path, images: Tensor) -> None:
    """Write uint8 images `(n, C, H, W)` as `.npz` with the one array `arr_0 (n, H, W, C)`, ADM's form.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path) as draft:
        np.savez_compressed(draft, images.permute(0, 2, 3, 1).numpy())


def read_images(
    path: Path, shape: tuple[int, int, int] | None, split: str | None = None, count: int | None = None
) -> Tensor:
    """Read images as uint8 `(n, C, H, W)`: one file, a folder or zip of them, or what `save_images` wrote.

    Args:
        path: a `.npz` with `arr_0`, a `.npy` of uint8 `(n, H, W, C)`, an image file, or what `load_images` takes.
        shape: (C, H, W) that the model takes; grays become colors, sizes must be right. None takes all.
        split: of a data set, train, test or all; all by default.
        count: the first so many; all by default.

    Raises:
        InputError: nothing there, it cannot be read, the images are of another size, or a single image is to be
            split.
    """
    path = Path(path)
    channels = None if shape is None else shape[0]
    if path.suffix in ENDINGS and split is None:
        images = torch.from_numpy(open_arrays(path)[:count].transpose(0, 3, 1, 2).copy())
    elif is_file(path) and path.suffix.lower() not in (".zip", *ENDINGS):
        if split is not None:
            raise InputError(f"{path}: is one image; --split is of data sets")
        images = torch.from_numpy(read_image(path, channels))[None]
    else:
        images = load_images(str(path), split or "all", channels=channels).images
        images = images[torch.arange(len(images))[:count]]
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
            f"{command_line('images prepare')} brings them to a size"
        )
