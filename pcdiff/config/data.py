"""What a training sees."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    dataset_path: Path | None = None
    """`shapenet.hdf5`, or a ShapeNetCore.v2.PC15k folder; without it the built-in stand-in shapes are used."""
    categories: str = "airplane"
    """Category names, comma-separated, or `all`."""
    normalization: str = "shape_unit"
    """Of every cloud: none, global_unit, shape_unit, shape_bbox, shape_half or shape_34; or global: one shift and
    scale for all clouds, as protocol pointflow needs it."""
    num_points: int = 2048
    """Points of a cloud in a training batch, drawn anew each time (points)."""
    rotate: bool = False
    """Turn every training cloud by a random angle about the up axis."""

    FORMER_NAMES: ClassVar[dict[str, str]] = {"normalisation": "normalization"}
