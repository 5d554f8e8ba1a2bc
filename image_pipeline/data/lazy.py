"""Images that are decoded when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from image_pipeline.data.files import Files, spread
from image_pipeline.data.transforms import Preprocessing, channels_of, decoded, opened, size_of, to_array
from pcdiff.errors import InputError

_HEADERS = 256  # images whose size is read before the first batch: all of a small set, a spread of a large one


class LazyImages:
    """Images `(n, C, H, W)` in files; `images[indices]` reads, decodes and preprocesses those, in threads.

    The headers of up to 256 images, spread evenly, are read at once, to find the shape and whether there is any
    color; the others are checked when they are decoded. All are decoded by `transforms.decoded`.

    Args:
        files: where they lie.
        names: which of `files.names`, in order.
        preprocessing: what is done to each.
        channels: 1 or 3; None takes 1 where every header seen is gray.
        workers: threads; None takes up to eight of the CPUs.

    Attributes:
        shape: `(n, C, H, W)`.
        found: (H, W) of the images before the preprocessing; None where they differ.

    Raises:
        InputError: an image cannot be read, or the sizes differ and no `size` makes them one.
    """

    dtype = torch.uint8

    def __init__(
        self,
        files: Files,
        names: Sequence[str],
        preprocessing: Preprocessing,
        channels: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.files, self.names, self.preprocessing = files, list(names), preprocessing
        self.workers = workers or min(8, os.cpu_count() or 1)
        self._chosen = channels is not None
        with ThreadPoolExecutor(self.workers) as pool:
            headers = list(pool.map(self._header, [self.names[i] for i in spread(len(self.names), _HEADERS)]))
        self._size = headers[0][:2]
        for name, header in zip((self.names[i] for i in spread(len(self.names), _HEADERS)), headers, strict=True):
            self._check_size(name, *header[:2])
        self.found = headers[0][3:] if len({header[3:] for header in headers}) == 1 else None
        found = max(header[2] for header in headers)
        self.shape = (len(self.names), channels or found, *reversed(self._size))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, indices: Tensor | Sequence[int] | slice | int) -> Tensor:
        """Return uint8 `(k, C, H, W)`, or `(C, H, W)` for one int.

        Raises:
            InputError: an image cannot be decoded, or does not fit the others.
        """
        chosen = torch.arange(len(self))[indices]
        names = [self.names[i] for i in chosen.reshape(-1).tolist()]
        if len(names) > 1 and self.workers > 1:
            with ThreadPoolExecutor(self.workers) as pool:  # Pillow decodes outside the interpreter's lock
                decoded = list(pool.map(self._decode, names))
        else:
            decoded = [self._decode(name) for name in names]
        images = np.stack(decoded) if decoded else np.empty((0, *self.shape[1:]), np.uint8)
        return torch.from_numpy(images).reshape(*chosen.shape, *self.shape[1:])

    def _header(self, name: str) -> tuple[int, int, int, int, int]:
        """Return width and height as brought to, channels, and height and width as found."""
        where = f"{self.files.where}: {name}"
        try:
            with opened(self.files.read(name), where) as image:
                channels, (width, height) = channels_of(image, where), size_of(image)
                return (*self.preprocessing.result_size(width, height), channels, height, width)
        except InputError:
            raise
        except Exception as error:  # Pillow's parsers raise what they like: SyntaxError, struct.error, ...
            raise _unreadable(where, error) from None

    def _decode(self, name: str) -> np.ndarray:
        where = f"{self.files.where}: {name}"
        try:
            with opened(self.files.read(name), where) as image:
                if channels_of(image, where) > self.shape[1] and not self._chosen:
                    raise InputError(f"{where}: is colored where the others are gray; give channels 1 or 3")
                picture = decoded(image, where, self.shape[1])
        except InputError:
            raise
        except Exception as error:  # as above; a truncated file shows only now
            raise _unreadable(where, error) from None
        self._check_size(name, *self.preprocessing.result_size(*picture.size))
        return to_array(self.preprocessing(picture, where))

    def _check_size(self, name: str, width: int, height: int) -> None:
        if (width, height) != self._size:
            raise InputError(
                f"{self.files.where}: {name} is {width} x {height} where {self.names[0]} is {self._size[0]} x"
                f" {self._size[1]}; give a size to bring them to"
            )


def _unreadable(where: str, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [""])[0].replace(" <_io.BytesIO object", "")
    if "cannot identify image file" in reason:
        reason = "no image"
    return InputError(
        f"{where}: cannot be read as an image ({reason or type(error).__name__}); replace or remove it"
    )
