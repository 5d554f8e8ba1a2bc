"""The images of a run: a split of its data set, and those of the training split that are held out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from image_pipeline.configs import DataConfig
from image_pipeline.data.dataset import ImageDataset, Images
from image_pipeline.data.load import load_images

_HELD_OUT_SEED = 1  # one choice for all runs, so that their validations compare


@dataclass(frozen=True)
class Rows:
    """Some images of others, by index.

    Attributes:
        images: resident or lazy.
        rows: int64 `(n,)`.
    """

    images: Images
    rows: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """`(n, C, H, W)`."""
        return (len(self.rows), *self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor | slice) -> Tensor:
        """Return the images of indices `(k,)`, uint8 `(k, C, H, W)`."""
        return self.images[self.rows[indices]]


def open_data(data: DataConfig, split: str) -> ImageDataset:
    """Load a split by the run's data config.

    Raises:
        InputError: see `load_images`.
    """
    return load_images(str(data.dataset_path), split, data.size, data.crop, data.filter, data.channels, data.labels)


def hold_out(dataset: ImageDataset, count: int) -> tuple[ImageDataset, ImageDataset]:
    """Split a training set into what is trained on and `count` images, at most a tenth, for the validation."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(_HELD_OUT_SEED))
    count = min(count, len(dataset) // 10)
    return _chosen(dataset, order[count:].sort().values), _chosen(dataset, order[:count].sort().values)


def _chosen(dataset: ImageDataset, rows: Tensor) -> ImageDataset:
    images = dataset.images[rows] if dataset.resident else Rows(dataset.images, rows)
    labels = None if dataset.labels is None else dataset.labels[rows]
    return ImageDataset(images, labels, dataset.class_names, dataset.split, dataset.identity, dataset.found)
