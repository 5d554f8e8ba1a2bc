"""What a training sees."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal


@dataclass(frozen=True)
class PartialConfig:
    """What a completion model is given of the clouds that it is trained on."""

    rule: Literal["view", "nearest"] = "view"
    """Given are points that a random viewpoint sees (`view`), or some of those that are left when the points
    nearest to a random viewpoint go (`nearest`)."""
    removed: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Shares of its points that rule nearest removes of a cloud, each as likely as the others."""
    resolution: int | None = None
    """Pixels across the depth map of rule view; by default as fine as the points are dense (pixels)."""
    radius: int = 1
    """Pixels to each side that a point covers in it (pixels)."""

    RANGES: ClassVar[dict[str, str]] = {"at least 1": "resolution", "at least 0": "radius"}


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    dataset_path: Path | None = None
    """`shapenet.hdf5`, or a ShapeNetCore.v2.PC15k folder; without it the built-in stand-in shapes are used."""
    categories: str = "airplane"
    """Category names, comma-separated, or `all`."""
    normalization: str = "shape_unit"
    """Of every cloud: none, global_unit, shape_unit, shape_bbox, shape_half or shape_34; or global: one shift and
    scale for all clouds, as protocol pointflow needs it; or global_per_axis: with a scale for each axis."""
    num_points: int = 2048
    """Points of a cloud in a training batch, drawn again each time (points)."""
    rotate: bool = False
    """Turn every training cloud by a random angle about the up axis."""
    partial: PartialConfig = PartialConfig()

    FORMER_NAMES: ClassVar[dict[str, str]] = {"normalisation": "normalization"}
