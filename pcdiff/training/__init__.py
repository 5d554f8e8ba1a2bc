"""One training loop, for any model with `loss_terms`, on one process or many."""

from pcdiff.runtime.stopping import interruptible
from pcdiff.training.budget import plan
from pcdiff.training.checkpoint_manager import CheckpointManager
from pcdiff.training.ema import ExponentialMovingAverage
from pcdiff.training.lr_schedule import SCHEDULES, learning_rate
from pcdiff.training.nonfinite import TrainingDiverged
from pcdiff.training.protocols import Outcome, Remainder, Trainable, Validation
from pcdiff.training.tensorboard import TensorBoardScalars
from pcdiff.training.trainer import Trainer

__all__ = [
    "SCHEDULES",
    "CheckpointManager",
    "ExponentialMovingAverage",
    "Outcome",
    "Remainder",
    "TensorBoardScalars",
    "Trainable",
    "Trainer",
    "TrainingDiverged",
    "Validation",
    "interruptible",
    "learning_rate",
    "plan",
]
