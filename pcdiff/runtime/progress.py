"""How far long work is: a bar on a terminal, now and then a line in a log; and how long it will take."""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from tqdm import tqdm

from pcdiff.runtime import distributed

log = logging.getLogger("pcdiff")
Progress = Callable[[int, int], None]

_SECONDS_BETWEEN_LINES = 20.0


@contextmanager
def bar(what: str, unit: str) -> Iterator[Progress]:
    """Give a `progress(done, total)` that moves a bar with the time left, on the process that prints.

    Where the errors go to no terminal, the log gets a line from time to time in its place.

    Fewer done than before means that the next part began, such as the next chunk of clouds: the bar starts over.

    Example:
        >>> with bar("sampling", "step") as progress:
        ...     clouds = model.sample(32, 2048, progress=progress)
    """
    # None: shown on a terminal only. Input that is refused at once is not preceded by a bar.
    hidden = True if distributed.rank() > 0 else None
    started = last_line = time.monotonic()
    lines = not hidden and not sys.stderr.isatty()
    with tqdm(unit=unit, unit_scale=unit == "pair", desc=what, leave=False, disable=hidden, delay=0.5) as shown:

        def progress(done: int, total: int) -> None:
            nonlocal started, last_line
            now = time.monotonic()
            if lines and now - last_line >= _SECONDS_BETWEEN_LINES and 0 < done < total:
                left = in_words((now - started) / done * (total - done))
                log.info("%s: %d of %d %ss, about %s left", what, done, total, unit, left)
                last_line = now
            if done < shown.n:
                started = now
                shown.reset()
            shown.total = total
            shown.update(done - shown.n)

        yield progress


def part_of(progress: Progress | None, part: int, parts: int) -> Progress | None:
    """Return what counts one of several equal parts of work into `progress`; None where that is None."""
    if progress is None:
        return None
    return lambda done, total: progress(part * total + done, parts * total)


def terminal_width() -> int | None:
    """Return how many characters a line of the terminal holds; None where the log goes to no terminal."""
    return shutil.get_terminal_size().columns if sys.stderr.isatty() else None


def in_words(seconds: float) -> str:
    """Return a time in the unit that fits it.

    Example:
        >>> in_words(90.0)
        '1.5 minutes'
    """
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


class _Enough(Exception):
    """Ends work that was begun to be timed."""


def estimated_seconds(work: Callable[[Progress], object], steps: int = 4) -> float:
    """Estimate how long work with progress calls takes, from its first steps; shorter work is finished.

    Args:
        work: is given a `progress(done, total)`, which it calls after every step.
        steps: how many are made; the first pays for warming up and is not counted.
    """
    begun, ends, whole = time.perf_counter(), [], 1

    def progress(done: int, total: int) -> None:
        nonlocal whole
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        whole = total
        if len(ends) == steps < total:
            raise _Enough

    try:
        work(progress)
    except _Enough:
        return (ends[-1] - ends[0]) / (steps - 1) * whole
    return time.perf_counter() - begun
