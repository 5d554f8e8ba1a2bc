"""Jensen-Shannon divergence between where two sets of clouds have their points.

Achlioptas et al. (ICML 2018), section 2: the points of a whole set are counted on a 28^3 grid, of which the
cells inside a sphere of radius 0.5 are kept, and the two histograms are compared. In bits: 0 to 1.
"""

from functools import lru_cache

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree
from scipy.special import entr

from pcdiff.errors import InputError, OutOfRange
from pcdiff.metrics._inputs import as_clouds

RESOLUTION = 28
RADIUS = 0.5


def jsd_legacy(samples, reference, resolution: int = RESOLUTION) -> float:
    """Return the JSD as DPM and PointFlow print it: the clouds are counted as they come.

    A point outside the sphere of radius 0.5 goes to the nearest kept cell. With clouds in [-1, 1], as in the
    `dpm` protocol, that is nearly every point, and the score then compares directions more than places
    (`outside_share` counts them). Use it to compare with published figures; `jsd_normalized` otherwise.

    Args:
        samples: `(S, P, 3)`.
        reference: `(R, Q, 3)`.
        resolution: grid points along each side of the cube.

    Raises:
        InputError: for bad clouds or a resolution below 2.
    """
    samples, reference = as_clouds(samples, "samples"), as_clouds(reference, "reference")
    return divergence(cell_counts(samples, resolution), cell_counts(reference, resolution))


def jsd_normalized(samples, reference, resolution: int = RESOLUTION) -> float:
    """Return the JSD after every cloud of both sets is moved and scaled into the sphere of radius 0.5.

    Each cloud's bounding-box center goes to 0 and its farthest point to radius 0.5, so no point is snapped to
    the sphere's surface. Sizes are not compared.

    Args:
        samples: `(S, P, 3)`.
        reference: `(R, Q, 3)`.
        resolution: grid points along each side of the cube.

    Raises:
        InputError: for bad clouds, a cloud of zero extent, or a resolution below 2.
    """
    samples, reference = as_clouds(samples, "samples"), as_clouds(reference, "reference")
    samples, reference = into_sphere(samples, "samples"), into_sphere(reference, "reference")
    return divergence(cell_counts(samples, resolution), cell_counts(reference, resolution))


def into_sphere(clouds: torch.Tensor, name: str) -> torch.Tensor:
    """Move and scale each cloud `(n, P, 3)` so that its bounding-box center is 0 and its farthest point at 0.5.

    Raises:
        InputError: for a cloud of zero extent; `name` and its index are named.
    """
    center = (clouds.amin(dim=1, keepdim=True) + clouds.amax(dim=1, keepdim=True)) / 2
    clouds = clouds - center
    reach = clouds.norm(dim=2).amax(dim=1)
    flat = torch.nonzero(reach == 0).flatten()
    if flat.numel():
        raise InputError(f"{name}[{int(flat[0])}] has zero extent: all its points are one, nothing to scale")
    return clouds * (RADIUS / reach)[:, None, None]


def outside_share(clouds) -> float:
    """Return the share of all points `(n, P, 3)` that lie outside the sphere of radius 0.5, in [0, 1]."""
    clouds = as_clouds(clouds, "clouds")
    return float((clouds.norm(dim=2) > RADIUS).double().mean())


def cell_counts(clouds, resolution: int = RESOLUTION) -> np.ndarray:
    """Return how many points of the set `(n, P, 3)` have each kept cell as their nearest, `(cells,)` int64."""
    return np.asarray(counts_by_cloud(clouds, resolution).sum(axis=0), dtype=np.int64).ravel()


def counts_by_cloud(clouds, resolution: int = RESOLUTION) -> csr_matrix:
    """Return how many points of each cloud `(n, P, 3)` have each kept cell as their nearest, `(n, cells)` int64.

    Sparse: a cloud holds points in few of the cells.

    Raises:
        InputError: for bad clouds or a resolution below 2.
    """
    tree = _tree(resolution)
    clouds = as_clouds(clouds, "clouds")
    count, points = clouds.shape[:2]
    # A point outside and its projection on the sphere need not share the nearest cell: no shortcut here.
    nearest = tree.query(clouds.reshape(-1, 3).double().cpu().numpy(), workers=-1)[1]
    ends = np.arange(0, count * points + 1, points)
    counts = csr_matrix((np.ones(len(nearest), dtype=np.int64), nearest, ends), shape=(count, tree.n))
    counts.sum_duplicates()
    return counts


def divergence(counts: np.ndarray, other_counts: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence in bits between two histograms `(cells,)`; see `divergences`."""
    return float(divergences(counts, other_counts))


def divergences(counts: np.ndarray, other_counts: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergences in bits `(...)` between pairs of histograms `(..., cells)`.

    H((p + q) / 2) - (H(p) + H(q)) / 2 with Shannon's entropy H.

    Raises:
        InputError: if a histogram is empty or the two differ in shape.
    """
    p, q = np.asarray(counts, dtype=np.float64), np.asarray(other_counts, dtype=np.float64)
    if p.shape != q.shape or (p.sum(axis=-1) <= 0).any() or (q.sum(axis=-1) <= 0).any():
        raise InputError(f"histograms must have one shape and hold points, got shapes {p.shape} and {q.shape}")
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    return np.maximum(0.0, _entropy_bits((p + q) / 2) - (_entropy_bits(p) + _entropy_bits(q)) / 2)


def sphere_grid(resolution: int = RESOLUTION) -> np.ndarray:
    """Return the grid points of the unit cube around 0 that lie in the sphere of radius 0.5, `(cells, 3)`.

    float32, as in other projects' code: which of the cells on the sphere itself are kept depends on it.

    Raises:
        InputError: for a resolution below 2.
    """
    if resolution < 2:
        raise OutOfRange("resolution", "at least 2", resolution)
    spacing = 1.0 / (resolution - 1)
    axis = (np.arange(resolution) * spacing - RADIUS).astype(np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid[np.linalg.norm(grid, axis=1) <= RADIUS]


@lru_cache(maxsize=4)
def _tree(resolution: int) -> cKDTree:
    return cKDTree(sphere_grid(resolution))


def _entropy_bits(p: np.ndarray) -> np.ndarray:
    return entr(p).sum(axis=-1) / np.log(2)
