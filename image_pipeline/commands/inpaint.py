"""The command `inpaint`: keep the part of the images under a mask, draw the rest."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from image_pipeline.commands.flags import Inpaint
from image_pipeline.commands.restoration import restored
from image_pipeline.commands.trained_model import Trained
from image_pipeline.data.transforms import read_image
from pcdiff import diffusion
from pcdiff.errors import InputError, UnknownName
from pcdiff.runtime.paths import is_file

_GRAY = 0.5  # of the range: what is unknown, in pictures


def inpaint(command: Inpaint, trained: Trained) -> str:
    """Keep the part of the images under the mask, draw the rest."""
    known = trained.read(command.input)
    mask = read_mask(command.mask, trained.model.image_shape).to(trained.device)
    made = restored(trained, diffusion.Inpaint(trained.model.denoiser.process, known, mask), len(known))
    shown = torch.where(mask, known, _middle(trained))
    return trained.write(made, pictured=(known, shown, made))


def read_mask(mask: str, shape: tuple[int, int, int]) -> Tensor:
    """Return what is known as booleans `(H, W)`, by name or from a file.

    Raises:
        InputError: no such name or file, another shape than the images', or other values than 0 and 1.
    """
    _, height, width = shape
    if mask in _NAMED:
        known = torch.zeros(height, width, dtype=torch.bool)
        known[_NAMED[mask](height, width)] = True
        return ~known if mask == "outside" else known
    path = Path(mask)
    if not is_file(path):
        raise UnknownName("--mask", mask, _NAMED, " or a file")
    if path.suffix == ".npy":
        try:
            values = np.load(path, allow_pickle=False)
        except Exception as error:  # the header is Python text, and its parser raises what it likes
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(f"{path}: cannot be read as a mask ({reason})") from None
        if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
            raise InputError(f"{path}: a mask must hold 0 and 1 only, 1 where the image is known")
        known = torch.from_numpy(values.astype(bool))
    else:
        known = torch.from_numpy(read_image(path, 1)[0] >= 128)
    if known.shape != (height, width):
        raise InputError(f"{path}: the mask must be {height}x{width} as the images, got {_by(known.shape)}")
    return known


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _middle(trained: Trained) -> float:
    low, high = trained.model.data_range
    return low + _GRAY * (high - low)


_NAMED = {
    "upper": lambda h, w: (slice(0, h // 2), slice(None)),
    "lower": lambda h, w: (slice(h // 2, None), slice(None)),
    "left": lambda h, w: (slice(None), slice(0, w // 2)),
    "right": lambda h, w: (slice(None), slice(w // 2, None)),
    "outside": lambda h, w: (slice(h // 4, h - h // 4), slice(w // 4, w - w // 4)),
}
