"""What the commands with a model share: open it, merge how it samples, write what it made."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from image_pipeline.commands.flags import Command, WritesImages
from image_pipeline.configs import SamplingConfig
from image_pipeline.data import to_bytes, to_range
from image_pipeline.data.image_files import read_images, save_images
from image_pipeline.model import ImageModel
from image_pipeline.models.loading import load_model
from image_pipeline.viz import save_grid
from pcdiff.diffusion import Denoiser, SamplingReport
from pcdiff.diffusion.samplers.base import Progress
from pcdiff.errors import InputError
from pcdiff.runtime import rng
from pcdiff.runtime.devices import prepare, resolve_device


@dataclass
class Trained:
    """A model, what was asked of it, and the cost of what is done with it."""

    model: ImageModel
    command: Any  # the flags of the command at hand
    progress: Progress
    started: float = field(default_factory=time.perf_counter)
    report: SamplingReport = field(default_factory=SamplingReport)

    @classmethod
    def open(cls, command: Command, progress: Progress) -> "Trained":
        """Load the command's run.

        Raises:
            InputError: no run, or a checkpoint that is damaged or of something else.
        """
        device = prepare(resolve_device(command.device))
        model = load_model(command.run, command.checkpoint).to(device)
        if isinstance(command, WritesImages):
            check_guidance(model, command.sampling)
        return cls(model, command, progress)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.denoiser.process.device

    @property
    def settings(self) -> SamplingConfig:
        """How images are drawn: as asked, else by the run's settings."""
        return merged(self.model.config.sampling, self.command.sampling)

    def generator(self, what: str) -> torch.Generator:
        """Return the source of a command's draws."""
        return rng.generator(self.command.seed, what, device=self.device)

    def options(self) -> dict[str, Any]:
        """Return the options of every sampling."""
        return {"report": self.report, "progress": self.progress}

    def read(self, path: Path, shape: tuple[int, int, int] | None = None) -> Tensor:
        """Read images `(n, C, H, W)`, as many as the command asks for, into the model's range.

        Args:
            path: see `read_images`.
            shape: (C, H, W) that they must have; the model's by default.

        Raises:
            InputError: they cannot be read, or are of another size.
        """
        wanted = {"split": getattr(self.command, "split", None), "count": getattr(self.command, "num_images", None)}
        images = read_images(path, shape or self.model.image_shape, **wanted)
        return to_range(images, self.model.config.data.data_range).to(self.device)

    def labels(self, label: int | None, count: int) -> Tensor | None:
        """Return one class for all images, or None.

        Raises:
            InputError: there is no such class.
        """
        known = self.model.num_classes
        if label is not None and known is not None and not 0 <= label < known:
            raise InputError(f"--label must be in 0..{known - 1}, got {label}")
        return None if label is None else torch.full((count,), label, device=self.device)

    def conditioned(self, label: int | None, count: int) -> tuple[Tensor | None, Denoiser]:
        """Return the condition for one class of all images, or none, and the denoiser that follows it."""
        labels, scale = self.labels(label, count), self.settings.guidance
        guided = self.model.guided(1.0 if label is None or scale is None else scale)
        return self.model.condition(labels, count), guided

    def quantized(self, images: Tensor) -> Tensor:
        """Return images of the model's range as uint8, on the CPU."""
        return to_bytes(images.cpu(), self.model.config.data.data_range)

    def write(self, made: Tensor, pictured: Sequence[Tensor] = (), columns: int | None = None) -> str:
        """Write images, and a grid of them; return what was done in one line.

        Args:
            made: `(n, C, H, W)` in the model's range.
            pictured: rows of the grid, each `(n, C, H, W)`, one above the other for every image; `made` alone by
                default.
            columns: images in a row of the grid.
        """
        command: WritesImages = self.command
        images = self.quantized(made)
        arrays = command.output.with_suffix(".npz")
        save_images(arrays, images)
        shown = images
        if pictured:
            columns = min(len(made), columns or 10)
            rows = [self.quantized(row).split(columns) for row in pictured]
            # the rows of one image stand above each other; the last may be short
            shown = torch.cat([_filled(part, columns) for parts in zip(*rows, strict=True) for part in parts])
        save_grid(command.output, shown, columns)
        name = type(command).__name__.lower()
        cost = f"{self.report.evaluations} network evaluations, {time.perf_counter() - self.started:.1f} s"
        shape = "x".join(map(str, images.shape[1:]))
        return f"{name}: {len(images)} images {shape}, {cost} -> {command.output}, {arrays}"


def check_guidance(model: ImageModel, asked: SamplingConfig) -> None:
    """Refuse guidance that would do nothing.

    Raises:
        InputError: the model is not conditioned on classes.
    """
    if asked.guidance is not None and model.num_classes is None:
        raise InputError("--guidance stresses a class, and this model is not conditioned on classes")


def merged(own: SamplingConfig, asked: SamplingConfig) -> SamplingConfig:
    """Return the run's settings with what was asked in their place.

    Another sampler takes nothing from the run but its guidance: steps and grid belong together. Another corrector
    takes nothing of the run's corrector.
    """
    given = {name: value for name, value in vars(asked).items() if value is not None}
    if given.get("sampler", own.sampler) != own.sampler:
        own = SamplingConfig(guidance=own.guidance)
    elif given.get("corrector", own.corrector) != own.corrector:
        own = replace(own, corrector=None, corrector_steps=None, snr=None, step_size=None)
    return replace(own, **given)


def _filled(images: Tensor, count: int) -> Tensor:
    white = images.new_full((count - len(images), *images.shape[1:]), 255)
    return torch.cat([images, white])
