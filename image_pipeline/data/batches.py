"""Training batches of images as a pure function of (seed, step), so that resumed equals uninterrupted."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from image_pipeline.data.dataset import ImageDataset
from pcdiff import rng
from pcdiff.errors import InputError
from pcdiff.orders import ShuffledEpochs

RANGES = {"unit": (0.0, 1.0), "symmetric": (-1.0, 1.0)}


class ImageBatch(NamedTuple):
    """What a training step gets.

    Attributes:
        images: `(B, C, H, W)` float32 in the range asked for.
        labels: `(B,)` int64, or None.
    """

    images: Tensor
    labels: Tensor | None


class ImageBatches:
    """Endless shuffled batches; `batches(step)` depends on (seed, step) only.

    Images are taken in a fresh permutation per epoch, without a gap: no image is dropped or seen twice within one
    epoch. Each place of a batch draws its flip and its dequantisation noise from its own stream, on the CPU, so
    every device sees the same batches, and the shares of `world_size` processes together are the batch that a
    single one would see. Where images are decoded when asked for, the next step's are decoded in the meantime.

    Args:
        dataset: what to train on.
        batch_size: images a step, over all processes; may exceed the data set.
        seed: not negative.
        device: where the batches appear; resident images are kept there.
        flip: mirror each image left to right with probability one half.
        data_range: `unit`, [0, 1], or `symmetric`, [-1, 1].
        dequantise: add uniform noise, (x + u) / 256 with u in [0, 1), without which no density of 8-bit data is
            bounded (Theis, van den Oord & Bethge, ICLR 2016, section 3.1); else x / 255.
        rank: which process this is.
        world_size: how many share each batch.

    Attributes:
        steps_per_epoch: images / batch_size, a float.

    Raises:
        InputError: a size below 1, a negative seed, an unknown range, or a batch that the processes cannot share.

    Example:
        >>> batches = ImageBatches(load_images("digits"), batch_size=4, seed=0)
        >>> batches(7).images.shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        flip: bool = False,
        data_range: str = "symmetric",
        dequantise: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        if seed < 0:
            raise InputError(f"seed must not be negative, got {seed}")
        if data_range not in RANGES:
            raise InputError(f"unknown data_range {data_range!r}; known are {', '.join(RANGES)}")
        if not 0 <= rank < world_size:
            raise InputError(f"rank must lie in 0..world_size - 1, got {rank} of {world_size}")
        if batch_size % world_size:
            raise InputError(f"batch_size {batch_size} cannot be shared by {world_size} processes; take a multiple")
        self.images = dataset.images.to(device) if dataset.resident else dataset.images
        self.labels = None if dataset.labels is None else dataset.labels.to(device)
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self.flip, self.data_range, self.dequantise = flip, data_range, dequantise
        share = batch_size // world_size
        self._places = range(rank * share, (rank + 1) * share)
        self.steps_per_epoch = len(dataset) / batch_size
        self._order = ShuffledEpochs(len(dataset), batch_size, seed)
        self._ahead: tuple[int, Future[Tensor]] | None = None
        self._decoder = None if dataset.resident else ThreadPoolExecutor(1)

    def __call__(self, step: int) -> ImageBatch:
        """Return this process's share of the batch of one step."""
        if step < 0:
            raise InputError(f"step must not be negative, got {step}")
        indices = self.indices(step).to(self.device)
        images = self._quantised(step).to(self.device, torch.float32)
        noisy = self.flip or self.dequantise
        streams = [rng.generator(self.seed, "image", step, place) for place in self._places] if noisy else []
        if self.flip:
            mirrored = torch.stack([torch.rand((), generator=stream) < 0.5 for stream in streams]).to(self.device)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if self.dequantise:
            noise = torch.stack([torch.rand(images.shape[1:], generator=stream) for stream in streams])
            images = (images + noise.to(self.device)) / 256
        else:
            images = images / 255
        low, high = RANGES[self.data_range]
        return ImageBatch(images * (high - low) + low, None if self.labels is None else self.labels[indices])

    def indices(self, step: int) -> Tensor:
        """Return which images this process's share of one step holds, `(B,)` int64."""
        return self._order.indices(step)[self._places.start : self._places.stop]

    def _quantised(self, step: int) -> Tensor:
        if self._decoder is None:
            return self.images[self.indices(step).to(self.device)]
        if self._ahead is not None and self._ahead[0] == step:
            images = self._ahead[1].result()
        else:
            images = self.images[self.indices(step)]
        following = self.indices(step + 1)
        self._ahead = (step + 1, self._decoder.submit(self.images.__getitem__, following))
        return images


def to_range(images: Tensor, data_range: str) -> Tensor:
    """Return uint8 images as floats of a range, without noise.

    Raises:
        InputError: an unknown range.
    """
    low, high = _ends(data_range)
    return images.float() / 255 * (high - low) + low


def to_bytes(images: Tensor, data_range: str) -> Tensor:
    """Return images `(B, C, H, W)` of a range as uint8, rounded to the nearest level; what lies outside is clipped.

    Raises:
        InputError: an unknown range.
    """
    low, high = _ends(data_range)
    return ((images.float() - low) * (255 / (high - low))).round().clamp(0, 255).to(torch.uint8)


def _ends(data_range: str) -> tuple[float, float]:
    if data_range not in RANGES:
        raise InputError(f"unknown data_range {data_range!r}; known are {', '.join(RANGES)}")
    return RANGES[data_range]
