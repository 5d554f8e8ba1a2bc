"""What a trained model can do with given clouds: interpolate, add up, invert, complete and score them.

Clouds are `(n, N, 3)` in the model's normalization; results are on the CPU, and cloud i's does not depend on how
many others come with it. Encoding and decoding, also to more points (upsampling), is
`pcdiff.models.sampling.reconstruct`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcdiff import diffusion
from pcdiff.diffusion import SamplingReport, attribute_of, invertible_predictors, nats_per_dim, predictor
from pcdiff.diffusion.samplers.base import Progress
from pcdiff.errors import InputError
from pcdiff.models.base import PointCloudModel
from pcdiff.models.completing import complete, completions
from pcdiff.models.latent import Latent
from pcdiff.models.latent_interpolation import codes_between
from pcdiff.models.sampling import CHUNK, decode_chunk, decoding_generator
from pcdiff.runtime import rng
from pcdiff.runtime.call_checks import checked
from pcdiff.runtime.nonfinite import check_finite
from pcdiff.runtime.progress import part_of

__all__ = [
    "CloudLikelihood",
    "Inversion",
    "arithmetic",
    "complete",
    "completions",
    "decode",
    "encode",
    "interpolate",
    "invert",
    "log_likelihood",
]


def encode(model: PointCloudModel, x: Tensor) -> Tensor:
    """Return the codes `(n, F)` of clouds `(n, N, 3)`, on the model's device.

    Raises:
        InputError: `x` is no batch of clouds.
    """
    if x.dim() != 3 or x.shape[2] != model.point_dim or 0 in x.shape:
        raise InputError(f"clouds must be (n, N, {model.point_dim}), got {tuple(x.shape)}")
    return torch.cat([model.encode(chunk.to(model.device)) for chunk in x.split(CHUNK)])


@checked
def decode(
    model: PointCloudModel, z: Tensor, num_points: int, seed: int, *, labels: Tensor | None = None, **options: Any
) -> Tensor:
    """Decode any number of codes.

    Args:
        model: a trained model.
        z: codes `(n, F)`.
        num_points: points of each cloud.
        seed: of every draw.
        labels: of the clouds' classes `(n,)`, of a class-conditional model; None stands for no class.
        **options: see `pcdiff.models.sampling.decode_chunk`.

    Returns:
        `(n, num_points, 3)`.
    """
    made = []
    for draws, own, part in _parts(model, seed, labels, z):
        made.append(decode_chunk(model, part, num_points, draws, labels=own, **options))
    return torch.cat(made)


@checked
def interpolate(
    model: PointCloudModel,
    a: Tensor,
    b: Tensor,
    num_frames: int,
    num_points: int,
    seed: int,
    *,
    path: str = "linear",
    labels: Tensor | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Tensor:
    """Decode the codes between those of each pair of clouds, every frame with the same noise.

    So the first and last frame are the reconstructions of `a` and `b`, and what changes between frames is the shape
    alone. Frames are decoded together, as many as a chunk of `pcdiff.models.sampling.CHUNK` clouds holds.

    Args:
        model: a trained model; a generator for the spherical path.
        a: clouds `(n, N, 3)`.
        b: clouds `(n, M, 3)`.
        num_frames: clouds of each row, both ends included.
        num_points: points of each.
        seed: of every draw.
        path: one of `pcdiff.models.latent_interpolation.PATHS`: `linear` in the code, or `spherical` in the base of
            the prior.
        labels: of the pairs' classes `(n,)`, of a class-conditional model; None stands for no class.
        progress: called as `progress(done, total)` with the steps of the sampler, over all frames.
        **options: see `pcdiff.models.sampling.decode_chunk`.

    Returns:
        `(n, num_frames, num_points, 3)`.

    Raises:
        InputError: the numbers of clouds differ, `num_frames` is below 2, or the path is unknown or does not fit.

    Example:
        >>> frames = interpolate(model, chairs[:1], chairs[1:2], 8, 2048, seed=0, path="spherical")
    """
    _check_paired(a=a, b=b)
    codes = codes_between(model, encode(model, a), encode(model, b), num_frames, path, labels)
    # (frames, pairs, F), in parts of at most a chunk
    parts = [
        (k, part)
        for k, pairs in enumerate(codes.split(CHUNK, dim=1))
        for part in pairs.split(max(1, CHUNK // pairs.shape[1]))
    ]
    rows: dict[int, list[Tensor]] = {}
    for i, (k, part) in enumerate(parts):
        draws, moved = decoding_generator(model, seed, k), part_of(progress, i, len(parts))
        z = part.flatten(0, 1).to(model.device)
        own = None if labels is None else labels[k * CHUNK : (k + 1) * CHUNK]
        made = decode_chunk(model, z, num_points, draws, frames=len(part), labels=own, progress=moved, **options)
        rows.setdefault(k, []).append(made.unflatten(0, part.shape[:2]))
    return torch.cat([torch.cat(frames) for frames in rows.values()], dim=1).transpose(0, 1)


@checked
def arithmetic(
    model: PointCloudModel, a: Tensor, b: Tensor, c: Tensor, num_points: int, seed: int, **options: Any
) -> Tensor:
    """Decode the codes `a - b + c`: what `a` has more than `b`, put on `c` (Achlioptas et al., 2018).

    Args:
        model: a trained model.
        a: clouds `(n, N, 3)`.
        b: as many.
        c: as many.
        num_points: points of each result.
        seed: of every draw.
        **options: see `pcdiff.models.sampling.decode_chunk`.

    Returns:
        `(n, num_points, 3)`.

    Raises:
        InputError: the numbers of clouds differ.

    Example:
        >>> made = arithmetic(model, with_arms, without_arms, other, 2048, seed=0)  # other, with arms
    """
    _check_paired(a=a, b=b, c=c)
    return decode(model, encode(model, a) - encode(model, b) + encode(model, c), num_points, seed, **options)


class Inversion(NamedTuple):
    """What a cloud is made from, and the cloud made from it again.

    Attributes:
        code: `(n, F)`.
        noise: x_T, `(n, N, 3)`.
        clouds: what the same sampler makes of the two, `(n, N, 3)`.
    """

    code: Tensor
    noise: Tensor
    clouds: Tensor


@checked
def invert(
    model: PointCloudModel,
    x: Tensor,
    *,
    sampler: str = "ddim",
    num_steps: int | None = None,
    grid: str | None = None,
    labels: Tensor | None = None,
    report: SamplingReport | None = None,
    progress: Progress | None = None,
) -> Inversion:
    """Find the code and the noise x_T that a deterministic sampler makes clouds of, and make them again.

    The sampler runs backwards from the smallest time with noise, at which the cloud itself stands in for x (Song,
    Meng & Ermon, DDIM, 2021, section 5.4); the fewer steps, the further that time lies from the data.

    Args:
        model: a trained model.
        x: clouds `(n, N, 3)`.
        sampler: a predictor that is `invertible`, one of `pcdiff.diffusion.invertible_predictors()`.
        num_steps: steps of either direction; the whole chain by default.
        grid: name of the time grid, a key of `pcdiff.diffusion.GRIDS`; the sampler's own by default.
        labels: of the clouds' classes `(n,)`, of a class-conditional model; None stands for no class. There is no
            guidance.
        report: the evaluations of both directions are added to it.
        progress: see `pcdiff.diffusion.sample`; called in both directions.

    Raises:
        InputError: the sampler has no inverse, or as `pcdiff.diffusion.sample`.

    Example:
        >>> code, noise, again = invert(model, x, sampler="heun")
    """
    step = predictor(sampler)
    if not attribute_of(step, "invertible"):
        known = ", ".join(invertible_predictors())
        raise InputError(f"sampler must be deterministic to be inverted, one of {known}, got {sampler!r}")
    report = SamplingReport() if report is None else report
    plan = {"num_steps": num_steps, "grid": grid, "progress": progress}
    made = []
    # no draws here; the chunks bound the memory
    for _, own, code, here in _parts(model, 0, labels, encode(model, x), x):
        up, down = SamplingReport(), SamplingReport()
        denoiser, cond = model.conditioned(code, own, guidance=1.0)
        noise = diffusion.invert(denoiser, here, cond=cond, sampler=step, report=up, **plan)
        told = {"labels": own, "guidance": 1.0}
        back = model.decode(code, x.shape[1], sampler=sampler, x_init=noise, report=down, **told, **plan)
        report.num_steps, report.evaluations = (
            down.num_steps,
            report.evaluations + up.evaluations + down.evaluations,
        )
        made.append(Inversion(code.cpu(), noise.cpu(), back.cpu()))
    found = Inversion(*map(torch.cat, zip(*made, strict=True)))
    for part, name in zip(found, ("codes", "noises", "clouds"), strict=True):
        check_finite(part, name)
    return found


class CloudLikelihood(NamedTuple):
    """How likely clouds are given their codes, and the codes under the prior.

    Attributes:
        nats_per_dim: -log p(x | z) / (3 N), the negative log-likelihood of the points given the code, in nats a
            coordinate, `(n,)` float64; lower is better. It is no likelihood of the cloud alone.
        latent_log_prob: log p(z) of the code under the prior, in nats `(n,)`; higher is better; None where the
            model has no prior.
        evaluations: of the net, over all clouds.
    """

    nats_per_dim: Tensor
    latent_log_prob: Tensor | None
    evaluations: int


@checked
def log_likelihood(
    model: PointCloudModel,
    x: Tensor,
    seed: int,
    *,
    trace: str = "pointwise",
    labels: Tensor | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> CloudLikelihood:
    """Return the probability flow's log-likelihood of clouds given their codes, and the codes' own under the prior.

    Args:
        model: a trained model.
        x: clouds `(n, N, 3)`; the density is that of the model's normalization.
        seed: of a drawn trace.
        trace: as in `pcdiff.diffusion.log_likelihood`; `pointwise` is exact for PointwiseNet.
        labels: of the clouds' classes `(n,)`, of a class-conditional model, which it is then the likelihood given;
            None stands for no class.
        progress: called as `progress(clouds done, n)`.
        **options: see `pcdiff.diffusion.log_likelihood`.

    Raises:
        InputError: see `pcdiff.diffusion.log_likelihood`.

    Example:
        >>> log_likelihood(model, x, seed=0).nats_per_dim  # (n,)
    """
    z = encode(model, x)
    prior = model.latent_log_prob(z, labels).cpu() if isinstance(model, Latent) else None
    cond = model.net_condition(z, model.labels(labels, len(z)))
    values, evaluations = [], 0
    # one by one: the solver's steps fit the cloud, and its result owes nothing to the others
    for i, cloud in enumerate(x.to(z).split(1)):
        draws = rng.generator(seed, "likelihood", i, device=z.device)
        own = None if cond is None else cond[i : i + 1]
        result = diffusion.log_likelihood(model.denoiser, cloud, own, trace=trace, generator=draws, **options)
        values.append(nats_per_dim(result.log_likelihood, x.shape[1:]).cpu())
        evaluations += result.evaluations
        if progress is not None:
            progress(i + 1, len(x))
    for part in (torch.cat(values), prior):
        if part is not None:
            check_finite(part, "likelihoods")
    return CloudLikelihood(torch.cat(values), prior, evaluations)


def _parts(model: PointCloudModel, seed: int, labels: Tensor | None, *batches: Tensor) -> Iterator[tuple[Any, ...]]:
    """Yield each chunk's source of draws, its labels if any, and its rows of the batches on the model's device."""
    for k, rows in enumerate(zip(*(batch.split(CHUNK) for batch in batches), strict=True)):
        own = None if labels is None else labels[k * CHUNK : (k + 1) * CHUNK]
        yield decoding_generator(model, seed, k), own, *(part.to(model.device) for part in rows)


def _check_paired(**clouds: Tensor) -> None:
    counts = {name: len(batch) for name, batch in clouds.items()}
    if len(set(counts.values())) > 1:
        came = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"{', '.join(counts)} must hold as many clouds each, got {came}")
