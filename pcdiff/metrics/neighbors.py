"""Each cloud's nearest clouds in its own and in the other set: all that MMD, coverage and 1-NNA are made of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pcdiff.errors import InputError
from pcdiff.metrics._blocks import MapBlocks
from pcdiff.metrics._inputs import as_matrix
from pcdiff.ops import pairwise

TIE_TOLERANCE = 1e-6  # relative; float32 sums over the same points in another order differ by about 1e-7
_CLOUDS_IN_A_BLOCK = 32  # along each side: a few tenths of a second for Chamfer distances of 2048 points

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Nearest:
    """The nearest cloud of another set, for each cloud of a set of n.

    Attributes:
        distance: `(n,)` float64.
        index: `(n,)` int64; of several nearest ones the first.
        tied: `(n,)` bool: another one is as near, within `TIE_TOLERANCE`.
    """

    distance: np.ndarray
    index: np.ndarray
    tied: np.ndarray

    @classmethod
    def of_rows(cls, matrix: np.ndarray) -> "Nearest":
        """Read the nearest column of every row off a matrix `(n, m)`."""
        index = matrix.argmin(axis=1)
        distance = np.take_along_axis(matrix, index[:, None], axis=1)[:, 0].astype(np.float64)
        # Row by row: no further array of the matrix's size.
        tied = [equal(row.astype(np.float64), least).sum() > 1 for row, least in zip(matrix, distance, strict=True)]
        return cls(distance, index, np.array(tied))


@dataclass(frozen=True)
class Neighbors:
    """Two sets' nearest clouds by one distance.

    Attributes:
        sample_reference: of each sample, in the reference set.
        reference_sample: of each reference cloud, among the samples.
        sample_sample: `(S,)` distance of each sample to the nearest other one. Where a search stopped early it is a
            bound on the right side of the distance to the other set.
        reference_reference: `(R,)`, likewise.
    """

    sample_reference: Nearest
    reference_sample: Nearest
    sample_sample: np.ndarray
    reference_reference: np.ndarray


def equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return which distances are the same within `TIE_TOLERANCE`; infinity means none."""
    with np.errstate(invalid="ignore"):
        reach = TIE_TOLERANCE * np.maximum(np.abs(a), np.abs(b))
        return np.isfinite(reach) & (np.abs(a - b) <= reach)


def neighbors_in_matrices(sample_reference, reference_reference, sample_sample) -> Neighbors:
    """Read the neighbors off whole matrices `(S, R)`, `(R, R)` and `(S, S)`; the diagonals are not read.

    Raises:
        InputError: for shapes that do not fit, NaN, or a set of fewer than two clouds.
    """
    across = as_matrix(sample_reference, "sample_reference")
    samples, references = across.shape
    return Neighbors(
        Nearest.of_rows(across),
        Nearest.of_rows(across.T),
        _nearest_other(as_matrix(sample_sample, "sample_sample"), samples, "sample_sample"),
        _nearest_other(as_matrix(reference_reference, "reference_reference"), references, "reference_reference"),
    )


def chamfer_neighbors(
    samples: Tensor, reference: Tensor, map_blocks: MapBlocks, name: str, progress: Progress
) -> Neighbors:
    """Find the neighbors by the Chamfer distance (squared, mean + mean), block by block: no matrix is kept.

    Args:
        samples: `(S, P, 3)`.
        reference: `(R, Q, 3)`.
        map_blocks: computes the blocks.
        name: of this piece of work.
        progress: called with the number of pairs of clouds compared, whenever some are.
    """
    rows, columns = _search(samples, reference, map_blocks, f"{name} across", progress)
    within = []
    for clouds, title in ((samples, "samples"), (reference, "reference")):
        found, _ = _search(clouds, None, map_blocks, f"{name} {title}", progress)
        within.append(found.nearest().distance)
    return Neighbors(rows.nearest(), columns.nearest(), *within)


