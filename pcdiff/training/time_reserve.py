"""How much time a training with a limit leaves for what follows its last step."""

import logging
import math
import time
from collections.abc import Callable

from torch import nn

from pcdiff.runtime import distributed
from pcdiff.runtime.progress import in_words
from pcdiff.runtime.stopping import Stop
from pcdiff.training.protocols import Remainder

log = logging.getLogger("pcdiff")

_MARGIN = 1.2  # estimates come from few steps, on machines that others use too


class TimeReserve:
    """What remains of a training with a time limit: another step, the last validation, and what follows.

    Args:
        stop: has the time that is left.
        remainder: `remainder(model)` estimates what follows the last step; None: nothing but a validation, whose
            time is known once there has been one.
    """

    def __init__(self, stop: Stop, remainder: Callable[[nn.Module], Remainder] | None) -> None:
        self.stop, self._remainder = stop, remainder
        self._estimated = Remainder()
        self._most = math.inf  # seconds that the training leaves at most
        self._steps, self._since, self._paused = 0, 0.0, 0.0

    def stepped(self, model: nn.Module) -> float:
        """Note a step; after the first one estimate what follows, with `model`. Return the seconds this took."""
        before = time.monotonic()
        if self._steps == 0:
            if self.stop.limited and distributed.broadcast(self.stop.seconds_left > 0):
                self._plan(model)
            self._since = time.monotonic()
        self._steps += 1
        return time.monotonic() - before

    def validated(self, seconds: float) -> float:
        """Note how long a validation took, and return it."""
        self._estimated.validation = seconds
        self._paused += seconds
        return seconds

    def needed(self, validates: bool) -> float:
        """Return the seconds that must be left for another step to be made.

        Args:
            validates: whether the last step is to be validated before the next one.
        """
        made = self._steps - 1  # since the first, which pays for compiling
        step = (time.monotonic() - self._since - self._paused) / made if made else 0.0
        again = self._estimated.validation if validates else 0.0
        return step + min(self._most, _MARGIN * (self._estimated.seconds + again))

    def too_late(self) -> bool:
        """Return whether the time that is left is too short for a validation; one of unknown length is begun."""
        left = self.stop.seconds_left
        return self._estimated.validation > max(0.0, left) or (left <= 0 and self._remainder is not None)

    def _plan(self, model: nn.Module) -> None:
        if self._remainder is not None:
            self._estimated = self._remainder(model)
        left = self.stop.seconds_left
        self._most = max(0.0, left / 2)
        wanted = _MARGIN * self._estimated.seconds
        if wanted:
            log.info(
                "time limit: %s are left, of which about %s are kept for what follows the last step%s",
                in_words(max(0.0, left)),
                in_words(min(wanted, self._most)),
                "" if wanted <= self._most else f"; that needs {in_words(wanted)} and will be cut short",
            )
