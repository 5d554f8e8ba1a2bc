"""The flags of the commands without a model: presets, other people's weights, data sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from image_pipeline.commands.flags import Split


@dataclass(frozen=True, kw_only=True)
class Configs:
    """List the presets, or print one as JSON."""

    preset: str | None = None
    """Print this one."""


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Open other people's checkpoint and write it in our own format, which every command takes as --run; or write
    a run, or what was converted, as a folder that diffusers opens.
    """

    kind: str | None = None
    """Whose --input is: score_sde, ncsn, adm, diffusers, edm or abarankab; ours by default."""
    input: Path
    """The file, for diffusers the folder, or a run of ours."""
    to: Literal["ours", "diffusers"] = "ours"
    """What is written: our own .safetensors file, or a pipeline folder of diffusers."""
    config: Path | None = None
    """A JSON file with what the checkpoint itself lacks."""
    ema: bool = True
    """Take the moving average of the weights, where the file holds both."""
    size: int | None = None
    """Side of its images, where neither file nor config has it (pixels)."""
    output: Path
    """The .safetensors file, or the folder."""

    @property
    def ending(self) -> str | None:
        """What --output must end in."""
        return ".safetensors" if self.to == "ours" else None


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Bring a data set to one size and write it as a zip of PNG files."""

    ending: ClassVar[str] = ".zip"

    source: Path
    """`digits`, a folder, zip or lmdb, or arrays (.npz, .npy)."""
    output: Path
    """The .zip file."""
    size: int | None = None
    """Side of the images; their own by default (pixels)."""
    split: Split = "all"
    """Which images."""
    crop: int | None = None
    """Side of the central square that is cut out first (pixels)."""
    filter: Literal["lanczos", "bicubic", "bilinear", "box"] = "lanczos"
    """Filter of the resize."""
    channels: Literal[1, 3] | None = None
    """1 (gray) or 3 (color); the images' own by default."""
    labels: str = "auto"
    """Where classes come from: auto, json, folders, names, none."""


@dataclass(frozen=True, kw_only=True)
class Dump:
    """Write a data set as loose PNG files named by class."""

    source: Path
    """`digits`, a folder, zip or lmdb, or arrays (.npz, .npy)."""
    output: Path
    """A new or empty folder."""
    split: Split = "train"
    """Which images; loose files have no split."""


@dataclass(frozen=True, kw_only=True)
class NoiseScales:
    """Choose noise levels and a Langevin step for a data set (NCSNv2's techniques 1, 2 and 4)."""

    source: Path = Path("digits")
    """`digits`, a folder, zip or lmdb, or arrays (.npz, .npy)."""
    split: Split = "train"
    """Which images."""
    size: int | None = None
    """Bring the images to this side first (pixels)."""
    data_range: Literal["unit", "symmetric"] = "unit"
    """Range that the model will see."""
    sigma_min: float = 0.01
    """The smallest level."""
    steps_per_level: int = 5
    """Langevin steps at each level (steps)."""
