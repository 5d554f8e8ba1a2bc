"""What trainings of image models and of their classifiers share before the first step: checks, images, threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from image_pipeline.data import ImageBatches, ImageDataset
from image_pipeline.data.splits import hold_out
from pcdiff.config import check_train
from pcdiff.errors import InputError
from pcdiff.runtime.run_folder import log


@dataclass(frozen=True)
class TrainingImages:
    """The images of a training.

    Attributes:
        used: those that are trained on.
        held_out: those of the validation, maybe none.
        batches: of `used`.
    """

    used: ImageDataset
    held_out: ImageDataset
    batches: ImageBatches

    @classmethod
    def of(cls, config: Any, whole: ImageDataset, device: torch.device) -> "TrainingImages":
        """Split a training set by a run's config.

        Args:
            config: has `data`, `train` and `seed`.
            whole: the training split.
            device: where batches are made.

        Raises:
            InputError: there is to be a validation, and no image is held out; or as `ImageBatches`.
        """
        data, train = config.data, config.train
        used, held_out = hold_out(whole, data.held_out)
        if train.val_every and not len(held_out):
            few = f"one in ten of {len(whole)} training images is none: give 10 or more"
            why = "--held-out 0 leaves none" if data.held_out == 0 else few
            raise InputError(f"no image is held out for the validation: {why}, or take --val-every 0")
        batches = ImageBatches(
            used,
            train.batch_size,
            config.seed,
            device,
            flip=data.flip,
            data_range=data.data_range,
            dequantize=data.dequantize,
            augment=data.augment,
        )
        return cls(used, held_out, batches)

    def log(self) -> None:
        """Log which images they are, and warn where they were enlarged."""
        identity, classes = self.used.identity, self.used.num_classes
        log.info(
            "data: %s, %d images %s%s, %d held out (%s)", identity.name, len(self.used), identity.shape,
            "" if classes is None else f", {classes} classes", len(self.held_out), identity.splits,
        )  # fmt: skip
        if self.used.enlarged is not None:
            log.warning("%s", self.used.enlarged)


def check_run(config: Any) -> None:
    """Refuse values that no training on images can have.

    Args:
        config: has `train`, `data`, `seed` and `threads`, and maybe `num_samples`.

    Raises:
        InputError: names the field, what was expected and what came.
    """
    check_train(config.train)
    fields = {**vars(config), "held_out": config.data.held_out}
    for name, least in (("num_samples", 1), ("seed", 0), ("threads", 1), ("held_out", 0)):
        value = fields.get(name)
        if value is not None and value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with so many CPU threads for as long as this lasts; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
