"""Draw, decode or reconstruct many clouds with a trained model, in chunks that do not depend on one another."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from pcdiff.diffusion import SamplingReport
from pcdiff.models.base import PointCloudModel
from pcdiff.models.generator import Generator
from pcdiff.runtime import rng
from pcdiff.runtime.chunks import Chunks, chunk_noise
from pcdiff.runtime.nonfinite import check_finite
from pcdiff.runtime.progress import Progress
from pcdiff.runtime.stopping import Stop

CHUNK = 32
"""Clouds drawn at once; chunk k has its own random stream, so that a stopped job continues with the next."""


class DecodingFlags(Protocol):
    """The flags of decoding; None is the default of each."""

    sampler: str | None
    num_steps: int | None
    grid: str | None
    flexibility: float | None
    precision: str | None
    guidance: float | None


def decoding(run_flexibility: float, flags: DecodingFlags) -> dict[str, Any]:
    """Return the options of `PointCloudModel.decode` that flags ask for.

    Args:
        run_flexibility: the trained run's own; it goes with the ancestral sampler only.
        flags: what was asked for.
    """
    flexibility = flags.flexibility
    if flexibility is None:
        flexibility = run_flexibility if flags.sampler in (None, "ancestral") else 0.0
    return {
        "sampler": flags.sampler,
        "num_steps": flags.num_steps,
        "grid": flags.grid,
        "flexibility": flexibility,
        "precision": flags.precision or "fp32",
        "guidance": flags.guidance,
    }


def generate(
    model: Generator,
    num_samples: int,
    num_points: int,
    seed: int,
    *,
    labels: Tensor | None = None,
    truncate_std: float | None = None,
    **options: Any,
) -> Iterator[Tensor]:
    """Draw clouds chunk by chunk.

    Cloud i depends on the seed, i and `num_points`, not on how many are asked for.

    Args:
        model: a trained generator.
        num_samples: how many clouds there shall be in the end.
        num_points: points of each.
        seed: of every draw.
        labels: of the clouds' classes `(num_samples,)`; of a class-conditional model in proportion to the clouds
            that it was trained on by default.
        truncate_std: see `Generator.sample_latent`.
        **options: see `decode_chunk`.

    Yields:
        Chunks `(<= CHUNK, num_points, 3)` on the CPU, in the training set's normalization.
    """
    chunks = Chunks(num_samples, CHUNK)
    for k in range(len(chunks)):
        count = chunks.rows_in(k)
        own = None if labels is None else labels[chunks.rows(k)]
        yield draw_chunk(model, k, num_points, seed, count=count, labels=own, truncate_std=truncate_std, **options)


def draw_chunk(
    model: Generator,
    k: int,
    num_points: int,
    seed: int,
    *,
    count: int | None = None,
    labels: Tensor | None = None,
    truncate_std: float | None = None,
    guidance: float | None = None,
    **options: Any,
) -> Tensor:
    """Draw the first `count` (all by default) of chunk `k` of `generate`, `(count, num_points, 3)` on the CPU."""
    generator = rng.generator(seed, "sample", k, device=model.device)
    given = _whole_chunk(model, k, CHUNK if count is None else count, labels)
    z = model.sample_latent(CHUNK, generator, truncate_std, given, guidance)[:count]
    return decode_chunk(model, z, num_points, generator, labels=given, guidance=guidance, **options)


def _whole_chunk(model: Generator, k: int, count: int, labels: Tensor | None) -> Tensor | None:
    """Return the labels of all that chunk `k` could hold `(CHUNK,)`, of which `count` are asked for.

    Raises:
        InputError: another number of labels than `count`, or labels that the model does not know.
    """
    if labels is None:
        usual = model.usual_labels((k + 1) * CHUNK)
        return None if usual is None else model.labels(usual[k * CHUNK :], CHUNK)
    known = model.labels(labels, count)
    return None if known is None else torch.cat([known, known[-1:].expand(CHUNK - count)])


def decode_chunk(
    model: PointCloudModel,
    z: Tensor,
    num_points: int,
    generator: torch.Generator,
    *,
    frames: int = 1,
    report: SamplingReport | None = None,
    labels: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Decode latents `(n, F)`, n at most CHUNK; what is drawn for one does not depend on how many there are.

    Args:
        model: a trained model.
        z: the latents, on its device; those of several frames `(frames * n, F)`, one frame behind the other.
        num_points: points of each cloud.
        generator: source of every draw.
        frames: frames that are decoded at once, each with the same draws.
        report: the run's evaluations are added to it.
        labels: of the clouds' classes; those of the first n count, and are the same in every frame.
        **options: see `PointCloudModel.decode`.

    Returns:
        `(frames * n, num_points, 3)` on the CPU.

    Raises:
        InputError: a cloud is not finite; or see `PointCloudModel.decode`.
    """
    count = len(z) // frames
    draw = chunk_noise(CHUNK, count, generator, frames)
    start = model.denoiser.process.prior_sample((CHUNK, max(num_points, 0), model.point_dim), generator)
    cost = SamplingReport()
    start = start[:count].repeat(frames, 1, 1)
    own = None if labels is None else labels[:count].repeat(frames)
    clouds = model.decode(z, num_points, x_init=start, noise=draw, report=cost, labels=own, **options)
    if report is not None:
        report.add(cost)
    return check_finite(clouds.float().cpu(), "clouds")


