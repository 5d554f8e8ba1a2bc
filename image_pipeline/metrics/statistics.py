"""The statistics of a data set that FID needs, in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from image_pipeline.metrics.features import FeatureNetIdentity
from pcdiff.errors import InputError, short
from pcdiff.interop.checks import unreadable
from pcdiff.metrics.frechet import FeatureMoments
from pcdiff.runtime.atomic_write import replacing
from pcdiff.runtime.json_files import parse_json
from pcdiff.runtime.paths import is_file


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of a data set's features.

    Attributes:
        mean: `(D,)` float64.
        covariance: `(D, D)` float64, unbiased.
        count: images; None where a file lacks it (pytorch-fid's, EDM's).
        feature_net: which network; None where a file lacks it.
        dataset: the data set's identity as a dict; None where a file lacks it.
    """

    mean: Tensor = field(repr=False)
    covariance: Tensor = field(repr=False)
    count: int | None = None
    feature_net: FeatureNetIdentity | None = None
    dataset: dict | None = None

    @classmethod
    def of(
        cls, moments: FeatureMoments, feature_net: FeatureNetIdentity, dataset: dict | None
    ) -> FeatureStatistics:
        """Return the statistics of summed-up moments."""
        return cls(moments.mean, moments.covariance(), moments.count, feature_net, dataset)


def save_statistics(path: Path | str, statistics: FeatureStatistics) -> None:
    """Write statistics as `.npz`, whole or not at all.

    The keys `mu` and `sigma` are pytorch-fid's, so its tools read the file too; `about` is JSON.

    Raises:
        InputError: the name does not end in `.npz`, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path}: statistics must end in .npz")
    net = statistics.feature_net
    about = {
        "count": statistics.count,
        "feature_net": net and net.to_dict(),
        "dataset": statistics.dataset,
    }
    with replacing(path) as draft:
        np.savez(
            draft,
            mu=statistics.mean.numpy(),
            sigma=statistics.covariance.numpy(),
            about=np.array(json.dumps(about)),
        )


def load_statistics(path: Path | str) -> FeatureStatistics:
    """Read what `save_statistics` wrote, or a file of pytorch-fid or EDM (`mu` and `sigma` alone).

    Raises:
        InputError: it is absent, damaged, or holds no statistics. Nothing in it is executed.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(f"{path}: no statistics file there")
    with unreadable(str(path), "statistics with mu and sigma"):
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            mean, covariance = (np.asarray(stored[key], dtype=np.float64) for key in ("mu", "sigma"))
            about = parse_json(str(stored["about"]), f"{path}: about") if "about" in stored else {}
        net, count, dataset = (about.get(key) for key in ("feature_net", "count", "dataset"))
        identity = None if net is None else FeatureNetIdentity(str(net["name"]), str(net["sha256"]))
        if not (count is None or (type(count) is int and count > 0)) or not isinstance(dataset, dict | None):
            raise ValueError(f"about has {short(count)} images of {short(dataset)}")
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not np.isfinite(covariance).all():
        raise InputError(f"{path}: mu must be (D,) and sigma (D, D), finite, got {mean.shape}, {covariance.shape}")
    tensors = torch.from_numpy(mean), torch.from_numpy(covariance)
    return FeatureStatistics(*tensors, count, identity, dataset)
