"""P-FID and P-IS: Frechet distance and Inception Score by a classifier of clouds (point-e, 2022)."""

from typing import Any

import torch
from torch import Tensor

from pcdiff.metrics.entropy import ClassSums
from pcdiff.metrics.frechet import FeatureMoments, frechet_distance
from pcdiff.metrics.metric import Metric
from pcdiff.metrics.pointnet2 import classify, the_classifier

SPLIT = 5000
"""Clouds that P-IS takes a mean over at once."""


def p_fid(features: Tensor, reference: Tensor) -> float:
    """Return the Frechet distance of Gaussians fitted to features `(n, F)` and `(m, F)`."""
    ours, theirs = (FeatureMoments.empty(rows.shape[1]).add(rows) for rows in (features, reference))
    return frechet_distance(ours.mean, ours.covariance(), theirs.mean, theirs.covariance())


def p_is(log_probabilities: Tensor, split: int = SPLIT) -> float:
    """Return the mean Inception Score of clouds' log-probabilities `(n, K)`, over parts of `split` in order."""
    parts = torch.arange(len(log_probabilities)) // split
    sums = ClassSums.empty(int(parts[-1]) + 1, log_probabilities.shape[1])
    return sums.add(log_probabilities, parts).score().mean


class PFID(Metric):
    """`p_fid` by point-e's PointNet++, `pointnet.pt`."""

    summary = (
        "Frechet distance of the features that point-e's PointNet++ has of the two sets (Nichol et al., 2022); by "
        "`--metrics` alone, with its file in `PCDIFF_POINTNET`"
    )
    by_default = False
    digits = 2

    def score(self, samples: Tensor, reference: Tensor) -> float:
        """Return the distance; with fewer clouds than the 512 features it is biased upwards."""
        net, _ = the_classifier()
        return p_fid(*(classify(net, clouds).features for clouds in (samples, reference)))

    def details(self, samples: Tensor, reference: Tensor) -> dict[str, Any]:
        """Return which classifier it was."""
        return {"classifier": "PointNet++ (point-e)", "sha256": the_classifier()[1]}


class PIS(Metric):
    """`p_is` by the same classifier."""

    summary = "Inception Score of the same net's classes: sure of each sample, and of many kinds"
    by_default = False
    better = "high"
    digits = 2

    def score(self, samples: Tensor, reference: Tensor) -> float:
        """Return the score of the samples, 1 to the number of classes; the reference does not count."""
        return p_is(classify(the_classifier()[0], samples).log_probabilities)
