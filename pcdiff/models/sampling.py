"""Draw, decode or reconstruct many clouds with a trained model, in chunks that do not depend on one another."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pcdiff.diffusion import SamplingReport
from pcdiff.models import LatentPriorModel, PointCloudModel
from pcdiff.runtime import distributed, rng
from pcdiff.runtime.nonfinite import check_finite
from pcdiff.runtime.progress import Progress, estimated_seconds, part_of
from pcdiff.runtime.resumable import Work
from pcdiff.runtime.stopping import Stop, watched

CHUNK = 32
"""Clouds drawn at once; chunk k has its own random stream, so that a stopped job goes on with the next."""


class DecodingFlags(Protocol):
    """The flags that say how latents are decoded; None is the default of each."""

    sampler: str | None
    num_steps: int | None
    grid: str | None
    flexibility: float | None
    precision: str | None


def decoding(run_flexibility: float, flags: DecodingFlags) -> dict[str, Any]:
    """Return the options of `PointCloudModel.decode` that flags ask for.

    Args:
        run_flexibility: the trained run's own; it goes with the ancestral sampler only.
        flags: what was asked for.
    """
    sampler, flexibility = flags.sampler or "ancestral", flags.flexibility
    if flexibility is None:
        flexibility = run_flexibility if sampler == "ancestral" else 0.0
    return {
        "sampler": sampler,
        "num_steps": flags.num_steps,
        "grid": flags.grid,
        "flexibility": flexibility,
        "precision": flags.precision or "fp32",
    }


def generate(
    model: LatentPriorModel,
    num_samples: int,
    num_points: int,
    seed: int,
    *,
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
        truncate_std: see `LatentPriorModel.sample_latent`.
        **options: see `decode_chunk`.

    Yields:
        Chunks `(<= CHUNK, num_points, 3)` on the CPU, in the training set's normalisation.
    """
    for k in range(chunks(num_samples)):
        count = min(CHUNK, num_samples - k * CHUNK)
        yield draw_chunk(model, k, num_points, seed, count=count, truncate_std=truncate_std, **options)


def chunks(count: int) -> int:
    """Return how many chunks hold `count` clouds."""
    return -(-count // CHUNK)


def draw_chunk(
    model: LatentPriorModel,
    k: int,
    num_points: int,
    seed: int,
    *,
    count: int | None = None,
    truncate_std: float | None = None,
    **options: Any,
) -> Tensor:
    """Draw the first `count` (all by default) of chunk `k` of `generate`, `(count, num_points, 3)` on the CPU."""
    generator = rng.generator(seed, "sample", k, device=model.denoiser.process.device)
    z = model.sample_latent(CHUNK, generator, truncate_std)[:count]
    return decode_chunk(model, z, num_points, generator, **options)


def decode_chunk(
    model: PointCloudModel,
    z: Tensor,
    num_points: int,
    generator: torch.Generator,
    *,
    frames: int = 1,
    report: SamplingReport | None = None,
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
        **options: see `PointCloudModel.decode`.

    Returns:
        `(frames * n, num_points, 3)` on the CPU.

    Raises:
        InputError: a cloud is not finite; or see `PointCloudModel.decode`.
    """
    count = len(z) // frames

    def draw(x: Tensor) -> Tensor:
        # always a whole chunk's numbers: the stream goes on at the same place however many clouds there are
        whole = torch.randn(CHUNK, *x.shape[1:], generator=generator, device=x.device, dtype=x.dtype)
        return whole[:count].repeat(frames, 1, 1)

    start = model.denoiser.process.prior_sample((CHUNK, max(num_points, 0), model.encoder.point_dim), generator)
    cost = SamplingReport()
    start = start[:count].repeat(frames, 1, 1)
    clouds = model.decode(z, num_points, x_init=start, noise=draw, report=cost, **options)
    if report is not None:
        report.num_steps, report.evaluations = cost.num_steps, report.evaluations + cost.evaluations
    return check_finite(clouds.float().cpu(), "clouds")


def reconstruct(
    model: PointCloudModel, clouds: Tensor, num_points: int, seed: int, **options: Any
) -> Iterator[Tensor]:
    """Encode and decode clouds chunk by chunk.

    Args:
        model: a trained model.
        clouds: `(n, N, 3)` in the model's normalisation.
        num_points: points of each result; any number.
        seed: of every draw.
        **options: see `decode_chunk`.

    Yields:
        Chunks `(<= CHUNK, num_points, 3)` on the CPU.
    """
    for k in range(chunks(len(clouds))):
        yield reconstruct_chunk(model, clouds, k, num_points, seed, **options)


def reconstruct_chunk(
    model: PointCloudModel, clouds: Tensor, k: int, num_points: int, seed: int, **options: Any
) -> Tensor:
    """Encode and decode chunk `k` of `clouds`, as `reconstruct` does."""
    chunk = clouds[k * CHUNK : (k + 1) * CHUNK].to(model.denoiser.process.device)
    return decode_chunk(model, model.encode(chunk), num_points, decoding_generator(model, seed, k), **options)


def decoding_generator(model: PointCloudModel, seed: int, k: int) -> torch.Generator:
    """Return the source of the draws with which chunk `k` of given latents is decoded."""
    return rng.generator(seed, "reconstruct", k, device=model.denoiser.process.device)


def sample_all(
    model: LatentPriorModel,
    num_samples: int,
    num_points: int,
    seed: int,
    *,
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
        stop: asked after every step of the sampler.
        progress: called as `progress(done, total)` with the steps of all chunks.
        **options: see `generate`.

    Raises:
        Stopped: `stop` said so, in any process; all raise it.
    """

    def draw(k: int, **moving: Any) -> Tensor:
        count = min(CHUNK, num_samples - k * CHUNK)
        return draw_chunk(model, k, num_points, seed, count=count, **moving, **options)

    return _joined(draw, num_samples, stop, progress)


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

    def draw(k: int, **moving: Any) -> Tensor:
        return reconstruct_chunk(model, clouds, k, num_points, seed, **moving, **options)

    return _joined(draw, len(clouds), stop, progress)


def seconds_to_decode(model: PointCloudModel, count: int, num_points: int) -> float:
    """Estimate how long `count` clouds take by the whole chain, from a few steps of one chunk.

    The processes of a job share the chunks.
    """
    some = min(CHUNK, count)
    z = torch.zeros(some, model.config.latent_dim, device=model.denoiser.process.device)

    def decode(progress: Progress) -> None:
        decode_chunk(model, z, num_points, decoding_generator(model, 0, 0), progress=progress)

    return estimated_seconds(decode) * count / some / min(distributed.world_size(), chunks(count))


def _joined(draw: Callable[..., Tensor], count: int, stop: Stop | None, progress: Progress | None) -> Tensor:
    total = chunks(count)

    def chunk(k: int) -> tuple[np.ndarray]:
        moved = part_of(progress, k, total)
        return (draw(k, progress=moved if stop is None else watched(moved, stop.check)).numpy(),)

    made = Work(stop=stop).map("chunks", range(total), chunk)
    return torch.cat([torch.from_numpy(chunk) for (chunk,) in made])
