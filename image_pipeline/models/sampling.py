"""Draw many images with a trained model, in chunks that do not depend on one another."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from image_pipeline.configs import SamplingConfig
from image_pipeline.model import ImageModel
from pcdiff.diffusion import SamplingReport
from pcdiff.runtime import rng
from pcdiff.runtime.chunks import Chunks, chunk_noise
from pcdiff.runtime.precision import autocast
from pcdiff.runtime.progress import Progress
from pcdiff.runtime.stopping import Stop

CHUNK = 64
"""Images drawn at once by default; each chunk has its own random stream, so a stopped job continues with the
next."""


def draw_chunk(
    model: ImageModel,
    k: int,
    seed: int,
    *,
    size: int = CHUNK,
    count: int | None = None,
    labels: Tensor | None = None,
    settings: SamplingConfig | None = None,
    precision: str = "fp32",
    report: SamplingReport | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Tensor:
    """Draw the first `count` (all by default) images of chunk `k`.

    An image depends on the seed, `k` and its place in the chunk, not on how many are asked for.

    Args:
        model: a trained model.
        k: which chunk.
        seed: of every draw.
        size: images in a chunk.
        count: images wanted, the first ones.
        labels: classes `(count,)`; a model conditioned on classes draws them evenly where none are given.
        settings: how; the run's own by default.
        precision: of matrix products, a key of `pcdiff.runtime.precision.PRECISIONS` or `auto`.
        report: the run's evaluations are added to it.
        progress: called after every step.
        **options: see `ImageModel.sample`.

    Returns:
        `(count, C, H, W)` float32 on the CPU, in the data's range, not cut to it.
    """
    count = size if count is None else count
    device = model.denoiser.process.device
    generator = rng.generator(seed, "sample", k, device=device)
    if labels is None and model.num_classes is not None:
        labels = torch.randint(model.num_classes, (size,), generator=generator, device=device)[:count]
    start = model.denoiser.process.prior_sample((size, *model.image_shape), generator)[:count]
    cost = SamplingReport()
    with autocast(precision, device):
        drawn = model.sample(
            count,
            labels,
            settings,
            x_init=start,
            noise=chunk_noise(size, count, generator),
            report=cost,
            progress=progress,
            **options,
        )
    if report is not None:
        report.add(cost)
    return drawn.float().cpu()


def generate(
    model: ImageModel, count: int, seed: int, *, size: int = CHUNK, labels: Tensor | None = None, **options: Any
) -> Iterator[Tensor]:
    """Yield `count` images chunk by chunk; arguments as for `draw_chunk`, `labels (count,)`."""
    chunks = Chunks(count, size)
    for k in range(len(chunks)):
        own = None if labels is None else labels[chunks.rows(k)]
        yield draw_chunk(model, k, seed, size=size, count=chunks.rows_in(k), labels=own, **options)


def draw_images(
    model: ImageModel,
    count: int,
    seed: int,
    *,
    stop: Stop | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Tensor:
    """Return all of `generate`'s images `(count, C, H, W)`; the processes of a job share the chunks.

    Args:
        model: a trained model.
        count: how many images.
        seed: of every draw.
        stop: asked after every step of the sampler.
        progress: called as `progress(done, total)` with the steps of all chunks.
        **options: see `draw_chunk`.

    Raises:
        Stopped: `stop` said so, in any process; all raise it.
    """
    chunks = Chunks(count, CHUNK)

    def draw(k: int, moved: Progress | None) -> Tensor:
        return draw_chunk(model, k, seed, count=chunks.rows_in(k), progress=moved, **options)

    return chunks.all_drawn(draw, stop, progress)


def seconds_to_draw(model: ImageModel, count: int) -> float:
    """Estimate how long `count` images take as the run draws them, from a few steps of one chunk.

    The processes of a job share the chunks.
    """
    chunks = Chunks(count, CHUNK)
    return chunks.seconds(lambda k, moved: draw_chunk(model, k, 0, count=chunks.rows_in(k), progress=moved))
