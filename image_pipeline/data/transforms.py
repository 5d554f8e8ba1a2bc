"""From a decoded image to a training image: channels, centre crop, antialiased resize."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pcdiff.errors import InputError

# Pillow's filters widen with the reduction, so all of them are antialiased.
FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
_GREY = {"1", "L", "LA"}
_COLOUR = {"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "RGBX"}


@dataclass(frozen=True)
class Preprocessing:
    """What is done to each image: crop the centre, then resize to a square.

    Args:
        size: the side of the result in pixels; None keeps the images as they are.
        crop: the side of the central square to cut out first, in the source's pixels (CelebA: 140); with a size,
            the shorter side is the default.
        filter: a name in `FILTERS`.

    Raises:
        InputError: an unknown filter, or a side below 1.
    """

    size: int | None = None
    crop: int | None = None
    filter: str = "lanczos"

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise InputError(f"unknown filter {self.filter!r}; known are {', '.join(FILTERS)}")
        for name in ("size", "crop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")

    def __str__(self) -> str:
        steps = []
        if self.crop is not None:
            steps.append(f"centre crop {self.crop}")
        elif self.size is not None:
            steps.append("centre crop to the shorter side")
        if self.size is not None:
            steps.append(f"{self.filter} resize to {self.size}")
        return ", ".join(steps) or "none"

    def result_size(self, width: int, height: int) -> tuple[int, int]:
        """Return what `(width, height)` becomes."""
        side = self.size or self.crop
        return (side, side) if side else (width, height)

    def __call__(self, image: Image.Image, where: str) -> Image.Image:
        """Crop and resize.

        Raises:
            InputError: the image is smaller than the crop; `where` is named.
        """
        width, height = image.size
        if self.crop is None and self.size is None:
            return image
        side = self.crop or min(width, height)
        if side > min(width, height):
            raise InputError(f"{where}: is {width} x {height}, smaller than the crop of {side}")
        left, top = (width - side) // 2, (height - side) // 2
        if side != width or side != height:
            image = image.crop((left, top, left + side, top + side))
        if self.size in (None, side):
            return image
        return image.resize((self.size, self.size), FILTERS[self.filter])


def channels_of(image: Image.Image, where: str) -> int:
    """Return 1 for a grey image, 3 for a coloured one.

    Raises:
        InputError: anything but 8 bits a channel.
    """
    if image.mode in _GREY:
        return 1
    if image.mode in _COLOUR:
        return 3
    raise InputError(f"{where}: must have 8 bits a channel, got Pillow's mode {image.mode}")


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Decode an image to 8 bits of grey or RGB; transparency is dropped, grey is repeated where colour is asked."""
    return image.convert("L" if channels == 1 else "RGB")


def to_array(image: Image.Image) -> np.ndarray:
    """Return a grey or RGB image as uint8 `(C, H, W)`."""
    array = np.array(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def to_image(array: np.ndarray) -> Image.Image:
    """Return uint8 `(C, H, W)` as an image, C being 1 or 3."""
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def preprocess_resident(images: np.ndarray, preprocessing: Preprocessing, where: str) -> np.ndarray:
    """Crop and resize uint8 `(n, C, H, W)` in memory, C being 1 or 3."""
    if preprocessing.size is None and preprocessing.crop is None:
        return images
    return np.stack([to_array(preprocessing(to_image(image), where)) for image in images])
