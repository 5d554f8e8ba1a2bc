"""Validation during training: the loss on images that are held out, with the same draws every time."""

import logging
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from image_pipeline.data import ImageBatch, ImageDataset, to_bytes, to_range
from image_pipeline.model import ImageModel
from image_pipeline.models.sampling import draw_images, seconds_to_draw
from image_pipeline.viz import grid
from pcdiff.runtime import distributed, rng
from pcdiff.runtime.progress import bar
from pcdiff.runtime.stopping import Stop, Stopped

log = logging.getLogger("pcdiff")
_CHUNK = 64
_DRAWS = 4  # times and noises of each image: one alone would rank checkpoints by luck


@dataclass
class ImageValidation:
    """The mean loss of held-out images is the score, lower is better; a grid of samples is shown beside.

    A sample-based distance would be more informative and cost a sampling of thousands at each validation; on a few
    dozen images it ranks by luck.

    Args:
        dataset: the images.
        seed: of the draws, which are the same at every validation, so that only the model differs.
        device: where the model is.
        shown: images in the grid; 0 shows none.
        stop: asked after every batch and every step of the sampler; by default a validation is never given up.
    """

    dataset: ImageDataset
    seed: int
    device: torch.device
    shown: int = 16
    stop: Stop | None = None
    made: Tensor | None = field(default=None, init=False)

    @torch.no_grad()
    def __call__(self, model: ImageModel) -> dict[str, float]:
        """Return the loss as `loss` and `score`.

        Raises:
            Stopped: `stop` said so.
        """
        total, count = 0.0, len(self.dataset)
        with bar("validation: loss", "image") as progress:
            for first in range(0, count, _CHUNK):
                rows = min(_CHUNK, count - first)
                total += self._loss(model, first, rows) * rows
                progress(first + rows, count)
                if self.stop is not None and distributed.agreed(self.stop()):  # all processes do the same here
                    raise Stopped
        if self.shown:
            with bar("validation: sampling", "step") as progress:
                drawn = draw_images(model, self.shown, self.seed, stop=self.stop, progress=progress)
            self.made = None
            if drawn.isfinite().all():
                self.made = to_bytes(drawn, model.config.data.data_range)
            else:  # what is scored is the loss: the training need not end for its picture
                log.warning("validation: the images drawn are not finite and are not shown")
        return {"loss": total / count, "score": total / count}

    @torch.no_grad()
    def seconds(self, model: ImageModel) -> float:
        """Estimate the seconds that a validation of `model` takes."""
        rows = min(_CHUNK, len(self.dataset))
        start = time.perf_counter()
        self._loss(model, 0, rows)
        one = time.perf_counter() - start
        return one * len(self.dataset) / rows + (seconds_to_draw(model, self.shown) if self.shown else 0.0)

    def _loss(self, model: ImageModel, first: int, count: int) -> float:
        """Return the mean loss of the images `first` to `first + count`."""
        rows = torch.arange(first, first + count)
        images = to_range(self.dataset.images[rows], model.config.data.data_range).to(self.device)
        labels = None if self.dataset.labels is None else self.dataset.labels[rows].to(self.device)
        batch, loss = ImageBatch(images, labels), 0.0
        for k in range(_DRAWS):
            generator = rng.generator(self.seed, "validation", first, k, device=self.device)
            loss += float(model.loss_terms(batch, **model.draw(batch, count, generator))["loss"]) / _DRAWS
        return loss

    def show(self, writer: SummaryWriter, step: int) -> None:
        """Log a grid of samples to TensorBoard."""
        if self.made is not None:
            writer.add_image("samples", grid(self.made), step, dataformats="HWC")
