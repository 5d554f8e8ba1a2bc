"""When a training ends: at its last step, by a signal, by the clock, or where nothing is finite any more."""

from pcdiff.config import TrainConfig
from pcdiff.runtime.distributed import Agreement
from pcdiff.runtime.stopping import Stop

# What a process votes for after a step; the highest vote counts.
GO_ON, TIME_IS_UP, INTERRUPTED, DIVERGED = range(4)


class StopConditions:
    """Decides after every step whether, and why, the training ends; all processes at the same step.

    Args:
        config: has `max_iters`.
        stop: the signals, and the limit of time.
    """

    def __init__(self, config: TrainConfig, stop: Stop):
        self._config, self._stop = config, stop
        self._agreed = Agreement()

    def reason(self, step: int, diverged: bool = False, needed: float = 0.0) -> str | None:
        """Return `finished`, `time is up`, `interrupted`, `diverged`, or None to continue.

        Args:
            step: finished steps.
            diverged: whether this process has met a number that is not finite.
            needed: seconds for another step and all that follows the last one.
        """
        vote = GO_ON
        if self._stop.seconds_left <= needed:
            vote = TIME_IS_UP
        if self._stop.interrupted:
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
