"""What the commands do that keep what is known of images: inpainting, colours, super-resolution, sensing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from image_pipeline.commands.flags import Colorize, Inpaint, Inverse, Restoring
from image_pipeline.commands.trained_model import Trained, merged
from image_pipeline.configs import SamplingConfig
from image_pipeline.data.transforms import read_image
from image_pipeline.model import predictor_of, sampler_of
from pcdiff import diffusion
from pcdiff.diffusion import (
    ConstrainedCorrector,
    Constraint,
    Denoiser,
    Linear,
    MeasurementGuidance,
    attribute_of,
    average,
    corrector,
)
from pcdiff.errors import InputError
from pcdiff.runtime import rng
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.precision import autocast

_FACTOR, _MEASUREMENTS, _SETTLE_SNR = 2, 32, 0.16
_GREY = 0.5  # of the range: what is unknown, in pictures


def inpaint(command: Inpaint, trained: Trained) -> str:
    """Keep the part of the images under the mask, draw the rest."""
    known = trained.read(command.input)
    mask = read_mask(command.mask, trained.model.image_shape).to(trained.device)
    made = _restored(trained, diffusion.Inpaint(trained.model.denoiser.process, known, mask), len(known))
    shown = torch.where(mask, known, _middle(trained))
    return trained.write(made, pictured=(known, shown, made))


def colorize(command: Colorize, trained: Trained) -> str:
    """Keep the mean over the channels, draw the colours."""
    shape = trained.model.image_shape
    if shape[0] == 1:
        raise InputError(f"{command.run}: this model's images are grey; colorize needs one of colour images")
    gray = trained.read(command.input).mean(dim=1, keepdim=True)
    made = _restored(trained, diffusion.Colorize(trained.model.denoiser.process, gray), len(gray))
    return trained.write(made, pictured=(gray.expand(-1, shape[0], -1, -1), made))


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
        made = _restored(trained, average(process, low, factor, (2, 3), command.strength), len(low))
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
        made = _restored(trained, constraint, len(full))
    else:
        made = _followed(trained, known, matrix)
    blurred = (known @ matrix).view_as(full)  # what the measurements say by themselves
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

    return _restored(trained, None, len(known), guide)


def _restored(
    trained: Trained,
    constraint: Constraint | None,
    count: int,
    guide: Callable[[Denoiser], Denoiser] | None = None,
) -> Tensor:
    """Draw images that keep to a constraint, or are guided."""
    command: Restoring = trained.command
    model, settings = trained.model, trained.settings
    own = predictor_of(settings)
    draws = attribute_of(own, "stochastic") or attribute_of(own, "needs_corrector")
    if command.sampling.sampler is None and not draws:
        # in the place of a deterministic one; a chain takes all its steps
        spread = {} if model.denoiser.process.num_steps is not None else {"num_steps": 100}
        settings = merged(SamplingConfig(sampler="ancestral", **spread), command.sampling)
    sampler = sampler_of(settings)
    if command.settle:
        step = sampler.corrector
        if step is not None and command.settle_snr is not None:
            raise InputError(
                f"--settle-snr is not of the corrector {settings.corrector}, which settles; give --snr"
            )
        step = step or corrector("langevin", snr=command.settle_snr or _SETTLE_SNR)
        sampler = replace(sampler, corrector=ConstrainedCorrector(step, constraint, command.settle))
    cond, denoiser = trained.told(command.label, count)
    denoiser = denoiser if guide is None else guide(denoiser)
    with autocast(command.precision, trained.device):
        return sampler(
            denoiser,
            (count, *model.image_shape),
            cond=cond,
            constraint=constraint,
            generator=trained.generator(type(command).__name__),
            **trained.options(),
        )


def read_mask(mask: str, shape: tuple[int, int, int]) -> Tensor:
    """Return what is known as booleans `(H, W)`, by name or from a file.

    Raises:
        InputError: no such name or file, another shape than the images', or other values than 0 and 1.
    """
    _, height, width = shape
    if mask in _NAMED:
        known = torch.zeros(height, width, dtype=torch.bool)
        known[_NAMED[mask](height, width)] = True
        return ~known if mask == "outside" else known
    path = Path(mask)
    if not is_file(path):
        raise InputError(f"--mask must be one of {', '.join(_NAMED)} or a file, got {mask}")
    if path.suffix == ".npy":
        try:
            values = np.load(path, allow_pickle=False)
        except Exception as error:  # the header is Python text, and its parser raises what it likes
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(f"{path}: cannot be read as a mask ({reason})") from None
        if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
            raise InputError(f"{path}: a mask must hold 0 and 1 only, 1 where the image is known")
        known = torch.from_numpy(values.astype(bool))
    else:
        known = torch.from_numpy(read_image(path, 1)[0] >= 128)
    if known.shape != (height, width):
        raise InputError(f"{path}: the mask must be {height}x{width} as the images, got {_by(known.shape)}")
    return known


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _middle(trained: Trained) -> float:
    low, high = trained.model.data_range
    return low + _GREY * (high - low)


_NAMED = {
    "upper": lambda h, w: (slice(0, h // 2), slice(None)),
    "lower": lambda h, w: (slice(h // 2, None), slice(None)),
    "left": lambda h, w: (slice(None), slice(0, w // 2)),
    "right": lambda h, w: (slice(None), slice(w // 2, None)),
    "outside": lambda h, w: (slice(h // 4, h - h // 4), slice(w // 4, w - w // 4)),
}
