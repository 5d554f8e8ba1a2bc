"""Distances between all pairs of two sets of clouds."""

import functools
import math
from collections.abc import Callable

import torch

from pcdiff.ops import _approxmatch, _assignment, _check, _nearest
from pcdiff.ops.emd import DEFAULT_TOLERANCE

# A kernel gets the matrix in tiles of about this many pairs. On the CPU: short enough for a progress bar and
# Ctrl-C, long enough that preparing a tile's clouds costs little. On CUDA: enough to fill the device several times.
_PAIRS_AT_ONCE = {
    "cpu": {"chamfer": 1024, "emd": 32, "approxmatch": 32},
    "cuda": {"chamfer": 1 << 15, "emd": 4096, "approxmatch": 1024},
}


def pairwise(
    xs: torch.Tensor,
    ys: torch.Tensor | None = None,
    distance: str = "chamfer",
    tolerance: float = DEFAULT_TOLERANCE,
    progress: Callable[[int], object] | None = None,
) -> torch.Tensor:
    """Return the matrix of distances between two sets of clouds, without gradient.

    Args:
        xs: a set of S clouds `(S, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        ys: a set of R clouds `(R, M, D)` of the same dtype and device; None compares xs with itself, a pair once.
        distance:
            - `"chamfer"`: squared distances, mean + mean, as `chamfer`.
            - `"emd"`: mean Euclidean distance of a bijection, as `emd`, within `tolerance` of the best one; N == M.
            - `"emd-exact"`: of the best bijection.
            - `"approxmatch-latent3d"`, `"approxmatch-pointflow"`, `"approxmatch-pytorchemd"`: what `emd` documents
                of
              them. With ys=None the matrix is neither symmetric nor 0 on its diagonal, as the published ones.
        tolerance: of `"emd"`: no entry exceeds the optimum by more than this share of itself.
        progress: called now and then with the number of pairs finished so far.

    Returns:
        `(S, R)`, in the dtype of the computation; row i belongs to `xs[i]`. With ys=None it is symmetric and its
        diagonal is 0. No N x M matrix is kept, whatever the number of pairs.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a cloud is empty, a coordinate is NaN or infinite, the
            distance is unknown, or the tolerance not positive.

    Example:
        >>> clouds = torch.randn(5, 100, 3, generator=torch.Generator().manual_seed(0))
        >>> pairwise(clouds).shape
        torch.Size([5, 5])
    """
    _check.one_of("distance", distance, tuple(_MATRICES))
    if distance == "emd":
        _check.tolerance(tolerance)
    xs = _check.clouds("xs", xs, "(S, N, D)").detach()
    symmetric = ys is None and distance not in _approxmatch.VARIANTS
    if ys is None:
        ys = xs
    else:
        ys = _check.clouds("ys", ys, "(R, M, D)").detach()
        _check.alike("xs", xs, "ys", ys, batch=False)
    if distance.startswith("emd"):
        _check.equal_sizes("xs", xs, "ys", ys)

    out = xs.new_zeros((len(xs), len(ys)))
    device = "cuda" if xs.is_cuda and distance != "emd-exact" else "cpu"
    pairs = _PAIRS_AT_ONCE[device][distance.partition("-")[0]]
    rows = max(1, min(math.isqrt(pairs), len(xs)))
    columns = rows if symmetric else max(1, pairs // rows)
    done = 0
    for i in range(0, len(xs), rows):
        for j in range(i if symmetric else 0, len(ys), columns):
            tile = xs[i : i + rows], ys[j : j + columns]
            upper = symmetric and i == j
            out[i : i + rows, j : j + columns] = _MATRICES[distance](*tile, upper, tolerance)
            count = len(tile[0])
            done += count * (count - 1) // 2 if upper else count * len(tile[1])
            if progress is not None:
                progress(done)
    return out + out.T if symmetric else out


def _approximate(variant: str, xs: torch.Tensor, ys: torch.Tensor, upper: bool, tolerance: float) -> torch.Tensor:
    return _approxmatch.approxmatch_matrix(xs, ys, variant)


_MATRICES: dict[str, Callable[..., torch.Tensor]] = {
    "chamfer": lambda xs, ys, upper, tolerance: _nearest.chamfer_matrix(xs, ys, upper),
    "emd": _assignment.cost_matrix,
    **{name: functools.partial(_approximate, name) for name in _approxmatch.VARIANTS},
    "emd-exact": lambda xs, ys, upper, tolerance: _assignment.cost_matrix(xs, ys, upper, 0.0),
}
