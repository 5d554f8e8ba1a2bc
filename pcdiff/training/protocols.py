"""What the loop asks of a model and of a validation, and what it gives back."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter


class Trainable(Protocol):
    """What the loop requires of a model, besides being a module."""

    def draw(self, batch: Any, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw all that is random in the loss of `count` rows like those of `batch`.

        The first dimension of each draw is a multiple of `count`.
        """

    def loss_terms(self, batch: Any, **draws: Tensor) -> dict[str, Tensor]:
        """Return scalars by name; the key `"loss"`, a mean over the rows, is minimized, the others are logged."""


class Validation(Protocol):
    """Scores a model and shows what it scored."""

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return scores by name; the key `"score"`, lower is better, ranks the model.

        Raises:
            Stopped: it was stopped; the training ends there. A validation that never raises it is waited for.
        """

    def show(self, writer: SummaryWriter, step: int) -> None:
        """Log what was scored last to TensorBoard."""


@dataclass
class Remainder:
    """Estimated seconds of what follows the last step: its `validation`, and the `rest` that the caller does."""

    validation: float = 0.0
    rest: float = 0.0

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.validation + self.rest


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        reason: `finished`, `time is up`, `no progress` or `interrupted`.
        step: finished steps, of all calls.
        steps_per_second: of this call, without the validations.
        best: the scores of the best validation and its step.
        skipped: steps of this call that were left out, their loss or gradient not being finite.
    """

    reason: str
    step: int
    steps_per_second: float
    best: dict[str, float] | None
    skipped: int = 0
