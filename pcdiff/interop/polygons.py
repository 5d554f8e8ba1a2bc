"""Polygons of any sizes, cut into triangles."""

from collections.abc import Iterable

import numpy as np

Surface = tuple[np.ndarray, np.ndarray]  # vertices (V, 3) float64, triangles (F, 3) int64


def fans(groups: Iterable[np.ndarray]) -> np.ndarray:
    """Cut polygons into triangles about their first corners.

    Args:
        groups: polygons `(F, k)` of k corners each, by index; numbers of any type.

    Returns:
        `(T, 3)` int64: group by group; those of one polygon follow one another.

    Raises:
        ValueError: fewer than three corners, or a corner that is no whole number.

    Example:
        >>> fans([np.array([[4, 5, 6, 7]])]).tolist()
        [[4, 5, 6], [4, 6, 7]]
    """
    return np.concatenate([np.empty((0, 3), dtype=np.int64), *map(_cut, groups)])


def _cut(polygons: np.ndarray) -> np.ndarray:
    count, corners = polygons.shape
    if corners < 3:
        raise ValueError(f"a face with {corners} corners")
    fan = [polygons[:, [0, i, i + 1]] for i in range(1, corners - 1)]
    whole = np.stack(fan, axis=1).reshape(count * (corners - 2), 3)
    if not (np.isfinite(whole).all() and (whole == np.floor(whole)).all() and (np.abs(whole) < 2**53).all()):
        raise ValueError("a face's corner is no index")
    return whole.astype(np.int64)
