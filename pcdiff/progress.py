"""A bar on the terminal for work that takes a while, and an estimate of how long it will."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from tqdm import tqdm

from pcdiff import distributed


@contextmanager
def bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Give a `progress(done, total)` that moves a bar with the time left, on the process that prints.

    Fewer done than before means that the next part has begun, say the next chunk of clouds: the bar starts anew.

    Example:
        >>> with bar("sampling", "step") as progress:
        ...     clouds = model.sample(32, 2048, progress=progress)
    """
    # None: shown on a terminal only. Input that is refused at once is not preceded by a bar.
    hidden = True if distributed.rank() > 0 else None
    with tqdm(unit=unit, unit_scale=unit == "pair", desc=what, leave=False, disable=hidden, delay=0.5) as shown:

        def progress(done: int, total: int) -> None:
            if done < shown.n:
                shown.reset()
            shown.total = total
            shown.update(done - shown.n)

        yield progress


class _Enough(Exception):
    """Ends work that was begun to be timed."""


def estimated_seconds(work: Callable[[Callable[[int, int], None]], object], steps: int = 4) -> float:
    """Estimate how long work takes that tells its progress, from its first steps; work that is shorter is done.

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
