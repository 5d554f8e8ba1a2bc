"""Run configs for images, and the presets by name."""

from image_pipeline.configs.config import (
    DataConfig,
    ImageRunConfig,
    ObjectiveConfig,
    ProcessConfig,
    SamplingConfig,
    from_json,
    read_config,
)
from image_pipeline.configs.presets import PRESETS, preset

__all__ = [
    "PRESETS",
    "DataConfig",
    "ImageRunConfig",
    "ObjectiveConfig",
    "ProcessConfig",
    "SamplingConfig",
    "from_json",
    "preset",
    "read_config",
]
