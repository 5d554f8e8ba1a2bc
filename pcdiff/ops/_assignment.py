"""Exact optimal assignment of one cloud to another, here and in worker processes.

This file doubles as the worker's program: `_workers.py` starts `python _assignment.py`, so it imports NumPy and
SciPy only. Importing it from the package instead (as `multiprocessing` would) pulls in torch, seconds for each
worker, and runs the user's main script again.
"""

import os
import pickle
import signal
import sys

if __name__ == "__main__":
    # Started by path, Python searches this folder first; no file of the package may shadow another's module.
    _here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or os.curdir) != _here]

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist


def assign(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the least mean Euclidean distance over all bijections of x onto y, and the best one.

    Args:
        x: `(N, D)`; computed in float64 whatever comes.
        y: `(N, D)`.

    Returns:
        The mean distance, and int64 `(N,)`: point i of x goes to point `assignment[i]` of y.
    """
    distance = cdist(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    rows, assignment = linear_sum_assignment(distance)
    return float(distance[rows, assignment].mean()), assignment.astype(np.int64)


def serve(source, sink) -> None:
    """Answer requests until `source` ends: first two arrays of clouds, then lists of index pairs.

    Each list of pairs `(i, j)` is answered by `(costs, assignments)` of `xs[i]` against `ys[j]`.
    """
    xs, ys = pickle.load(source)
    while True:
        try:
            pairs = pickle.load(source)
        except EOFError:
            return
        solved = [assign(xs[i], ys[j]) for i, j in pairs]
        pickle.dump(([cost for cost, _ in solved], [a for _, a in solved]), sink, pickle.HIGHEST_PROTOCOL)
        sink.flush()


if __name__ == "__main__":
    # Ctrl-C reaches every process of the terminal; the parent ends its workers itself, without their tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)
