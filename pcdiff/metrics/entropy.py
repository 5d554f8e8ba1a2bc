"""The Inception Score (Salimans et al., NeurIPS 2016, section 4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from pcdiff.errors import InputError


@dataclass(frozen=True)
class InceptionScore:
    """Inception Score over splits.

    Attributes:
        mean: over the splits, 1 to the number of classes.
        std: over the splits, dividing by their number.
        num_splits: how many.
    """

    mean: float
    std: float
    num_splits: int

    def to_dict(self) -> dict:
        """Return a JSON-ready dict."""
        return asdict(self)


@dataclass(frozen=True)
class ClassSums:
    """Sums over the images of each split, all that the score needs of their logits.

    Attributes:
        counts: images, `(S,)`.
        probabilities: of the classes, `(S, K)` float64.
        log_probabilities: of `p log p`, over the classes too, `(S,)` float64.
    """

    counts: Tensor
    probabilities: Tensor
    log_probabilities: Tensor

    @classmethod
    def empty(cls, num_splits: int, num_classes: int) -> ClassSums:
        """Return the sums over no image."""
        sums = torch.zeros(num_splits, num_classes, dtype=torch.float64)
        return cls(torch.zeros(num_splits, dtype=torch.int64), sums, torch.zeros(num_splits, dtype=torch.float64))

    def add(self, logits: Tensor, splits: Tensor) -> ClassSums:
        """Return the sums with images of `logits (B, K)`, each in its split `(B,)`."""
        log_p = logits.cpu().double().log_softmax(dim=1)
        p = log_p.exp()
        # where a class has no probability at all, 0 log 0 is 0
        entropies = torch.nan_to_num(p * log_p, nan=0.0).sum(dim=1)
        return ClassSums(
            self.counts.index_add(0, splits, torch.ones_like(splits)),
            self.probabilities.index_add(0, splits, p),
            self.log_probabilities.index_add(0, splits, entropies),
        )

    def merge(self, other: ClassSums) -> ClassSums:
        """Return the sums over both."""
        return ClassSums(
            self.counts + other.counts,
            self.probabilities + other.probabilities,
            self.log_probabilities + other.log_probabilities,
        )

    def score(self) -> InceptionScore:
        """Return `exp(E KL(p(y|x) | p(y)))`, averaged over the splits."""
        marginal = self.probabilities / self.counts[:, None]
        entropy = -torch.special.xlogy(marginal, marginal).sum(dim=1)
        values = (entropy + self.log_probabilities / self.counts).exp()
        return InceptionScore(float(values.mean()), float(values.std(correction=0)), len(values))


def splits_of(count: int, num_splits: int = 10, seed: int | None = 2020) -> Tensor:
    """Return the split of each image, `(count,)`.

    Args:
        count: images.
        num_splits: parts, of equal size up to one, each with its own p(y).
        seed: the images are shuffled first, by torch-fidelity's generator, for the same parts as there; None keeps
            their order.

    Raises:
        InputError: fewer images than splits.
    """
    if not 1 <= num_splits <= count:
        raise InputError(f"the Inception Score needs at least num_splits {num_splits} images, got {count}")
    order = np.arange(count)
    if seed is not None:
        np.random.RandomState(seed).shuffle(order)
    ends = [part * count // num_splits for part in range(num_splits + 1)]
    splits = torch.empty(count, dtype=torch.int64)
    splits[torch.from_numpy(order)] = torch.arange(num_splits).repeat_interleave(torch.tensor(ends).diff())
    return splits


def inception_score(logits: Tensor, num_splits: int = 10, seed: int | None = 2020) -> InceptionScore:
    """Return `exp(E KL(p(y|x) | p(y)))`, averaged over splits.

    Args:
        logits: `(n, K)` over the classes.
        num_splits: see `splits_of`.
        seed: see `splits_of`.

    Raises:
        InputError: wrong shape, or fewer images than splits.
    """
    if logits.ndim != 2:
        raise InputError(f"logits must be (n, K), got {tuple(logits.shape)}")
    splits = splits_of(len(logits), num_splits, seed)
    return ClassSums.empty(num_splits, logits.shape[1]).add(logits, splits).score()
