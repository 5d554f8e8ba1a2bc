"""The metrics of nearest neighbors: MMD, coverage and 1-NNA."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pcdiff.metrics.metric import NeighborMetric, Terms

if TYPE_CHECKING:
    from pcdiff.metrics.generation import Scores

_NONE = np.zeros(0)


class MinimumMatchingDistance(NeighborMetric):
    """MMD, in the distance's unit (Achlioptas et al., ICML 2018, section 2)."""

    summary = "mean over references of the distance to the nearest sample"
    scale = None
    digits = 3

    def score(self, found: "Scores") -> float:
        """Return the mean distance of the references to their nearest samples."""
        return found.mmd

    def terms(self, record: Mapping[str, Sequence[float]]) -> Terms:
        """Return each reference's distance to its nearest sample."""
        return Terms(np.asarray(record["reference_distance"], dtype=np.float64), _NONE)


class CoveredShare(NeighborMetric):
    """COV, in percent (Achlioptas et al., ICML 2018, section 2)."""

    summary = "share of references that are the nearest reference of some sample"
    better = "high"
    unit = " %"

    def score(self, found: "Scores") -> float:
        """Return the percentage of references that are covered."""
        return percent(found.covered)

    def terms(self, record: Mapping[str, Sequence[float]]) -> Terms:
        """Return 100 for each reference that is covered, 0 for each other one."""
        return Terms(100 * np.asarray(record["covered"], dtype=np.float64), _NONE)


class OneNearestNeighborAccuracy(NeighborMetric):
    """1-NNA, in percent (Yang et al., PointFlow, ICCV 2019, section 5.1)."""

    summary = "accuracy of a leave-one-out 1-nearest-neighbor test that separates samples from references"
    better = "near 50"
    unit = " %"

    def score(self, found: "Scores") -> float:
        """Return the accuracy over both sets."""
        return found.one_nna.accuracy

    def terms(self, record: Mapping[str, Sequence[float]]) -> Terms:
        """Return the votes of the references and of the samples, in percent."""
        return Terms(*(100 * np.asarray(record[f"{of}_votes"], dtype=np.float64) for of in ("reference", "sample")))


def percent(votes: np.ndarray) -> float:
    """Return 100 times the mean of votes `(n,)`."""
    # One rounding: 100 times a mean would turn 58 % into 57.99999999999999.
    return float(100 * votes.sum() / len(votes))
