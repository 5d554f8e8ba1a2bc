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


def inception_score(logits: Tensor, num_splits: int = 10, seed: int | None = 2020) -> InceptionScore:
    """Return `exp(E KL(p(y|x) | p(y)))`, averaged over splits.

    Args:
        logits: `(n, K)` over the classes.
        num_splits: parts, of equal size up to one, each with its own p(y).
        seed: the images are shuffled first, by torch-fidelity's generator, for the same parts as there; None keeps
            their order.

    Raises:
        InputError: wrong shape, or fewer images than splits.
    """
    if logits.ndim != 2 or num_splits < 1 or len(logits) < num_splits:
        raise InputError(f"logits must be (n, K), n at least num_splits {num_splits}, got {tuple(logits.shape)}")
    count = len(logits)
    if seed is not None:
        order = np.arange(count)
        np.random.RandomState(seed).shuffle(order)
        logits = logits[torch.from_numpy(order)]
    log_p = logits.double().log_softmax(dim=1)
    scores = []
    for part in range(num_splits):
        own = log_p[part * count // num_splits : (part + 1) * count // num_splits]
        marginal = own.exp().mean(dim=0)
        # entropies apart: where a class has no probability at all, 0 log 0 is 0
        entropy = -torch.special.xlogy(marginal, marginal).sum()
        conditional = -torch.nan_to_num(own.exp() * own, nan=0.0).sum(dim=1).mean()
        scores.append((entropy - conditional).exp())
    values = torch.stack(scores)
    return InceptionScore(float(values.mean()), float(values.std(correction=0)), num_splits)
