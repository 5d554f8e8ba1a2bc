"""Losses and gradients that are not finite: noticed on the device, without waiting for it."""

import torch
from torch import Tensor

from pcdiff.errors import WorkFailed


class TrainingDiverged(WorkFailed):
    """The loss or the gradient is not finite any more."""


class NonfiniteWatch:
    """Notes which steps had a term or gradient that is not finite, and lets the optimizer leave those steps out.

    Args:
        device: where the terms are computed; they are read from it by `read` alone.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._names: list[str] = []
        self._count = torch.zeros((), dtype=torch.long, device=device)
        self._first = torch.full((), -1, dtype=torch.long, device=device)
        self._bad: Tensor | None = None

    def see(self, step: int, terms: dict[str, Tensor]) -> Tensor:
        """Look at the scalars of step `step`; return 1 if one is not finite, else 0, as the optimizer wants it."""
        self._names = list(terms)
        bad = ~torch.stack([value.detach().float() for value in terms.values()]).isfinite()
        found = bad.any()
        first = found & (self._first < 0)
        self._first = torch.where(first, step, self._first)
        self._bad = bad if self._bad is None else torch.where(first, bad, self._bad)
        self._count += found
        return found.float()

    def read(self) -> tuple[int, int, list[str]]:
        """Return how many steps were bad, the first of them, and what was bad in it; waits for the device."""
        if self._bad is None:
            return 0, -1, []
        count, first = torch.stack([self._count, self._first]).tolist()
        return count, first, [name for name, bad in zip(self._names, self._bad.tolist(), strict=True) if bad]
