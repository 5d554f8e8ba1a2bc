"""Timing several ways to do the same work, in turns."""

import time
from collections.abc import Callable


def seconds(step: Callable[[], object], repeats: int, warm_up: int = 2) -> list[float]:
    """Time `step` after some calls that are not counted."""
    for _ in range(warm_up):
        step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def interleaved(
    steps: dict[str, Callable[[], object]], repeats: int, warm_up: int = 2, rounds: int = 3
) -> dict[str, list[float]]:
    """Time all in rounds, so that a slow minute of the machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name] += seconds(step, max(1, repeats // rounds), warm_up)
    return times