def nearest_by_chamfer(
    clouds: Tensor, others: Tensor, map_blocks: MapBlocks, name: str, progress: Progress
) -> Nearest:
    """Find each cloud's nearest one of another set by the Chamfer distance; sizes `(n, P, 3)` and `(m, Q, 3)`."""
    return _search(clouds, others, map_blocks, name, progress)[0].nearest()


class _BestTwo:
    """The least distances of n clouds so far, `(n, 2)`, and whose the least is: what ties and minima need."""

    def __init__(self, count: int) -> None:
        self.distance = np.full((count, 2), np.inf)
        self.index = np.full(count, np.iinfo(np.int64).max)

    def add(self, first: int, distance: np.ndarray, index: np.ndarray) -> None:
        """Merge the best two `(k, 2)` and the best one's index `(k,)`, of the k clouds from `first` on."""
        part = slice(first, first + len(index))
        before, best = self.distance[part], self.index[part]
        # An equal distance goes to the smaller index, whatever the order of the blocks.
        closer = (distance[:, 0] < before[:, 0]) | ((distance[:, 0] == before[:, 0]) & (index < best))
        self.index[part] = np.where(closer, index, best)
        self.distance[part] = np.sort(np.concatenate([before, distance], axis=1), axis=1)[:, :2]

    def nearest(self) -> Nearest:
        first, second = self.distance.T
        return Nearest(first.copy(), self.index.copy(), equal(first, second))


def _search(
    xs: Tensor, ys: Tensor | None, map_blocks: MapBlocks, name: str, progress: Progress
) -> tuple[_BestTwo, _BestTwo]:
    """Return the best two of xs in ys, and of ys in xs; without ys of xs among its other clouds, twice the same."""
    symmetric = ys is None
    others = xs if ys is None else ys
    rows = _BestTwo(len(xs))
    columns = rows if symmetric else _BestTwo(len(others))

    def compute(block: tuple[int, int]) -> tuple[np.ndarray, ...]:
        i, j = block
        part = xs[i : i + _CLOUDS_IN_A_BLOCK]
        if symmetric and i == j:
            tile = pairwise(part).cpu().numpy()
            np.fill_diagonal(tile, np.inf)
        else:
            tile = pairwise(part, others[j : j + _CLOUDS_IN_A_BLOCK]).cpu().numpy()
        return (*_best_two(tile), *_best_two(tile.T))

    blocks = list(_blocks(len(xs), len(others), symmetric))
    for (i, j), (distance, index, distance_back, index_back) in zip(
        blocks, map_blocks(name, blocks, compute), strict=True
    ):
        rows.add(i, distance, index + j)
        if not symmetric or i != j:
            columns.add(j, distance_back, index_back + i)
        count, other = len(index), len(index_back)
        progress(count * (count - 1) // 2 if symmetric and i == j else count * other)
    return rows, columns


def _blocks(rows: int, columns: int, symmetric: bool) -> Iterator[tuple[int, int]]:
    for i in range(0, rows, _CLOUDS_IN_A_BLOCK):
        for j in range(i if symmetric else 0, columns, _CLOUDS_IN_A_BLOCK):
            yield i, j


def _best_two(tile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two least values of every row `(n, 2)`, infinite where there is none, and the first's place."""
    padded = np.concatenate([tile, np.full((len(tile), 1), np.inf, tile.dtype)], axis=1)
    return np.partition(padded, 1, axis=1)[:, :2], tile.argmin(axis=1)


def _nearest_other(within: np.ndarray, count: int, name: str) -> np.ndarray:
    if within.shape != (count, count):
        raise InputError(f"{name} must be {(count, count)} to fit sample_reference, got {within.shape}")
    if count < 2:
        raise InputError(f"{name}: 1-NNA leaves one cloud out and needs at least 2 in each set, got {count}")
    return np.where(np.eye(count, dtype=bool), np.inf, within).min(axis=1)
