"""One training run on images: frozen dataclasses, every field of which is a flag."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from image_pipeline.configs.parts import check_parts
from image_pipeline.nets import MODELS
from pcdiff.config import ObjectiveConfig, ProcessConfig, SamplingConfig, TrainConfig
from pcdiff.config.listed import listed
from pcdiff.errors import InputError, UnknownName
from pcdiff.nets import UNetConfig
from pcdiff.runtime.dataclass_json import from_dict
from pcdiff.runtime.invocation import command_line
from pcdiff.runtime.json_files import read_json
from pcdiff.runtime.paths import is_file

_PLAIN = tyro.conf.arg(name="")  # its fields are flags without a prefix


@dataclass(frozen=True)
class ImageTrainConfig(TrainConfig):
    """How it is trained: the fields of `TrainConfig`, in the words of images."""

    batch_size: int = 128
    """Images in a batch, over all processes (images)."""
    compile: bool = False
    """Compile the net with torch.compile (up to a minute at the start)."""
    val_clouds: int = 100
    """Of point clouds; how many images are validated is --held-out's."""
    val_points: int = 2048
    """Of point clouds; images are compared whole."""


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    dataset_path: Path = Path("digits")
    """`digits` (scikit-learn's), a folder, zip or lmdb of images, or arrays (.npz, .npy)."""
    size: int | None = None
    """Bring every image to this side; by default they stay as they are (pixels)."""
    crop: int | None = None
    """Side of the central square that is cut out first; the shorter side by default (pixels)."""
    filter: Literal["lanczos", "bicubic", "bilinear", "box"] = "lanczos"
    """Filter of the resize."""
    channels: Literal[1, 3] | None = None
    """1 (gray) or 3 (color); the images' own by default."""
    labels: str = "auto"
    """Where classes come from: auto, none, folders, names, ... (see docs/images.md)."""
    flip: bool = False
    """Mirror training images left to right with probability one half."""
    augment: float | None = None
    """Probability that a training image is scaled, turned, stretched, moved; the net (song) takes the label.
    None leaves that out, and mirroring is then --flip's."""
    dequantize: bool = False
    """Add uniform noise of one gray level to training images; likelihoods always do."""
    data_range: Literal["unit", "symmetric"] = "symmetric"
    """Range of the images: `unit` [0, 1] or `symmetric` [-1, 1]."""
    held_out: int = 100
    """Training images kept back for the validation; at most a tenth of them (images)."""

    FORMER_NAMES: ClassVar[dict[str, str]] = {"dequantise": "dequantize"}


def _digits_net() -> UNetConfig:
    return UNetConfig(
        in_channels=1,
        out_channels=1,
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_factors=(),
        norm_groups=8,
        num_classes=10,
        null_class=True,
        dropout=0.1,
    )


@dataclass(frozen=True)
class ImageRunConfig:
    """Train a score model for images."""

    preset: str = "digits/quick"
    """Defaults of all other flags; the command `configs` lists them."""
    out: Path | None = None
    """The run's folder; a new one under runs/ by default."""
    resume: Path | None = None
    """Resume the run in this folder, exactly where it stopped."""
    dry_run: bool = False
    """Print what differs from the preset, images found, sizes, memory and the time of a step, then exit; nothing is
    written."""
    show_config: bool = False
    """With --dry-run: print the whole resolved config."""
    seed: int = 2020
    """Seed of every random draw."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    threads: int | None = None
    """CPU threads of the training; all by default. One is quickest for tiny images where other programs run."""
    num_samples: int = 64
    """Images drawn into samples.npz at the end (images)."""
    imports: Annotated[tuple[Path, ...], tyro.conf.arg(name="import")] = ()
    """Python files that are run first, for parts of your own by name (docs/diffusion.md); the run remembers their
    names, and its other commands take the same flag."""
    net: Annotated[str, listed("image_pipeline.nets:MODELS")] = "unet"
    """The net, by name; another than the preset's starts from that net's own defaults."""
    model: Any = field(default_factory=_digits_net)
    """The net's own config, one of those of `image_pipeline.nets`."""
    data: Annotated[DataConfig, _PLAIN] = field(default_factory=DataConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    objective: Annotated[ObjectiveConfig, _PLAIN] = field(default_factory=ObjectiveConfig)
    sampling: Annotated[SamplingConfig, _PLAIN] = field(default_factory=SamplingConfig)
    train: Annotated[ImageTrainConfig, _PLAIN] = field(default_factory=ImageTrainConfig)


def from_json(values: dict[str, Any], source: str) -> ImageRunConfig:
    """Rebuild a run's config from its JSON dict.

    Raises:
        InputError: a field or the net is unknown, a value is of another type, or imported parts are missing.
    """
    if not isinstance(values, dict) or "net" not in values or "model" not in values:
        raise InputError(f"{source}: expected an image run's config with net and model; point clouds' are others")
    values = dict(values)
    check_parts(values, source)
    net, model = values["net"], values.pop("model")
    if not isinstance(net, str) or net not in MODELS:  # a list or a dict is no key of anything
        raise UnknownName(f"{source}: net", net, sorted(MODELS))
    built = from_dict(MODELS[net].Config, model, source)
    return replace(from_dict(ImageRunConfig, values, source), model=built)


def read_config(folder: Path) -> ImageRunConfig:
    """Read a run's resolved config.

    Raises:
        InputError: the folder is not a run, or its config is damaged.
    """
    path = folder / "config.json"
    if not is_file(path):
        raise InputError(
            f"{folder}: not a run's folder (no config.json); expected what {command_line('images train')} made"
        )
    return from_json(read_json(path), str(path))
