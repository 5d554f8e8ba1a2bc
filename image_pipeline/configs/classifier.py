"""One training of a classifier of noisy images: every field is a flag of `train-classifier`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from image_pipeline.configs.config import DataConfig, ImageTrainConfig
from pcdiff.config import from_dict
from pcdiff.errors import InputError
from pcdiff.nets import ClassifierConfig
from pcdiff.runtime.json_files import read_json
from pcdiff.runtime.paths import is_file

_PLAIN = tyro.conf.arg(name="")  # its fields are flags without a prefix


@dataclass(frozen=True)
class ClassifierNetConfig:
    """What is built: the encoding half of ADM's UNet (Dhariwal & Nichol, 2021, section 4.3)."""

    model_channels: int = 32
    """Width that `channel_mult` multiplies (ADM: 128)."""
    channel_mult: tuple[float, ...] = (1, 2)
    """Widths at each level, from the full size down; the size must be divisible by 2 to their number less one."""
    num_res_blocks: int = 2
    """Residual blocks at each level (ADM: 2)."""
    attention_factors: tuple[int, ...] = (2,)
    """Downsample factors of the levels with attention."""
    num_head_channels: int = 16
    """Channels of an attention's head (ADM: 64)."""
    norm_groups: int = 8
    """Most groups of a group norm (ADM: 32)."""
    pool: Literal["attention", "adaptive", "spatial", "spatial_v2"] = "attention"
    """How positions become one answer: attention (ADM's own), adaptive (their mean), or means at all levels."""
    dropout: float = 0.1
    """Share of a residual block's activations dropped in training."""

    def built(self, image_shape: tuple[int, int, int], classes: int) -> ClassifierConfig:
        """Return the net's whole config for images `(C, H, W)`.

        Raises:
            InputError: the images are not square, or a value does not fit them.
        """
        channels, height, width = image_shape
        if height != width:
            raise InputError(f"a classifier needs square images, got {height}x{width}")
        return ClassifierConfig(
            in_channels=channels,
            out_channels=classes,
            image_size=height,
            downsample="resblock",
            upsample="resblock",
            **vars(self),
        )


@dataclass(frozen=True)
class ClassifierObjectiveConfig:
    """How times are drawn; the guided run's own by default."""

    time_draw: Literal["uniform", "importance", "log_normal", "log_uniform"] = "uniform"
    """How training times are drawn; by default as the guided run drew its own."""
    time_mean: float = -1.2
    """Of log sigma, for log_normal."""
    time_std: float = 1.2
    """Of log sigma, for log_normal."""


@dataclass(frozen=True)
class ClassifierRunConfig:
    """Train a classifier of noisy images, which guides a trained model (`sample --classifier`).

    It learns on the model's own process, range, size and label of time; data and times are by default the run's.
    """

    run: Path | None = None
    """The run that it will guide: a folder, or a checkpoint file."""
    out: Path | None = None
    """The classifier's folder; a new one under runs/ by default."""
    resume: Path | None = None
    """Resume the training in this folder, exactly where it stopped."""
    seed: int = 2020
    """Seed of every random draw."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    threads: int | None = None
    """CPU threads of the training; all by default."""
    imports: Annotated[tuple[Path, ...], tyro.conf.arg(name="import")] = ()
    """Python files that are run first, for a run that was made with parts of your own (docs/diffusion.md)."""
    model: ClassifierNetConfig = field(default_factory=ClassifierNetConfig)
    data: Annotated[DataConfig, _PLAIN] = field(default_factory=DataConfig)
    objective: Annotated[ClassifierObjectiveConfig, _PLAIN] = field(default_factory=ClassifierObjectiveConfig)
    train: Annotated[ImageTrainConfig, _PLAIN] = field(
        default_factory=lambda: ImageTrainConfig(
            max_iters=2000,
            batch_size=64,
            lr=1e-3,
            end_lr=1e-5,
            lr_schedule="cosine",
            lr_decay_start=0,
            lr_decay_end=2000,
            warmup_iters=100,
            max_grad_norm=1.0,
            ema_decay=0.999,
            log_every=50,
            save_every=500,
            val_every=500,
        )
    )


def read_classifier_config(folder: Path) -> ClassifierRunConfig:
    """Read a classifier's resolved config.

    Raises:
        InputError: the folder is no classifier's, or its config is damaged.
    """
    path = folder / "config.json"
    if not is_file(path):
        raise InputError(f"{folder}: no classifier's folder (no config.json); expected what train-classifier made")
    return from_dict(ClassifierRunConfig, read_json(path), str(path))
