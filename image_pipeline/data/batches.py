"""Training batches of images as a pure function of (seed, step), so that resumed equals uninterrupted."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from image_pipeline.data.augmentation import augment, check_probability, draw_augmentation, labels_of
from image_pipeline.data.dataset import ImageDataset
from pcdiff.errors import InputError, OutOfRange
from pcdiff.runtime import rng
from pcdiff.runtime.epoch_sampler import ShuffledEpochs
from pcdiff.runtime.nonfinite import check_finite

RANGES = {"unit": (0.0, 1.0), "symmetric": (-1.0, 1.0)}


class ImageBatch(NamedTuple):
    """What a training step gets.

    Attributes:
        images: `(B, C, H, W)` float32 in the range asked for.
        labels: `(B,)` int64, or None.
        augmentation: augmentation labels `(B, 9)`, or None.
    """

    images: Tensor
    labels: Tensor | None
    augmentation: Tensor | None = None


class ImageBatches:
    """Endless shuffled batches; `batches(step, rows)`, a slice of a step's batch, depends on (seed, step) only.

    Images are taken in a fresh permutation per epoch, without a gap: no image is dropped or seen twice within one
    epoch. Each place of a batch draws its flip and its dequantization noise from its own stream, on the CPU, so
    every device sees the same batches, and slices put together are the whole. Where images are decoded when asked
    for, those of the same rows of the next step are decoded in the meantime.

    Args:
        dataset: what to train on.
        batch_size: images a step, over all processes; may exceed the data set.
        seed: at least 0.
        device: where the batches appear; resident images are kept there.
        flip: mirror each image left to right with probability one half.
        data_range: `unit`, [0, 1], or `symmetric`, [-1, 1].
        dequantize: add uniform noise, (x + u) / 256 with u in [0, 1), without which no density of 8-bit data is
            bounded (Theis, van den Oord & Bethge, ICLR 2016, section 3.1); else x / 255.
        augment: probability of each augmentation of `image_pipeline.data.augmentation`; None leaves them out.

    Attributes:
        steps_per_epoch: images / batch_size, a float.

    Raises:
        InputError: a size below 1, a negative seed, an unknown range, or no probability.

    Example:
        >>> batches = ImageBatches(load_images("digits"), batch_size=4, seed=0)
        >>> batches(7).images.shape, batches(7, slice(0, 2)).images.shape
        (torch.Size([4, 1, 8, 8]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        flip: bool = False,
        data_range: str = "symmetric",
        dequantize: bool = False,
        augment: float | None = None,
    ) -> None:
        if batch_size < 1:
            raise OutOfRange("batch_size", "at least 1", batch_size)
        if seed < 0:
            raise InputError(f"seed must not be negative, got {seed}")
        if data_range not in RANGES:
            raise InputError(f"unknown data_range {data_range!r}; known are {', '.join(RANGES)}")
        self.images = dataset.images.to(device) if dataset.resident else dataset.images
        self.labels = None if dataset.labels is None else dataset.labels.to(device)
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self.flip, self.data_range, self.dequantize = flip, data_range, dequantize
        if augment is not None:
            check_probability(augment)
        self.augment = augment
        self.steps_per_epoch = len(dataset) / batch_size
        self._order = ShuffledEpochs(len(dataset), batch_size, seed)
        self._ahead: dict[tuple[int, int], tuple[int, Future[Tensor]]] = {}  # by rows
        self._decoder = None if dataset.resident else ThreadPoolExecutor(1)

    def __call__(self, step: int, rows: slice = slice(None)) -> ImageBatch:
        """Return the rows of the batch of one step; all by default."""
        if step < 0:
            raise InputError(f"step must not be negative, got {step}")
        indices = self.indices(step, rows).to(self.device)
        images = self._quantized(step, rows).to(self.device, torch.float32)
        noisy, places = self.flip or self.dequantize, range(self.batch_size)[rows]
        streams = [rng.generator(self.seed, "image", step, place) for place in places] if noisy else []
        if self.flip:
            mirrored = torch.stack([torch.rand((), generator=stream) < 0.5 for stream in streams]).to(self.device)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if self.dequantize:
            noise = torch.stack([torch.rand(images.shape[1:], generator=stream) for stream in streams])
            images = (images + noise.to(self.device)) / 256
        else:
            images = images / 255
        low, high = RANGES[self.data_range]
        images = images * (high - low) + low
        labels = None if self.labels is None else self.labels[indices]
        if self.augment is None:
            return ImageBatch(images, labels)
        streams = [rng.generator(self.seed, "augmentation", step, place) for place in places]
        done = torch.stack([draw_augmentation(self.augment, stream) for stream in streams])
        return ImageBatch(augment(images, done), labels, labels_of(done).to(self.device))

    def indices(self, step: int, rows: slice = slice(None)) -> Tensor:
        """Return which images the rows of one step's batch hold, `(B,)` int64."""
        return self._order.indices(step)[rows]

    def _quantized(self, step: int, rows: slice) -> Tensor:
        if self._decoder is None:
            return self.images[self.indices(step, rows).to(self.device)]
        first, stop, _ = rows.indices(self.batch_size)
        ahead, future = self._ahead.get((first, stop), (None, None))
        images = future.result() if ahead == step else self.images[self.indices(step, rows)]
        following = self.indices(step + 1, rows)
        self._ahead[first, stop] = step + 1, self._decoder.submit(self.images.__getitem__, following)
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
        InputError: an unknown range, or an image that is not finite, which no level stands for.
    """
    low, high = _ends(data_range)
    check_finite(images, "images")
    return ((images.float() - low) * (255 / (high - low))).round().clamp(0, 255).to(torch.uint8)


def _ends(data_range: str) -> tuple[float, float]:
    if data_range not in RANGES:
        raise InputError(f"unknown data_range {data_range!r}; known are {', '.join(RANGES)}")
    return RANGES[data_range]
