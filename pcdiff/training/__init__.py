"""One training loop, for any model with `loss_terms`, on one process or many."""

from pcdiff.stopping import interruptible
from pcdiff.training.average import ExponentialMovingAverage
from pcdiff.training.budget import plan
from pcdiff.training.contracts import Outcome, Remainder, Trainable, Validation
from pcdiff.training.finite import TrainingDiverged
from pcdiff.training.keeper import Keeper
from pcdiff.training.loop import Trainer
from pcdiff.training.rates import SCHEDULES, learning_rate
from pcdiff.training.scalars import Scalars

__all__ = [
    "SCHEDULES",
    "ExponentialMovingAverage",
    "Keeper",
    "Outcome",
    "Remainder",
    "Scalars",
    "Trainable",
    "Trainer",
    "TrainingDiverged",
    "Validation",
    "interruptible",
    "learning_rate",
    "plan",
]
