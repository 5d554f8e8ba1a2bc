"""Validation during training: the loss on images that are held out, with the same draws every time."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from image_pipeline.data import ImageBatch, ImageDataset, to_bytes, to_range
from image_pipeline.drawing import draw_images
from image_pipeline.model import ImageModel
from image_pipeline.pictures import grid
from pcdiff import rng

_CHUNK = 64
_DRAWS = 4  # times and noises of each image: one alone would rank checkpoints by luck


@dataclass
class ImageValidation:
    """The mean loss of held-out images is the score, lower is better; a grid of samples is shown beside.

    A sample-based distance would say more and cost a sampling of thousands at each validation; on a few dozen
    images it ranks by luck.

    Args:
        dataset: the images.
        seed: of the draws, which are the same at every validation, so that only the model differs.
        device: where the model is.
        shown: images in the grid; 0 shows none.
    """

    dataset: ImageDataset
    seed: int
    device: torch.device
    shown: int = 16
    made: Tensor | None = field(default=None, init=False)

    def __call__(self, model: ImageModel) -> dict[str, float]:
        """Return the loss as `loss` and `score`, and draw the images to show."""
        loss = self.loss(model)
        if self.shown:
            drawn = draw_images(model, self.shown, self.seed)
            self.made = to_bytes(drawn, model.config.data.data_range)
        return {"loss": loss, "score": loss}

    @torch.no_grad()
    def loss(self, model: ImageModel) -> float:
        """Return the mean loss of the images."""
        total, count = 0.0, len(self.dataset)
        for first in range(0, count, _CHUNK):
            rows = torch.arange(first, min(first + _CHUNK, count))
            images = to_range(self.dataset.images[rows], model.config.data.data_range).to(self.device)
            labels = None if self.dataset.labels is None else self.dataset.labels[rows].to(self.device)
            batch = ImageBatch(images, labels)
            for k in range(_DRAWS):
                generator = rng.generator(self.seed, "validation", first, k, device=self.device)
                terms = model.loss_terms(batch, **model.draw(batch, len(rows), generator))
                total += float(terms["loss"]) * len(rows) / _DRAWS
        return total / count

    def show(self, writer: SummaryWriter, step: int) -> None:
        """Log a grid of samples to TensorBoard."""
        if self.made is not None:
            writer.add_image("samples", grid(self.made), step, dataformats="HWC")
