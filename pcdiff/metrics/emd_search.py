"""The nearest clouds by the earth mover's distance, without solving every pair.

MMD, coverage and 1-NNA need nearest neighbors only, so a pair matters no longer once a proved lower bound of its
distance is above the distance of nearer pairs that are known. Bounds, from the cheapest: sorted projections
(`sliced_bound`, which is at least the distance of the centroids), the mean distance to the nearest point, and the
prices of the auction that is under way. What is left is solved to the end, so the scores are those of the whole
matrix.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcdiff.metrics._blocks import MapBlocks
from pcdiff.metrics.neighbors import TIE_TOLERANCE, Nearest, Neighbors, Progress
from pcdiff.ops import chamfer, emd_pairs, sliced_bound, slices

EMD_METHOD = "exact"
# Seconds of two cores' work; on CUDA about what fills the device. The same everywhere, so that a journal fits.
_PAIRS_IN_A_BLOCK = 256
_ROWS_AT_ONCE = 256  # of a matrix, where temporaries of its size are to be avoided
_SLICED_IN_A_BLOCK = 64  # rows of a matrix of bounds
# Pairs whose distances might be equal within `TIE_TOLERANCE` are solved, all of them.
_MARGIN = 1 + 2 * TIE_TOLERANCE
# Of the mean nearest distance: float32's roundings, far more than they can be.
_NEAREST_MARGIN = 1 - 1e-5


@dataclass
class Effort:
    """How pairs of clouds were decided: `pairs` in all, `bounded` by a bound alone, `stopped` while the auction
    ran, `solved` to the end.
    """

    pairs: int = 0
    stopped: int = 0
    solved: int = 0

    @property
    def bounded(self) -> int:
        """Pairs that no auction was started for."""
        return self.pairs - self.stopped - self.solved

    def to_dict(self) -> dict[str, int | float]:
        """Return counts and the share solved to the end, for a result file."""
        shares = {"bounded": self.bounded, "stopped_early": self.stopped, "solved_to_the_end": self.solved}
        return {"pairs": self.pairs, **shares, "share_solved_to_the_end": self.solved / max(1, self.pairs)}


class _Matrix:
    """Lower and upper bounds of the distances between two sets, or within one; equal where a pair is solved."""

    def __init__(
        self, xs: Tensor, ys: Tensor | None, center: Tensor, map_blocks: MapBlocks, name: str, effort: Effort
    ) -> None:
        self._xs, self._ys = xs, xs if ys is None else ys
        self._map_blocks, self._name, self._effort = map_blocks, name, effort
        self._calls = 0
        self.symmetric = ys is None
        self.low = self._sliced(slices(xs, center), None if ys is None else slices(ys, center))
        self.high = np.full_like(self.low, np.inf)
        count, other = self.low.shape
        effort.pairs += count * (count - 1) // 2 if self.symmetric else count * other
        if self.symmetric:
            np.fill_diagonal(self.low, np.inf)

    def _sliced(self, xs, ys) -> np.ndarray:
        ys = xs if ys is None else ys
        rows = range(0, xs.quantiles.shape[1], _SLICED_IN_A_BLOCK)

        def compute(i: int) -> tuple[np.ndarray]:
            part = xs._replace(quantiles=xs.quantiles[:, i : i + _SLICED_IN_A_BLOCK])
            return (sliced_bound(part, ys).cpu().numpy(),)

        return np.concatenate([part for (part,) in self._map_blocks(f"{self._name} slices", rows, compute)])

    def lowest_open(self, limit: np.ndarray, k: int, columns: bool = False) -> np.ndarray:
        """Return pairs `(K, 2)`: of every row the k of least lower bound that are open, or fewer.

        Open are pairs that are not solved and may be no farther than the row's `limit` `(n,)`. With `columns` the
        columns are looked through instead.
        """
        low, high = (self.low.T, self.high.T) if columns else (self.low, self.high)
        k = min(k, low.shape[1])
        found = []
        for first in range(0, len(low), _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            open_ = (low[part] < high[part]) & (low[part] <= limit[part, None])
            value = np.where(open_, low[part], np.inf)
            places = np.argpartition(value, k - 1, axis=1)[:, :k]
            rows, which = np.nonzero(np.take_along_axis(open_, places, axis=1))
            found.append(np.stack([first + rows, places[rows, which]], axis=1))
        pairs = np.concatenate(found)
        return pairs[:, ::-1] if columns else pairs

    def solve(self, pairs: np.ndarray, limit: np.ndarray, progress: Progress) -> None:
        """Solve pairs `(K, 2)` to the end, each unless a bound above its `limit` `(K,)` turns up first."""
        self._calls += 1
        blocks = range(0, len(pairs), _PAIRS_IN_A_BLOCK)

        def compute(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            part = slice(k, k + _PAIRS_IN_A_BLOCK)
            return self._bounds(torch.from_numpy(pairs[part]), torch.from_numpy(limit[part]))

        found = self._map_blocks(f"{self._name} {self._calls}", blocks, compute)
        for k, (low, high, started) in zip(blocks, found, strict=True):
            i, j = pairs[k : k + _PAIRS_IN_A_BLOCK].T
            for a, b in ((i, j), (j, i)) if self.symmetric else ((i, j),):
                self.low[a, b] = np.maximum(self.low[a, b], low)
                self.high[a, b] = np.minimum(self.high[a, b], high)
            solved = int((low == high).sum())
            self._effort.solved += solved
            self._effort.stopped += int(started.sum()) - solved
            progress(len(i))

    def _bounds(self, pairs: Tensor, limit: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return lower bounds, upper bounds (infinite where there is none) and whether an auction was started."""
        device = self._xs.device
        there, back = chamfer(
            self._xs[pairs[:, 0].to(device)],
            self._ys[pairs[:, 1].to(device)],
            squared=False,
            directions="apart",
        )
        low = (torch.maximum(there, back) * _NEAREST_MARGIN).cpu()
        high = torch.full_like(low, torch.inf)
        started = low <= limit
        if started.any():
            found = emd_pairs(self._xs, self._ys, pairs[started], limit[started])
            low[started], high[started] = found.lower_bound.cpu(), found.cost.cpu()
            # Where float64 sums lose the small distances the solver leaves a gap open: its cost is final then.
            stuck = started & (low < high) & (low <= limit)
            low[stuck] = high[stuck]
        return low.numpy(), high.numpy(), started.numpy()


