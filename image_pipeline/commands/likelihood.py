"""What the command `likelihood` does."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from image_pipeline.commands.flags import Likelihood
from image_pipeline.commands.trained_model import Trained
from image_pipeline.data import RANGES
from image_pipeline.data.image_files import read_images
from image_pipeline.models.loading import open_own_data
from pcdiff.diffusion import (
    bits_per_dim,
    chain_bound,
    continuous_bound,
    dequantization,
    fit_dequantization,
    log_likelihood,
)
from pcdiff.errors import InputError
from pcdiff.runtime import rng
from pcdiff.runtime.nonfinite import check_finite
from pcdiff.runtime.run_folder import write_json

_TRACE, _TOLERANCE, _NUM_TIMES = "rademacher", 1e-5, 32
_WIDTH, _STEPS, _FITTING_TIMES = 32, 300, 2  # of the net that dequantizes by the pixels around, and of its training


def likelihood(command: Likelihood, trained: Trained) -> str:
    """Return bits a dimension of images, dequantized (Theis et al., 2016; Ho et al., Flow++, 2019)."""
    model = trained.model
    images, labels, what = _images(command, trained)
    values, evaluations = [], 0
    dequantize = _dequantization(command, trained, images, labels)
    batches = list(torch.arange(len(images)).split(command.batch_size))
    for k, rows in enumerate(batches):
        cond = model.condition(None if labels is None else labels[rows], len(rows))
        repeated = torch.zeros(len(rows), dtype=torch.float64)
        for r in range(command.repeats):
            generator = rng.generator(command.seed, "likelihood", k, r, device=trained.device)
            with torch.no_grad():
                levels, log_q = dequantize(images[rows].to(trained.device), generator)
            x = _in_range(levels, model.config.data.data_range)
            log_p, cost = _log_density(command, trained, x, cond, generator)
            evaluations += cost
            bits = bits_per_dim(log_p - log_q, x.shape[1:], model.data_range)
            repeated += bits.cpu().double() / command.repeats
            trained.progress(k * command.repeats + r + 1, len(batches) * command.repeats)
        values.append(repeated)
    bits = check_finite(torch.cat(values), "likelihoods")
    error = float(bits.std()) / math.sqrt(len(bits)) if len(bits) > 1 else 0.0
    bound = "at most " if command.method == "bound" else ""
    line = (
        f"likelihood: {bound}{float(bits.mean()):.4f} bits/dim (standard error {error:.4f}) over {len(bits)} "
        f"images of {what}, {evaluations} network evaluations"
    )
    if command.output is None:
        return line
    result: dict[str, Any] = {
        "bits_per_dim": bits.tolist(),
        "mean": float(bits.mean()),
        "standard_error": error,
        "images": what,
        "method": command.method,
        "num_times": command.num_times,
        "dequantization": f"{command.dequantization}, {command.repeats} draws",
        "dequantization_steps": command.dequantization_steps,
        "trace": command.trace or (_TRACE if command.method == "flow" else None),
        "tolerance": command.tolerance or (_TOLERANCE if command.method == "flow" else None),
        "labeled": command.labeled,
        "label": command.label,
        "seed": command.seed,
        "checkpoint": str(model.file),
        "step": model.metadata.get("step"),
    }
    write_json(command.output, result)
    return f"{line} -> {command.output}"


def _images(command: Likelihood, trained: Trained) -> tuple[Tensor, Tensor | None, str]:
    """Return uint8 images, their classes where they are asked for, and what they are."""
    model = trained.model
    if command.input is not None:
        if command.labeled:
            raise InputError("--labeled goes with the run's own data; files of images have one class, --label")
        if command.split is not None:
            raise InputError("--split is of the run's own data; files of --input are read whole")
        images, what = read_images(command.input, model.image_shape), str(command.input)
        labels = trained.labels(command.label, len(images))
    else:
        if command.label is not None:
            raise InputError("--label goes with --input; --labeled takes the classes of the run's own data")
        split = command.split or "test"
        dataset = open_own_data(model, split, "--input")
        if command.labeled and dataset.labels is None:
            raise InputError("--labeled: the run's data have no classes")
        images, what = dataset.images, f"{dataset.identity.name}, {split} split"
        labels = dataset.labels if command.labeled else None
    count = len(images) if command.num_images is None else min(command.num_images, len(images))
    return images[torch.arange(count)], None if labels is None else labels[:count], what


def _log_density(
    command: Likelihood, trained: Trained, x: Tensor, cond: Any, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Return log p(x) `(B,)` in nats, or a bound below it, and the network evaluations it took."""
    denoiser = trained.model.denoiser
    if command.method == "flow":
        tolerance, trace = command.tolerance or _TOLERANCE, command.trace or _TRACE
        found = log_likelihood(denoiser, x, cond, trace=trace, generator=generator, rtol=tolerance, atol=tolerance)
        return found.log_likelihood, found.evaluations
    nats = -math.log(2) * x[0].numel()
    if (steps := denoiser.process.num_steps) is not None:
        if command.num_times is not None:
            raise InputError(f"--num-times is of processes in continuous time; this chain's bound takes {steps}")
        return nats * chain_bound(denoiser, x, cond, generator=generator).total, steps
    num_times = command.num_times or _NUM_TIMES
    with torch.no_grad():
        bound = continuous_bound(denoiser, x, cond, num_times=num_times, generator=generator)
    return nats * bound.total, num_times + 1


def _dequantization(command: Likelihood, trained: Trained, images: Tensor, labels: Tensor | None) -> nn.Module:
    """Return the noise that makes images continuous, learned on them where that is asked for."""
    if command.dequantization == "uniform":
        return dequantization("uniform")
    model = trained.model
    if model.denoiser.process.num_steps is not None:
        raise InputError("--dequantization variational needs a process in continuous time, got a chain")
    channels, nats = model.image_shape[0], -math.log(2) * math.prod(model.image_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.number(command.seed, "dequantisation"))
        last = nn.Conv2d(_WIDTH, 2 * channels, 3, padding=1)
        net = nn.Sequential(nn.Conv2d(channels, _WIDTH, 3, padding=1), nn.SiLU(), last)
    for parameter in last.parameters():  # it starts from uniform noise
        nn.init.zeros_(parameter)
    generator = rng.generator(command.seed, "dequantisation", device=trained.device)

    def log_density(values: Tensor, rows: Tensor) -> Tensor:
        cond = model.condition(None if labels is None else labels[rows.to(labels.device)], len(rows))
        x = _in_range(values, model.config.data.data_range)
        bound = continuous_bound(model.denoiser, x, cond, num_times=_FITTING_TIMES, generator=generator)
        return nats * bound.total

    noise = dequantization("variational", net=net).to(trained.device)
    steps = command.dequantization_steps or _STEPS
    return fit_dequantization(noise, log_density, images.to(trained.device), steps=steps, generator=generator)


def _in_range(levels: Tensor, data_range: str) -> Tensor:
    low, high = RANGES[data_range]
    return levels / 256 * (high - low) + low
