"""The built-in stand-in: parametric shapes of some ShapeNet categories, for use without a data set.

Every cloud depends only on (seed, category, split, index): a smaller set is the prefix of a larger one, and
the splits come from separate random streams. y is up; the scale is ShapeNet's (bounding box centered, unit
diagonal). These are simple shapes, good for trying things out and for tests; scores on them mean nothing
for real data, and every result computed on them is marked (`DatasetIdentity.stand_in`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import trimesh

from pcdiff.data.procedural.airplane import airplane
from pcdiff.data.procedural.car import car
from pcdiff.data.procedural.geometry import MicroBatches
from pcdiff.data.procedural.guitar import guitar
from pcdiff.data.procedural.household import bottle, lamp, mug, table
from pcdiff.data.procedural.rocket import rocket
from pcdiff.data.procedural.seating import bench, chair, sofa
from pcdiff.data.procedural.vessel import vessel
from pcdiff.errors import InputError, UnknownName

# Part of the fingerprint: raise it whenever a family's shapes change.
VERSION = 1
POINTS = 2048
DEFAULT_SEED = 2024
DEFAULT_COUNTS = {"train": 512, "val": 64, "test": 64}

FAMILIES: dict[str, Callable[[np.random.Generator], MicroBatches]] = {
    family.__name__: family
    for family in (airplane, bench, bottle, car, chair, guitar, lamp, mug, rocket, sofa, table, vessel)
}
_SPLIT_STREAM = {"train": 0, "val": 1, "test": 2}


def shape_generator(category: str, split: str, index: int, seed: int = DEFAULT_SEED) -> np.random.Generator:
    """Return the generator that shape `index` of (category, split) is drawn from.

    Raises:
        InputError: unknown category or split, or a negative number.
    """
    if category not in FAMILIES:
        raise InputError(
            f"no built-in shapes for category {category!r} (there are: {', '.join(sorted(FAMILIES))});"
            " give --dataset-path to use your own"
        )
    if split not in _SPLIT_STREAM:
        raise UnknownName("split", split, _SPLIT_STREAM)
    if index < 0 or seed < 0:
        raise InputError(f"index and seed must not be negative, got {index} and {seed}")
    name = int.from_bytes(hashlib.sha256(category.encode()).digest()[:4], "big")
    return np.random.Generator(np.random.PCG64([seed, name, _SPLIT_STREAM[split], index]))


def shape_mesh(category: str, split: str, index: int, seed: int = DEFAULT_SEED) -> trimesh.Trimesh:
    """Return the mesh that `shape_clouds` draws cloud `index` from."""
    rng = shape_generator(category, split, index, seed)
    return FAMILIES[category](rng).mesh()


def shape_clouds(
    category: str,
    split: str,
    count: int | None = None,
    seed: int = DEFAULT_SEED,
    num_points: int = POINTS,
) -> np.ndarray:
    """Make clouds of one category, points drawn uniformly by surface area.

    Args:
        category: a key of `FAMILIES`.
        split: train, val or test.
        count: how many; the default of the split when None.
        seed: at least 0.
        num_points: points per cloud.

    Returns:
        `(count, num_points, 3)` float32.

    Raises:
        InputError: unknown category or split, negative seed, or a size below 1.

    Example:
        >>> shape_clouds("airplane", "val", count=2, num_points=64).shape
        (2, 64, 3)
    """
    shape_generator(category, split, 0, seed)  # checks the names
    count = DEFAULT_COUNTS[split] if count is None else count
    if count < 1 or num_points < 1:
        raise InputError(f"count and num_points must be at least 1, got {count} and {num_points}")
    clouds = np.empty((count, num_points, 3), dtype=np.float32)
    for index in range(count):
        rng = shape_generator(category, split, index, seed)
        clouds[index] = FAMILIES[category](rng).sample(num_points, rng)
    return clouds


def stand_in_fingerprint(categories: Iterable[str], seed: int = DEFAULT_SEED) -> str:
    """Return the digest that names the stand-in: version, seed, counts, points and categories."""
    text = repr(("pcdiff procedural", VERSION, seed, sorted(DEFAULT_COUNTS.items()), POINTS, sorted(categories)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
