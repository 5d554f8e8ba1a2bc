"""Distances between all pairs of two sets of clouds."""

from collections.abc import Callable

import torch

from pcdiff.ops import _check, _nearest, _workers

# The native kernel gets the matrix in strips of rows of about this many pairs: short enough for a progress bar and
# for Ctrl-C, long enough that preparing the clouds anew for each strip costs little.
_PAIRS_PER_STRIP = 1024


def pairwise(
    xs: torch.Tensor,
    ys: torch.Tensor | None = None,
    distance: str = "chamfer",
    progress: Callable[[int], object] | None = None,
    workers: int | None = None,
) -> torch.Tensor:
    """Return the matrix of distances between two sets of clouds, without gradient.

    Args:
        xs: a set of S clouds `(S, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        ys: a set of R clouds `(R, M, D)` of the same dtype and device; None compares xs with itself, a pair once.
        distance: `"chamfer"` (squared distances, mean + mean, as `chamfer`) or `"emd"` (mean Euclidean distance of
            the best bijection, exact, as `emd`; needs N == M).
        progress: called now and then with the number of pairs finished so far.
        workers: for `"emd"`, the number of worker processes; None decides by the amount of work.

    Returns:
        `(S, R)`, in the dtype of the computation; row i belongs to `xs[i]`. With ys=None it is symmetric and its
        diagonal is 0. No N x M matrix is kept, whatever the number of pairs.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a cloud is empty, a coordinate is NaN or infinite, or the
            distance is unknown.

    Example:
        >>> clouds = torch.randn(5, 100, 3, generator=torch.Generator().manual_seed(0))
        >>> pairwise(clouds).shape
        torch.Size([5, 5])
    """
    _check.one_of("distance", distance, tuple(_DISTANCES))
    xs = _check.clouds("xs", xs, "(S, N, D)").detach()
    symmetric = ys is None
    if symmetric:
        ys = xs
    else:
        ys = _check.clouds("ys", ys, "(R, M, D)").detach()
        _check.alike("xs", xs, "ys", ys, batch=False)
    _check.workers(workers)
    upper = _DISTANCES[distance](xs, ys, symmetric, progress, workers)
    return upper + upper.T if symmetric else upper


def _chamfer(xs, ys, symmetric, progress, workers) -> torch.Tensor:
    # `workers` is for processes; this one runs on torch's own threads.
    out = xs.new_zeros((len(xs), len(ys)))
    rows = max(1, _PAIRS_PER_STRIP // max(1, len(ys)))
    done = 0
    for first in range(0, len(xs), rows):
        strip = xs[first : first + rows]
        start = first if symmetric else 0
        out[first : first + rows, start:] = _nearest.chamfer_matrix(strip, ys[start:], symmetric)
        pairs = len(strip) * (len(ys) - start)
        done += pairs - len(strip) * (len(strip) + 1) // 2 if symmetric else pairs
        if progress is not None:
            progress(done)
    return out


def _emd(xs, ys, symmetric, progress, workers) -> torch.Tensor:
    _check.equal_sizes("xs", xs, "ys", ys)
    _check.finite(xs=xs, ys=ys)
    pairs = [(i, j) for i in range(len(xs)) for j in range(i + 1 if symmetric else 0, len(ys))]
    out = torch.zeros((len(xs), len(ys)), dtype=xs.dtype)
    arrays = xs.cpu().contiguous().numpy(), ys.cpu().contiguous().numpy()
    for (i, j), cost, _ in _workers.solve_pairs(*arrays, pairs, workers, progress):
        out[i, j] = cost
    return out.to(xs.device)


_DISTANCES = {"chamfer": _chamfer, "emd": _emd}
