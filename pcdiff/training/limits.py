"""When a training ends: at its last step, by a signal, by the clock, or where nothing is finite any more."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pcdiff.config import TrainConfig
from pcdiff.distributed import Agreement

# What a process votes for after a step; the highest vote counts.
GO_ON, TIME_IS_UP, INTERRUPTED, DIVERGED = range(4)


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying; a second SIGINT does interrupt."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Limits:
    """Decides after every step whether, and why, the training ends; all processes at the same step.

    Args:
        config: has `max_iters` and `max_minutes`.
        signals: the list of `interruptible`.
    """

    def __init__(self, config: TrainConfig, signals: list[int]):
        self._config, self._signals = config, signals
        self._agreed = Agreement()
        self._start = time.monotonic()

    def reason(self, step: int, diverged: bool = False) -> str | None:
        """Return `finished`, `time is up`, `interrupted`, `diverged`, or None to go on.

        Args:
            step: finished steps.
            diverged: whether this process has met a number that is not finite.
        """
        vote = GO_ON
        if (time.monotonic() - self._start) / 60 >= (self._config.max_minutes or math.inf):
            vote = TIME_IS_UP
        if self._signals:
            vote = INTERRUPTED
        if diverged:
            vote = DIVERGED
        vote = self._agreed(vote)
        if vote == DIVERGED:
            return "diverged"
        if step >= self._config.max_iters:
            return "finished"
        return {GO_ON: None, TIME_IS_UP: "time is up", INTERRUPTED: "interrupted"}[vote]

    def close(self) -> None:
        """Hear the last votes."""
        self._agreed.close()
