"""Configuration: frozen dataclasses whose fields are the scripts' flags, and the named presets.

Every default has its home here. A run saves the resolved dataclass as `config.json` and is rebuilt from it.
"""

from pcdiff.config.data import DataConfig
from pcdiff.config.evaluate import EvaluateConfig, check_evaluation
from pcdiff.config.model import ModelConfig
from pcdiff.config.objective import ObjectiveConfig
from pcdiff.config.run import RunConfig, check
from pcdiff.config.serialization import differences, from_dict, to_json
from pcdiff.config.train import TrainConfig, check_train

__all__ = [
    "DataConfig",
    "EvaluateConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "RunConfig",
    "TrainConfig",
    "check",
    "check_evaluation",
    "check_train",
    "differences",
    "from_dict",
    "to_json",
]
