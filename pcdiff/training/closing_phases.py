"""What follows a training, phase by phase: a signal stops it, and the end of its time leaves phases out."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from torch import nn

from pcdiff.runtime import distributed
from pcdiff.runtime.progress import in_words
from pcdiff.runtime.stopping import Stop, Stopped

T = TypeVar("T")
log = logging.getLogger("pcdiff")


class Closing:
    """Does the phases that follow a training, in all processes of the job.

    Args:
        stop: the signals and the time of the whole call.
        estimates: for each phase, a function of the model to sample that returns its seconds; asked by `seconds`.

    Example:
        >>> closing = Closing(stop, {"samples": lambda model: seconds_to_decode(model, 16, 2048)})
        >>> clouds = closing.phase("samples", lambda: draw(model), later="python -m pcdiff sample draws them")
    """

    def __init__(self, stop: Stop, estimates: dict[str, Callable[[nn.Module], float]]) -> None:
        self.stop, self._estimates = stop, estimates
        self._seconds: dict[str, float] = {}

    def seconds(self, model: nn.Module) -> float:
        """Estimate what all phases take, with the model as it is now, and remember it."""
        self._seconds = {name: estimate(model) for name, estimate in self._estimates.items()}
        return sum(self._seconds.values())

    def phase(self, name: str, work: Callable[[], T], later: str) -> T | None:
        """Do a phase, and return what it gives; None, with a line, where there is no time for it.

        Args:
            name: of the phase.
            work: does it; it may raise `Stopped`, in all processes together.
            later: how the user makes up for it.

        Raises:
            Stopped: by a signal.
        """
        if distributed.agreed(self.stop.interrupted):
            raise Stopped
        seconds, left = self._seconds.get(name), max(0.0, self.stop.seconds_left)
        if distributed.broadcast(left == 0 or (seconds or 0) > left):
            takes = "" if seconds is None else f" it takes about {in_words(seconds)},"
            log.info("%s: left out:%s %s of --max-minutes are left; %s", name, takes, in_words(left), later)
            return None
        log.info("%s%s", name, "" if seconds is None else f" (about {in_words(seconds)})")
        try:
            return work()
        except Stopped:
            if distributed.agreed(self.stop.interrupted):
                raise
            log.info("%s: broken off, the time is up; %s", name, later)
            return None


@contextmanager
def told_how_to_go_on(folder: Path) -> Iterator[None]:
    """End a block that is stopped with a line that shows how to resume the run in `folder`."""
    try:
        yield
    except Stopped:
        log.info("interrupted: all is saved; resume with: --resume %s", folder)
