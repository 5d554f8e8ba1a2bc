"""Generated images on disk: filled in batch by batch, continued after a kill, read without loading them all."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from image_pipeline.data.array_files import open_arrays
from image_pipeline.data.image_files import check_shape
from pcdiff.errors import InputError
from pcdiff.runtime import distributed
from pcdiff.runtime.chunks import Chunks
from pcdiff.runtime.progress import Progress, bar, part_of
from pcdiff.runtime.resumable import ResumableMap
from pcdiff.runtime.stopping import Stopped, watched


class GenerationLimits(Protocol):
    """Images at a time, and how many a call makes at most."""

    batch_size: int
    max_iters: int | None


class StoredImages:
    """Images in a .npy file of uint8 `(n, H, W, C)`, read when indexed.

    Args:
        path: the file.
        shape: (C, H, W) that is wanted: grays become colors, sizes must be right. None takes all.

    Attributes:
        shape: `(n, C, H, W)`.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int] | None = None):
        self.array = open_arrays(path)
        count, height, width, channels = self.array.shape
        channels = 3 if shape is not None and shape[0] == 3 else channels
        self.shape = (count, channels, height, width)
        check_shape(path, self.shape[1:], shape)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images of indices `(k,)`, `(k, C, H, W)`."""
        rows = torch.from_numpy(self.array[indices.numpy()]).permute(0, 3, 1, 2)
        return rows.expand(-1, self.shape[1], -1, -1)


def generated(
    path: Path,
    shape: tuple[int, ...],
    config: GenerationLimits,
    draw: Callable[[int, Progress], Tensor],
    work: ResumableMap,
) -> StoredImages:
    """Fill a .npy file with images, batch by batch, and open it.

    The journal has each finished batch's place and checksum, the file its pixels: a batch that a kill tore is drawn
    anew, and memory holds one at a time.

    Args:
        path: the file; what is unfinished lies beside it.
        shape: `(n, C, H, W)`.
        config: has `batch_size` and `max_iters`.
        draw: `draw(k, progress)` gives batch k, uint8 `(k, C, H, W)`; the same whenever it is called. It calls
            `progress(done, total)` after every step of the sampler, where it may have to stop.
        work: keeps account.

    Raises:
        Stopped: this call has made as many as it should, or had to stop.
    """
    count, size = shape[0], config.batch_size
    draft = path.with_suffix(".partial.npy")
    if distributed.rank() == 0:
        _make(draft, (count, *shape[2:], shape[1]))
    distributed.gather(None)  # the file is there
    array = np.load(draft, mmap_mode="r")

    chunks = Chunks(count, size)

    def put(k: int, moved: Progress) -> Tensor:
        images = draw(k, moved)
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy().tobytes()
        _write(draft, array.offset + k * size * array[0].nbytes, pixels)
        return torch.tensor([zlib.crc32(pixels)])

    with bar("generating", "step") as progress:
        sums = chunks.drawn(put, work, "generating", work.check, progress)
        for k, checksum in enumerate(sums):
            if zlib.crc32(np.ascontiguousarray(array[chunks.rows(k)]).tobytes()) != int(checksum):
                put(k, watched(part_of(progress, k, len(chunks)), work.check))
            more = k + 1 < len(chunks)
            if more and config.max_iters is not None and work.computed * size >= config.max_iters:
                raise Stopped
    distributed.gather(None)  # all have written
    if distributed.rank() == 0:
        os.replace(draft, path)
    distributed.gather(None)
    return StoredImages(path)


def _make(draft: Path, shape: tuple[int, ...]) -> None:
    """Make the file of all images, unless it is there in this shape already, and reserve its room on the disk."""
    try:
        there = np.load(draft, mmap_mode="r")
        made = there.shape == shape and there.dtype == np.uint8 and not np.isfortran(there)
    except (OSError, ValueError, EOFError):
        made = False
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        if not made:
            np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape).flush()
        if hasattr(os, "posix_fallocate"):  # hours before the disk is found to be full
            with draft.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        if not made:
            draft.unlink(missing_ok=True)
        raise InputError(f"{draft}: cannot write ({error.strerror or error}); make room") from None


def _write(draft: Path, place: int, pixels: bytes) -> None:
    """Write by the system's own call: a full disk is an error, where a mapped page would end the process."""
    try:
        with draft.open("r+b") as file:
            file.seek(place)
            file.write(pixels)
    except OSError as error:
        raise InputError(
            f"{draft}: cannot write ({error.strerror or error}); it is kept; make room and continue"
        ) from None
