"""How the blocks of a metric are computed: one after the other, unless the caller shares them out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

Arrays = tuple[np.ndarray, ...]


class MapBlocks(Protocol):
    """Computes blocks, in order; a job's may share them among processes and keep those that are finished."""

    def __call__(self, name: str, blocks: Sequence[Any], compute: Callable[[Any], Arrays], /) -> Iterable[Arrays]:
        """Return `compute(block)` of every block, in order.

        Args:
            name: of these blocks, unlike all others of one call of a metric.
            blocks: what `compute` is called with.
            compute: returns arrays that depend on the block alone.
        """
        ...


def in_order(name: str, blocks: Sequence[Any], compute: Callable[[Any], Arrays]) -> Iterable[Arrays]:
    """Compute blocks in this process, one after the other, as they are asked for."""
    return map(compute, blocks)
