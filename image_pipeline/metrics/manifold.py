"""Improved precision and recall (Kynkaanniemi et al., NeurIPS 2019, section 2 and algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from pcdiff.errors import InputError

_BLOCK_PAIRS = 1 << 24  # distances in memory at a time: 128 MiB


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares of each set that lie within the other's manifold.

    Attributes:
        precision: of the samples in the reference's, 0 to 1.
        recall: of the reference in the samples', 0 to 1.
        neighbor: k, whose distance is each feature's radius.
    """

    precision: float
    recall: float
    neighbor: int

    @property
    def f_score(self) -> float:
        """The harmonic mean of the two; 0 where both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    def to_dict(self) -> dict:
        """Return a JSON-ready dict."""
        return {**asdict(self), "f_score": self.f_score}


def precision_recall(samples: Tensor, reference: Tensor, neighbor: int = 3) -> PrecisionRecall:
    """Return the shares of features within reach of some feature of the other set.

    A feature reaches as far as its k-th nearest other one of its own set, the border included. Blocks of distances
    in float64, so memory grows with the sets' sizes only.

    Args:
        samples: `(n, D)`, n > k.
        reference: `(m, D)`, m > k.
        neighbor: k.

    Raises:
        InputError: shapes that do not fit, or a set too small.
    """
    if samples.ndim != 2 or reference.ndim != 2 or samples.shape[1] != reference.shape[1]:
        raise InputError(
            f"features must be (n, D) and (m, D), got {tuple(samples.shape)}, {tuple(reference.shape)}"
        )
    if not 1 <= neighbor < min(len(samples), len(reference)):
        raise InputError(
            f"neighbor must be in 1..{min(len(samples), len(reference)) - 1}, below the smaller set's size,"
            f" got {neighbor}"
        )
    # The products of _distances cancel least about a common center.
    center = reference.double().mean(dim=0)
    samples, reference = samples.double() - center, reference.double() - center
    return PrecisionRecall(
        precision=_share_within(samples, reference, radii(reference, neighbor)),
        recall=_share_within(reference, samples, radii(samples, neighbor)),
        neighbor=neighbor,
    )


def radii(features: Tensor, neighbor: int) -> Tensor:
    """Return each feature's distance to its k-th nearest other one, `(n,)` float64."""
    found = []
    for first, distance in _distances(features, features):
        rows = torch.arange(len(distance))
        distance[rows, first + rows] = float("inf")  # not its own neighbor
        found.append(distance.kthvalue(neighbor, dim=1).values)
    return torch.cat(found)


def _share_within(features: Tensor, others: Tensor, reach: Tensor) -> float:
    inside = sum(int((distance <= reach).any(dim=1).sum()) for _, distance in _distances(features, others))
    return inside / len(features)


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the distances `(rows, m)` of block after block of x to all of y."""
    rows = max(1, _BLOCK_PAIRS // len(y))
    y = y.double()
    for first in range(0, len(x), rows):
        part = x[first : first + rows].double()
        squares = part.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
        squared = squares - 2 * (part @ y.T)
        # what is left of equal features is rounding: they are 0 apart, and must be, for duplicates to count
        squared = squared.masked_fill(squared < 64 * torch.finfo(torch.float64).eps * squares, 0)
        yield first, squared.sqrt()
