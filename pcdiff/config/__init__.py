"""Configuration: frozen dataclasses whose fields are the scripts' flags, and the named presets.

Every default has its home here, or at the part that it belongs to. A run saves the resolved dataclass as
`config.json` and is rebuilt from it.
"""

from pcdiff.config.data import DataConfig, PartialConfig
from pcdiff.config.evaluate import EvaluateConfig, check_evaluation
from pcdiff.config.model import ModelConfig, model_from_dict, with_part
from pcdiff.config.objective import CloudObjectiveConfig, ObjectiveConfig
from pcdiff.config.process import ProcessConfig
from pcdiff.config.run import RunConfig, check, run_from_dict
from pcdiff.config.sampling import SamplingConfig
from pcdiff.config.train import TrainConfig, check_train
from pcdiff.runtime.dataclass_json import differences, from_dict, to_json

__all__ = [
    "CloudObjectiveConfig",
    "DataConfig",
    "EvaluateConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PartialConfig",
    "ProcessConfig",
    "RunConfig",
    "SamplingConfig",
    "TrainConfig",
    "check",
    "check_evaluation",
    "check_train",
    "differences",
    "from_dict",
    "model_from_dict",
    "run_from_dict",
    "to_json",
    "with_part",
]
