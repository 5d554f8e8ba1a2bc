"""Which examples a training step sees, as a pure function of (seed, step)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Independent random streams from one seed.
ORDER, POINTS = 0, 1


def stream(seed: int, number: int, counter: int) -> torch.Generator:
    """Return a generator that depends on all three numbers (SeedSequence mixes them)."""
    state = np.random.SeedSequence([seed, number, counter]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)  # 63 bits: manual_seed takes signed


class ShuffledEpochs:
    """Endless shuffled batches of indices: a fresh permutation per epoch, without a gap.

    A batch may span two epochs; no example is dropped or seen twice within one epoch.

    Args:
        count: examples.
        batch_size: indices a step; may exceed `count`.
        seed: at least 0.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._orders: dict[int, Tensor] = {}  # the last permutations, recomputed when missing

    def indices(self, step: int) -> Tensor:
        """Return what the batch of one step holds, `(batch_size,)` int64."""
        first = step * self.batch_size
        epochs = range(first // self.count, (first + self.batch_size - 1) // self.count + 1)
        self._orders = {epoch: self._order(epoch) for epoch in epochs}
        start = first - epochs[0] * self.count
        return torch.cat(list(self._orders.values()))[start : start + self.batch_size]

    def _order(self, epoch: int) -> Tensor:
        cached = self._orders.get(epoch)
        if cached is not None:
            return cached
        return torch.randperm(self.count, generator=stream(self.seed, ORDER, epoch))