def emd_neighbors(
    samples: Tensor, reference: Tensor, map_blocks: MapBlocks, name: str, progress: Progress
) -> tuple[Neighbors, Effort]:
    """Find what MMD, coverage and 1-NNA need of the neighbors by the exact earth mover's distance.

    Args:
        samples: `(S, P, 3)`.
        reference: `(R, P, 3)`.
        map_blocks: computes the blocks.
        name: of this piece of work.
        progress: called with the number of pairs of clouds decided, whenever some are.

    Returns:
        The neighbors, for which the three scores, ties included, are those of the whole matrices of
        `pairwise(..., "emd-exact")`; and how it was done.
    """
    effort = Effort()
    total = sum(clouds.sum(dim=(0, 1), dtype=torch.float64) for clouds in (samples, reference))
    center = total / ((len(samples) + len(reference)) * samples.shape[1])
    across = _Matrix(samples, reference, center, map_blocks, f"{name} across", effort)
    _resolve_across(across, progress)
    rows, columns = Nearest.of_rows(across.high), Nearest.of_rows(across.high.T)
    del across
    within = []
    for clouds, nearest, title in ((samples, rows, "samples"), (reference, columns, "reference")):
        matrix = _Matrix(clouds, None, center, map_blocks, f"{name} {title}", effort)
        _resolve_within(matrix, nearest.distance, progress)
        within.append(matrix.high.min(axis=1).astype(np.float64))
    return Neighbors(rows, columns, *within), effort


def _resolve_across(matrix: _Matrix, progress: Progress) -> None:
    """Solve until the nearest of every row and of every column is known, and all that are as near."""
    decided, k = 0, 1
    while True:
        rows, columns = (_raised(matrix.high.min(axis=axis)) for axis in (1, 0))
        chosen = [matrix.lowest_open(rows, k), matrix.lowest_open(columns, k, columns=True)]
        pairs = np.unique(np.concatenate(chosen), axis=0)
        if not len(pairs):
            break
        limit = np.maximum(rows[pairs[:, 0]], columns[pairs[:, 1]])
        matrix.solve(pairs, limit.astype(np.float64), progress)
        decided += len(pairs)
        k *= 2
    progress(matrix.low.size - decided)


def _resolve_within(matrix: _Matrix, across: np.ndarray, progress: Progress) -> None:
    """Solve until it is known of every cloud whether one of its own set is nearer than the distance `across`."""
    count, decided, k = len(across), 0, 1
    limit = _raised(across)
    while True:
        undecided = matrix.high.min(axis=1) >= across / _MARGIN
        reach = np.where(undecided, limit, np.float32(-1))
        # A pair once, and always in the same direction: float sums depend on it.
        pairs = np.unique(np.sort(matrix.lowest_open(reach, k), axis=1), axis=0)
        if not len(pairs):
            break
        matrix.solve(pairs, reach[pairs].max(axis=1).astype(np.float64), progress)
        decided += len(pairs)
        k *= 2
    progress(count * (count - 1) // 2 - decided)


def _raised(distance: np.ndarray) -> np.ndarray:
    """Return distances in float32, raised by the margin and never rounded below it."""
    wanted = distance.astype(np.float64) * _MARGIN
    limit = wanted.astype(np.float32)
    return np.where(limit < wanted, np.nextafter(limit, np.float32(np.inf)), limit)
