"""Draw many images with a trained model, in chunks that do not depend on one another."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image_pipeline.configs import SamplingConfig
from image_pipeline.model import ImageModel
from pcdiff.diffusion import SamplingReport
from pcdiff.runtime import distributed, rng
from pcdiff.runtime.precision import autocast
from pcdiff.runtime.progress import Progress, estimated_seconds, part_of
from pcdiff.runtime.resumable import Work
from pcdiff.runtime.stopping import Stop, watched

CHUNK = 64
"""Images drawn at once by default; each chunk has its own random stream, so a stopped job goes on with the next."""


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

    def whole(x: Tensor) -> Tensor:
        # always a whole chunk's numbers: the stream goes on at the same place however many images there are
        return torch.randn(size, *x.shape[1:], generator=generator, device=device, dtype=x.dtype)[: len(x)]

    if labels is None and model.num_classes is not None:
        labels = torch.randint(model.num_classes, (size,), generator=generator, device=device)[:count]
    start = model.denoiser.process.prior_sample((size, *model.image_shape), generator)[:count]
    cost = SamplingReport()
    with autocast(precision, device):
        drawn = model.sample(
            count, labels, settings, x_init=start, noise=whole, report=cost, progress=progress, **options
        )
    if report is not None:
        report.num_steps, report.evaluations = cost.num_steps, report.evaluations + cost.evaluations
    return drawn.float().cpu()


def generate(
    model: ImageModel, count: int, seed: int, *, size: int = CHUNK, labels: Tensor | None = None, **options: Any
) -> Iterator[Tensor]:
    """Yield `count` images chunk by chunk; arguments as for `draw_chunk`, `labels (count,)`."""
    for k in range(-(-count // size)):
        rows = slice(k * size, min((k + 1) * size, count))
        own = None if labels is None else labels[rows]
        yield draw_chunk(model, k, seed, size=size, count=rows.stop - rows.start, labels=own, **options)


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
    total = -(-count // CHUNK)

    def chunk(k: int) -> tuple[np.ndarray]:
        moved = part_of(progress, k, total)
        moved = moved if stop is None else watched(moved, stop.check)
        size = min(CHUNK, count - k * CHUNK)
        return (draw_chunk(model, k, seed, count=size, progress=moved, **options).numpy(),)

    made = Work(stop=stop).map("images", range(total), chunk)
    return torch.cat([torch.from_numpy(images) for (images,) in made])


def seconds_to_draw(model: ImageModel, count: int) -> float:
    """Estimate how long `count` images take as the run draws them, from a few steps of one chunk.

    The processes of a job share the chunks.
    """
    some = min(CHUNK, count)
    whole = (
        estimated_seconds(lambda progress: draw_chunk(model, 0, 0, count=some, progress=progress)) * count / some
    )
    return whole / min(distributed.world_size(), -(-count // CHUNK))
