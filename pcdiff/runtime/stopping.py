"""Long work stops early: on a signal, or when its time is over."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(BaseException):
    """The work was stopped before its end; what is finished has been kept.

    No `Exception`: code that catches whatever a parser raises must let it pass.
    """


class Stop:
    """Whether this process is to stop; `stop()` is true from then on.

    Args:
        minutes: wall clock from now on; None has no limit.

    Attributes:
        signals: the numbers of those received (SIGINT, SIGTERM).
    """

    def __init__(self, minutes: float | None = None) -> None:
        self.signals: list[int] = []
        self._seconds = math.inf if minutes is None else 60 * minutes
        self._start = time.monotonic()
        self._at_once = False

    def __call__(self) -> bool:
        """Return whether a signal has come or the time is over."""
        return self.interrupted or self.seconds_left <= 0

    @property
    def interrupted(self) -> bool:
        """Whether a signal has come."""
        return bool(self.signals)

    @property
    def seconds_left(self) -> float:
        """Seconds until the time is over; infinite without a limit."""
        return self._seconds - (time.monotonic() - self._start)

    @property
    def limited(self) -> bool:
        """Whether there is a limit of time."""
        return math.isfinite(self._seconds)

    def check(self, *_: Any) -> None:
        """Raise `Stopped` where the process is to stop.

        Raises:
            Stopped: a signal has come, or the time is over.
        """
        if self():
            raise Stopped

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal raise `Stopped` at once: while there is nothing to save."""
        self._at_once = True
        try:
            if self.interrupted:
                raise Stopped
            yield
        finally:
            self._at_once = False

    def note(self, number: int, frame: Any) -> None:
        """Take a signal, as its handler; a second SIGINT interrupts whatever is running.

        Raises:
            KeyboardInterrupt: it is a second SIGINT.
            Stopped: within `at_once`.
        """
        if self.signals and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signals.append(number)
        if self._at_once:
            raise Stopped


@contextmanager
def interruptible(minutes: float | None = None) -> Iterator[Stop]:
    """Collect SIGINT and SIGTERM for as long as this lasts instead of dying; a second SIGINT does interrupt.

    Args:
        minutes: wall clock that the work may take, from now on.

    Example:
        >>> with interruptible(minutes=0.001) as stop:
        ...     while not stop():
        ...         work()
    """
    stop = Stop(minutes)
    previous = {number: signal.signal(number, stop.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def watched(progress: Callable[[int, int], None] | None, check: Callable[[], None]) -> Callable[[int, int], None]:
    """Return a `progress(done, total)` that moves another and then checks whether to continue.

    Args:
        progress: the other; None where nothing is shown.
        check: raises where the work is to stop, as `Stop.check` does.
    """

    def moved(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total)
        check()

    return moved
