"""The command `inverse`: super-resolution and compressed sensing."""

from collections.abc import Callable

import torch
from torch import Tensor

from image_pipeline.commands.flags import Inverse
from image_pipeline.commands.restoration import restored
from image_pipeline.commands.trained_model import Trained
from pcdiff.diffusion import (
    Denoiser,
    Linear,
    MeasurementGuidance,
    average,
)
from pcdiff.errors import InputError
from pcdiff.runtime import rng

_FACTOR, _MEASUREMENTS = 2, 32


def inverse(command: Inverse, trained: Trained) -> str:
    """Keep block averages, or random projections."""
    if command.noise is not None and (command.settle or command.strength != 1):
        raise InputError("--settle and --strength are of replacement; --noise follows the gradient, leave them out")
    solve = {"super-resolution": _enlarge, "compressed-sensing": _sense}
    return solve[command.problem](command, trained)


def _enlarge(command: Inverse, trained: Trained) -> str:
    channels, height, width = trained.model.image_shape
    factor = command.factor or _FACTOR
    if height % factor or width % factor:
        raise InputError(f"--factor must divide the images' {height}x{width}, got {factor}")
    small = (channels, height // factor, width // factor)
    try:
        full = trained.read(command.input)
        low = torch.nn.functional.avg_pool2d(full, factor)
    except InputError as refused:
        try:
            low = trained.read(command.input, small)
        except InputError:
            raise refused from None
        full = None
    if command.noise is None:
        process = trained.model.denoiser.process
        made = restored(trained, average(process, low, factor, (2, 3), command.strength), len(low))
    else:
        made = _followed(trained, low, lambda x: torch.nn.functional.avg_pool2d(x, factor))
    shown = low.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return trained.write(made, pictured=(shown, made) if full is None else (full, shown, made))


def _sense(command: Inverse, trained: Trained) -> str:
    full = trained.read(command.input)
    size, measurements = full[0].numel(), command.measurements or _MEASUREMENTS
    if measurements > size:
        raise InputError(f"--measurements must be at most the {size} numbers of an image")
    generator = rng.generator(command.seed, "projections")
    rows = torch.randn(measurements, size, generator=generator, dtype=torch.float64)
    # orthonormal: each measurement has the noise of one number
    matrix = torch.linalg.qr(rows.T)[0].T.float().to(trained.device)
    known = full.flatten(1) @ matrix.T
    if command.noise is None:
        constraint = Linear(trained.model.denoiser.process, known, matrix, command.strength)
        made = restored(trained, constraint, len(full))
    else:
        made = _followed(trained, known, matrix)
    blurred = (known @ matrix).view_as(full)  # the minimum-norm image of the measurements
    error = float((made - full).square().mean().sqrt())
    line = trained.write(made, pictured=(full, blurred, made))
    return f"{line}; {measurements} of {size} numbers known, RMS error {error:.3f}"


def _followed(trained: Trained, known: Tensor, operator: Tensor | Callable[[Tensor], Tensor]) -> Tensor:
    """Draw images by the gradient of measurements."""
    command, model = trained.command, trained.model
    low, high = model.data_range
    data_std = model.config.process.sigma_data or (high - low) / 4

    def guide(denoiser: Denoiser) -> Denoiser:
        return MeasurementGuidance(denoiser, known, operator, command.noise, data_std=data_std)

    return restored(trained, None, len(known), guide)
