"""Images for people: grids as PNG, trajectories as GIF."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pcdiff.errors import InputError
from pcdiff.runtime.atomic_write import replacing

_SIDE = 64  # pixels that a small image is enlarged to, without blur
_PICTURED = 100  # more images than this do not fit a picture
_PAPER = 255


def grid(images: Tensor, columns: int | None = None) -> np.ndarray:
    """Return images side by side, row after row, with a gap between them.

    Args:
        images: uint8 `(n, C, H, W)`, C being 1 or 3; the first hundred are shown.
        columns: images in a row; a nearly square grid by default.

    Returns:
        uint8 `(height, width, 3)`.

    Raises:
        InputError: no images, or not such.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not len(images) or images.dtype != torch.uint8:
        raise InputError(f"images must be uint8 (n, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}")
    images = images[:_PICTURED].expand(-1, 3, -1, -1)
    factor = max(1, _SIDE // images.shape[-1])
    images = images.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    count, _, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows, gap = math.ceil(count / columns), 2
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), _PAPER, dtype=np.uint8)
    for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def save_grid(path: Path, images: Tensor, columns: int | None = None) -> Path:
    """Write `grid(images, columns)` as PNG, whole or not at all, and return the path.

    Raises:
        InputError: as `grid`, or the file cannot be written.
    """
    picture = Image.fromarray(grid(images, columns))
    with replacing(path) as draft:
        picture.save(draft, format="PNG", optimize=True)
    return path


def save_trajectory(path: Path, states: Sequence[Tensor], columns: int | None = None, seconds: float = 3.0) -> Path:
    """Write grids of states, from noise to data, as an endless GIF that rests on the last.

    Args:
        path: the file.
        states: uint8 `(n, C, H, W)` each.
        columns: images in a row.
        seconds: of the way there.

    Raises:
        InputError: as `grid`, or the file cannot be written.
    """
    frames = [Image.fromarray(grid(state, columns)) for state in states]
    each = max(20, round(1000 * seconds / len(frames)))
    times = [each] * (len(frames) - 1) + [1500]
    with replacing(path) as draft:
        frames[0].save(draft, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return path