def reconstruct(
    model: PointCloudModel, clouds: Tensor, num_points: int, seed: int, **options: Any
) -> Iterator[Tensor]:
    """Encode and decode clouds chunk by chunk.

    Args:
        model: a trained model.
        clouds: `(n, N, 3)` in the model's normalization.
        num_points: points of each result; any number.
        seed: of every draw.
        **options: see `decode_chunk`; `labels (n,)` are those of all clouds.

    Yields:
        Chunks `(<= CHUNK, num_points, 3)` on the CPU.
    """
    for k in range(len(Chunks(len(clouds), CHUNK))):
        yield reconstruct_chunk(model, clouds, k, num_points, seed, **options)


def reconstruct_chunk(
    model: PointCloudModel,
    clouds: Tensor,
    k: int,
    num_points: int,
    seed: int,
    *,
    labels: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Encode and decode chunk `k` of `clouds`, as `reconstruct` does."""
    rows = slice(k * CHUNK, (k + 1) * CHUNK)
    draws, own = decoding_generator(model, seed, k), None if labels is None else labels[rows]
    z = model.encode(clouds[rows].to(model.device))
    return decode_chunk(model, z, num_points, draws, labels=own, **options)


def decoding_generator(model: PointCloudModel, seed: int, k: int) -> torch.Generator:
    """Return the source of the draws with which chunk `k` of given latents is decoded."""
    return rng.generator(seed, "reconstruct", k, device=model.device)


def sample_all(
    model: Generator,
    num_samples: int,
    num_points: int,
    seed: int,
    *,
    labels: Tensor | None = None,
    stop: Stop | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Tensor:
    """Return all of `generate`'s clouds `(num_samples, num_points, 3)`; the processes of a job share the chunks.

    Args:
        model: a trained generator.
        num_samples: how many clouds.
        num_points: points of each.
        seed: of every draw.
        labels: see `generate`.
        stop: asked after every step of the sampler.
        progress: called as `progress(done, total)` with the steps of all chunks.
        **options: see `generate`.

    Raises:
        Stopped: `stop` said so, in any process; all raise it.
    """
    chunks = Chunks(num_samples, CHUNK)

    def draw(k: int, moved: Progress | None) -> Tensor:
        own, count = None if labels is None else labels[chunks.rows(k)], chunks.rows_in(k)
        return draw_chunk(model, k, num_points, seed, count=count, labels=own, progress=moved, **options)

    return chunks.all_drawn(draw, stop, progress)


def reconstruct_all(
    model: PointCloudModel,
    clouds: Tensor,
    num_points: int,
    seed: int,
    *,
    stop: Stop | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Tensor:
    """Return all of `reconstruct`'s clouds `(n, num_points, 3)`; the processes of a job share the chunks.

    `stop` and `progress` are as in `sample_all`.

    Raises:
        Stopped: `stop` said so, in any process; all raise it.
    """

    def draw(k: int, moved: Progress | None) -> Tensor:
        return reconstruct_chunk(model, clouds, k, num_points, seed, progress=moved, **options)

    return Chunks(len(clouds), CHUNK).all_drawn(draw, stop, progress)


def seconds_to_decode(model: PointCloudModel, count: int, num_points: int) -> float:
    """Estimate how long `count` clouds take by the whole chain, from a few steps of one chunk.

    The processes of a job share the chunks.
    """
    chunks = Chunks(count, CHUNK)
    z = model.blank_codes(chunks.rows_in(0))
    labels = model.usual_labels(len(z))

    def decode(k: int, moved: Progress | None) -> Tensor:
        return decode_chunk(model, z, num_points, decoding_generator(model, 0, k), labels=labels, progress=moved)

    return chunks.seconds(decode)
