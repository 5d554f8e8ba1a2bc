"""From a decoded image to a training image: channels, center crop, antialiased resize."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pcdiff.errors import InputError, OutOfRange

# Pillow's filters widen with the reduction, so all of them are antialiased.
FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
# Deflate packs at most 1032 bytes, 8 pixels of one bit each, into one; some formats say more of a plain area
_PIXELS_PER_BYTE, _FREE_PIXELS = 10_000, 4_000_000
_ORIENTATION = 0x0112
_TURNS = {  # EXIF 2.3, tag 274: where the first row and column lie -> what puts them up and left
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GRAY = {"1", "L", "LA"}
_COLOR = {"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "RGBX"}


@dataclass(frozen=True)
class Preprocessing:
    """What is done to each image: crop the center, then resize to a square.

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
                raise OutOfRange(name, "at least 1", value)

    def __str__(self) -> str:
        steps = []
        if self.crop is not None:
            steps.append(f"center crop {self.crop}")
        elif self.size is not None:
            steps.append("center crop to the shorter side")
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
    """Return 1 for a gray image, 3 for a colored one.

    Raises:
        InputError: a mode whose numbers have no known white.
    """
    if image.mode in _GRAY or _is_sixteen_bit(image) or image.mode == "F":
        return 1
    if image.mode in _COLOR:
        return 3
    raise InputError(
        f"{where}: must have 8 or 16 bits a channel, or floats from 0 to 1, got Pillow's mode {image.mode}"
    )


def _is_sixteen_bit(image: Image.Image) -> bool:
    # in `I`, of 32 bits, Pillow gives the 16 bits of PGM, and before version 11 of PNG; in TIFF it may be anything
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def upright(image: Image.Image) -> Image.Image:
    """Turn an image by its EXIF orientation, as every viewer does."""
    image.load()  # Pillow turns TIFF by itself now
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # a damaged block of EXIF turns nothing, for viewers too
        return image
    return image if turn is None else image.transpose(turn)


def size_of(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an image as `upright` turns it; decodes it only where it may be turned."""
    try:
        turned = image.getexif().get(_ORIENTATION) in _TURNS
    except Exception:  # as in `upright`
        turned = False
    return upright(image).size if turned else image.size


def opened(content: bytes, where: str) -> Image.Image:
    """Open an image file that lies in memory; nothing is decoded yet.

    Args:
        content: of the file.
        where: it lies, for messages.

    Raises:
        InputError: it asks for more pixels than so few bytes stand for, and for the memory to hold them.
    """
    # from memory: of a file on the disk Pillow (13) maps the raw rows of a TIFF lying on its side wrongly
    image = Image.open(io.BytesIO(content))
    width, height = image.size
    if width * height > _FREE_PIXELS + _PIXELS_PER_BYTE * len(content):
        raise InputError(f"{where}: damaged: {len(content)} bytes do not hold {width} x {height} pixels")
    return image


def decoded(image: Image.Image, where: str, channels: int | None = None) -> Image.Image:
    """Decode an image to 8 bits of gray or RGB, upright.

    Gray of 16 bits is rounded to the nearest of 256 levels, floats from 0 to 1 likewise; of 16-bit color Pillow
    keeps the upper bytes. Transparency is dropped, gray is repeated where color is asked.

    Args:
        image: opened, not loaded yet.
        where: it lies, for messages.
        channels: 1 or 3; None keeps gray gray and color colored.

    Raises:
        InputError: floats outside [0, 1], or a mode whose numbers have no known white.
    """
    own, sixteen = channels_of(image, where), _is_sixteen_bit(image)
    image = upright(image)
    if sixteen or image.mode == "F":
        values = np.asarray(image).astype(np.float64) / (65535 if sixteen else 1)
        if not (values >= 0).all() or not (values <= 1).all():  # NaN too
            raise InputError(
                f"{where}: floats must lie from 0 to 1, got {np.min(values):g} to {np.max(values):g}; scale them"
            )
        image = Image.fromarray(np.rint(values * 255).astype(np.uint8))
    return image.convert("L" if (channels or own) == 1 else "RGB")


def read_image(path: Path, channels: int | None = None) -> np.ndarray:
    """Return an image file as uint8 `(C, H, W)`, decoded by `decoded`.

    Raises:
        InputError: it cannot be read, or as `decoded`.
    """
    try:
        with opened(path.read_bytes(), str(path)) as image:
            return to_array(decoded(image, str(path), channels))
    except InputError:
        raise
    except Exception as error:  # Pillow's parsers raise what they like
        raise InputError(f"{path}: cannot be read as an image ({type(error).__name__})") from None


def to_array(image: Image.Image) -> np.ndarray:
    """Return a gray or RGB image as uint8 `(C, H, W)`."""
    array = np.array(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def to_image(array: np.ndarray) -> Image.Image:
    """Return uint8 `(C, H, W)` as an image, C being 1 or 3."""
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def preprocess_resident(
    images: np.ndarray, preprocessing: Preprocessing, where: str, channels: int | None = None
) -> np.ndarray:
    """Bring uint8 `(n, C, H, W)` in memory, C being 1 or 3, to some channels, crop and resize, as files are."""
    channels = channels or images.shape[1]
    if channels == images.shape[1] and preprocessing.size is None and preprocessing.crop is None:
        return images
    pictures = (to_image(image).convert("L" if channels == 1 else "RGB") for image in images)
    return np.stack([to_array(preprocessing(picture, where)) for picture in pictures])
