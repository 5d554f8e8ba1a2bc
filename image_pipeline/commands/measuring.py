"""What the command `likelihood` does."""

import math
from typing import Any

import torch
from torch import Tensor

from image_pipeline.commands.flags import Likelihood
from image_pipeline.commands.model import Trained
from image_pipeline.data import RANGES
from image_pipeline.loading import open_own_data
from image_pipeline.writing import read_images
from pcdiff import rng
from pcdiff.diffusion import bits_per_dim, log_likelihood
from pcdiff.errors import InputError
from pcdiff.finite import check_finite
from pcdiff.runs import write_json


def likelihood(command: Likelihood, trained: Trained) -> str:
    """Return bits a dimension of images, dequantised uniformly (Theis et al., 2016)."""
    model = trained.model
    images, labels, what = _images(command, trained)
    values, evaluations = [], 0
    batches = list(torch.arange(len(images)).split(command.batch_size))
    for k, rows in enumerate(batches):
        cond = model.condition(None if labels is None else labels[rows], len(rows))
        repeated = torch.zeros(len(rows), dtype=torch.float64)
        for r in range(command.repeats):
            generator = rng.generator(command.seed, "likelihood", k, r, device=trained.device)
            x = _dequantised(images[rows].to(trained.device), model.config.data.data_range, generator)
            found = log_likelihood(
                model.denoiser,
                x,
                cond,
                trace=command.trace,
                generator=generator,
                rtol=command.tolerance,
                atol=command.tolerance,
            )
            evaluations += found.evaluations
            bits = bits_per_dim(found.log_likelihood, x.shape[1:], model.data_range)
            repeated += bits.cpu().double() / command.repeats
            trained.progress(k * command.repeats + r + 1, len(batches) * command.repeats)
        values.append(repeated)
    bits = check_finite(torch.cat(values), "likelihoods")
    error = float(bits.std()) / math.sqrt(len(bits)) if len(bits) > 1 else 0.0
    line = (
        f"likelihood: {float(bits.mean()):.4f} bits/dim (standard error {error:.4f}) over {len(bits)} images of "
        f"{what}, {evaluations} network evaluations"
    )
    if command.output is None:
        return line
    result: dict[str, Any] = {
        "bits_per_dim": bits.tolist(),
        "mean": float(bits.mean()),
        "standard_error": error,
        "images": what,
        "dequantisation": f"uniform, {command.repeats} draws",
        "trace": command.trace,
        "tolerance": command.tolerance,
        "labelled": command.labelled,
        "label": command.label,
        "seed": command.seed,
        "checkpoint": str(model.file),
        "step": model.metadata["step"],
    }
    write_json(command.output, result)
    return f"{line} -> {command.output}"


def _images(command: Likelihood, trained: Trained) -> tuple[Tensor, Tensor | None, str]:
    """Return uint8 images, their classes where they are asked for, and what they are."""
    model = trained.model
    if command.input is not None:
        if command.labelled:
            raise InputError("--labelled goes with the run's own data; files of images have one class, --label")
        if command.split is not None:
            raise InputError("--split is of the run's own data; files of --input are read whole")
        images, what = read_images(command.input, model.image_shape), str(command.input)
        labels = trained.labels(command.label, len(images))
    else:
        if command.label is not None:
            raise InputError("--label goes with --input; --labelled takes the classes of the run's own data")
        split = command.split or "test"
        dataset = open_own_data(model, split, "--input")
        if command.labelled and dataset.labels is None:
            raise InputError("--labelled: the run's data have no classes")
        images, what = dataset.images, f"{dataset.identity.name}, {split} split"
        labels = dataset.labels if command.labelled else None
    count = len(images) if command.num_images is None else min(command.num_images, len(images))
    return images[torch.arange(count)], None if labels is None else labels[:count], what


def _dequantised(images: Tensor, data_range: str, generator: torch.Generator) -> Tensor:
    low, high = RANGES[data_range]
    noise = torch.rand(images.shape, generator=generator, device=images.device)
    return (images + noise) / 256 * (high - low) + low
