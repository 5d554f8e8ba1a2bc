"""Many exact assignments at once, spread over worker processes.

SciPy's solver holds the interpreter lock, so threads do not help. The workers are plain child processes talking
over pipes: they see neither torch (whose threads do not survive a fork) nor the user's main script (which `spawn`
would run again, and which need not guard itself).
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue

import numpy as np

from pcdiff.ops import _assignment

Progress = Callable[[int], object]
Solved = tuple[tuple[int, int], float, np.ndarray]

# A worker needs about half a second to start; below this estimate the calling process does the work itself.
_WORTH_WORKERS_SECONDS = 2.0


def estimated_seconds(pairs: int, points: int) -> float:
    """Return the rough time that one core takes: about 1 s a pair of 2048 points, growing as N^2.5."""
    return pairs * (points / 2048) ** 2.5


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Worker:
    """One child process that holds the clouds and solves the pairs it is sent."""

    def __init__(self, clouds: bytes):
        # One thread each: the workers share the cores among themselves.
        environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
        self._process = subprocess.Popen(
            [sys.executable, _assignment.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._clouds = clouds

    def solve(self, pairs: list[tuple[int, int]]) -> list[Solved]:
        try:
            if self._clouds:
                self._process.stdin.write(self._clouds)
                self._clouds = b""
            pickle.dump(pairs, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            costs, assignments = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            raise RuntimeError(
                f"an EMD worker process ended with exit status {code}; its own message is above. "
                "Too little memory is the usual cause: pass fewer workers"
            ) from error
        return list(zip(pairs, costs, assignments, strict=True))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        # What a dead worker never read cannot be flushed any more.
        with suppress(OSError):
            self._process.stdin.close()


@contextmanager
def _crew(workers: int, clouds: bytes) -> Iterator[SimpleQueue]:
    """Start workers, hand out a queue of the idle ones, and end them whatever happens."""
    with ExitStack() as stack:
        idle: SimpleQueue = SimpleQueue()
        for _ in range(workers):
            worker = _Worker(clouds)
            stack.callback(worker.close)
            idle.put(worker)
        yield idle


def solve_pairs(
    xs: np.ndarray,
    ys: np.ndarray,
    pairs: list[tuple[int, int]],
    workers: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Solved]:
    """Yield `((i, j), cost, assignment)` of `xs[i]` against `ys[j]` for every pair, in any order.

    Args:
        xs: `(S, N, D)`.
        ys: `(R, N, D)`.
        pairs: which to compare.
        workers: processes; None takes one for each CPU where the work is worth starting them, else none.
        progress: called with the number of pairs finished so far.
    """
    if workers is None:
        worth = estimated_seconds(len(pairs), xs.shape[1]) > _WORTH_WORKERS_SECONDS
        workers = available_cpus() if worth else 1
    workers = min(workers, len(pairs))
    if workers <= 1:
        for done, (i, j) in enumerate(pairs, 1):
            yield (i, j), *_assignment.assign(xs[i], ys[j])
            if progress is not None:
                progress(done)
        return

    # Batches of about a quarter of a second: quiet pipes, smooth progress. At least four for each worker.
    one = estimated_seconds(1, xs.shape[1])
    size = max(1, min(int(0.25 / max(one, 1e-6)), len(pairs) // (4 * workers)))
    batches = [pairs[k : k + size] for k in range(0, len(pairs), size)]
    clouds = pickle.dumps((xs, ys), pickle.HIGHEST_PROTOCOL)
    # Leaving, the crew must end before the threads: it is the workers' death that frees a thread waiting for one.
    with ThreadPoolExecutor(workers) as threads, _crew(workers, clouds) as idle:

        def run(batch: list[tuple[int, int]]) -> list[Solved]:
            worker = idle.get()
            try:
                return worker.solve(batch)
            finally:
                idle.put(worker)

        waiting = {threads.submit(run, batch) for batch in batches}
        finished = 0
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    solved = future.result()
                    finished += len(solved)
                    yield from solved
                    if progress is not None:
                        progress(finished)
        finally:
            for future in waiting:
                future.cancel()
