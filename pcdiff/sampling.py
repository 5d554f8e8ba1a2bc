"""Draw or reconstruct many clouds with a trained model, in chunks that do not depend on one another."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pcdiff import rng
from pcdiff.models import LatentPriorModel, PointCloudModel

CHUNK = 32
"""Clouds drawn at once; chunk k has its own random stream, so that a stopped job goes on with the next."""


def generate(
    model: LatentPriorModel,
    num_samples: int,
    num_points: int,
    seed: int,
    *,
    flexibility: float = 0.0,
    truncate_std: float | None = None,
) -> Iterator[Tensor]:
    """Draw clouds chunk by chunk.

    Cloud i depends on the seed, i and `num_points`, not on how many are asked for.

    Args:
        model: a trained generator.
        num_samples: how many clouds there shall be in the end.
        num_points: points of each.
        seed: of every draw.
        flexibility: see `PointCloudModel.decode`.
        truncate_std: see `LatentPriorModel.sample_latent`.

    Yields:
        Chunks `(<= CHUNK, num_points, 3)` on the CPU, in the training set's normalisation.
    """
    options = {"flexibility": flexibility, "truncate_std": truncate_std}
    for k in range(chunks(num_samples)):
        yield draw_chunk(model, k, num_points, seed, **options)[: num_samples - k * CHUNK]


def chunks(count: int) -> int:
    """Return how many chunks hold `count` clouds."""
    return -(-count // CHUNK)


def draw_chunk(
    model: LatentPriorModel,
    k: int,
    num_points: int,
    seed: int,
    *,
    flexibility: float = 0.0,
    truncate_std: float | None = None,
) -> Tensor:
    """Draw chunk `k` of `generate`, `(CHUNK, num_points, 3)` on the CPU."""
    generator = rng.generator(seed, "sample", k, device=next(model.parameters()).device)
    clouds = model.sample(
        CHUNK, num_points, generator=generator, flexibility=flexibility, truncate_std=truncate_std
    )
    return clouds.float().cpu()


def reconstruct(
    model: PointCloudModel, clouds: Tensor, num_points: int, seed: int, *, flexibility: float = 0.0
) -> Iterator[Tensor]:
    """Encode and decode clouds chunk by chunk.

    Args:
        model: a trained model.
        clouds: `(n, N, 3)` in the model's normalisation.
        num_points: points of each result.
        seed: of every draw.
        flexibility: see `PointCloudModel.decode`.

    Yields:
        Chunks `(<= CHUNK, num_points, 3)` on the CPU.
    """
    for k in range(chunks(len(clouds))):
        yield reconstruct_chunk(model, clouds, k, num_points, seed, flexibility=flexibility)


def reconstruct_chunk(
    model: PointCloudModel, clouds: Tensor, k: int, num_points: int, seed: int, *, flexibility: float = 0.0
) -> Tensor:
    """Encode and decode chunk `k` of `clouds`, as `reconstruct` does."""
    device = next(model.parameters()).device
    chunk = clouds[k * CHUNK : (k + 1) * CHUNK].to(device)
    generator = rng.generator(seed, "reconstruct", k, device=device)
    return model.reconstruct(chunk, num_points, flexibility=flexibility, generator=generator).float().cpu()


def sample_all(model: LatentPriorModel, num_samples: int, num_points: int, seed: int, **options: float) -> Tensor:
    """Return all of `generate`'s clouds `(num_samples, num_points, 3)`."""
    return torch.cat(list(generate(model, num_samples, num_points, seed, **options)))
