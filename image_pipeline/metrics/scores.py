"""Score images against a reference: FID, KID, Inception Score, precision and recall."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from image_pipeline.data.dataset import ImageDataset, Images
from image_pipeline.metrics.entropy import InceptionScore, inception_score
from image_pipeline.metrics.features import FeatureNet, FeatureNetIdentity
from image_pipeline.metrics.frechet import FeatureMoments, frechet_distance
from image_pipeline.metrics.kernel import KernelDistance, kernel_distance
from image_pipeline.metrics.manifold import PrecisionRecall, precision_recall
from image_pipeline.metrics.statistics import FeatureStatistics
from pcdiff import distributed
from pcdiff.errors import InputError

METRICS = ("fid", "kid", "is", "prc")
_NEED_FEATURES = frozenset({"kid", "prc"})


@dataclass(frozen=True)
class ImageScores:
    """The scores asked for; the others are None.

    Attributes:
        feature_net: which network; no two results with different ones may be compared.
        num_samples: images scored.
        num_reference: images of the reference; None where a statistics file does not say.
        reference: the reference's identity; None where it is unknown.
        fid: squared Frechet distance.
        kid: kernel distance.
        inception_score: of the samples alone.
        prc: improved precision and recall.
    """

    feature_net: FeatureNetIdentity
    num_samples: int
    num_reference: int | None
    reference: dict | None
    fid: float | None = None
    kid: KernelDistance | None = None
    inception_score: InceptionScore | None = None
    prc: PrecisionRecall | None = None

    def to_dict(self) -> dict:
        """Return a JSON-ready dict; scores not asked for are absent."""
        entries: dict = {
            "feature_net": self.feature_net.to_dict(),
            "num_samples": self.num_samples,
            "num_reference": self.num_reference,
            "reference": self.reference,
        }
        if self.fid is not None:
            entries["fid"] = self.fid
        for name in ("kid", "inception_score", "prc"):
            if (score := getattr(self, name)) is not None:
                entries[name] = score.to_dict()
        return entries


@dataclass
class Extracted:
    """What a network makes of a set of images.

    Attributes:
        moments: of the features.
        features: `(n, D)` float32 in the images' order, or None if only the moments were asked for.
        logits: `(n, K)` float32, or None.
    """

    moments: FeatureMoments
    features: Tensor | None
    logits: Tensor | None


def extract(
    images: Tensor | Images,
    net: FeatureNet,
    batch_size: int = 64,
    keep_features: bool = False,
    keep_logits: bool = False,
    progress: Callable[[int], object] = lambda count: None,
) -> Extracted:
    """Run a network over all images; processes that have joined share the work, and all get the whole.

    Without keeping anything, memory does not grow with the number of images.

    Args:
        images: uint8 `(n, C, H, W)`, a tensor or lazily decoded.
        net: the feature network.
        batch_size: images at a time.
        keep_features: keep all features, `n * D` float32.
        keep_logits: keep all logits.
        progress: called with the number of images done, after each batch of this process.

    Raises:
        InputError: no image, a batch size below 1, logits asked of a network that gives none, or features that are
            not finite.
    """
    if not len(images) or batch_size < 1:
        raise InputError(f"images and batch_size must be at least 1, got {len(images)}, {batch_size}")
    batches = range(0, len(images), batch_size)
    moments, features, logits = None, {}, {}
    for first in batches[distributed.rank() :: distributed.world_size()]:
        indices = torch.arange(first, min(first + batch_size, len(images)))
        found = net(images[indices])
        if keep_logits and found.logits is None:
            raise InputError(
                f"feature network {net.identity.name} gives no logits, which the Inception Score needs"
            )
        moments = (moments or FeatureMoments.empty(found.features.shape[1])).add(found.features)
        if keep_features:
            features[first] = found.features.float().cpu()
        if keep_logits:
            logits[first] = found.logits.float().cpu()
        progress(len(indices))
    parts = distributed.gather((moments, features, logits))
    merged = None
    for part, _, _ in parts:  # by rank, so that every process adds up in one order
        if part is not None:
            merged = part if merged is None else merged.merge(part)
    return Extracted(
        merged,
        _in_order([part for _, part, _ in parts]) if keep_features else None,
        _in_order([part for _, _, part in parts]) if keep_logits else None,
    )


def _in_order(parts: Iterable[dict[int, Tensor]]) -> Tensor:
    whole = {first: rows for part in parts for first, rows in part.items()}
    return torch.cat([whole[first] for first in sorted(whole)])


def dataset_statistics(dataset: ImageDataset, net: FeatureNet, batch_size: int = 64) -> FeatureStatistics:
    """Return what FID needs of a data set's split, to be kept by `save_statistics`.

    Raises:
        InputError: fewer than two images, or as `extract`.
    """
    moments = extract(dataset.images, net, batch_size).moments
    return FeatureStatistics.of(moments, net.identity, _about(dataset))


def score_images(
    samples: Tensor | Images,
    reference: ImageDataset | FeatureStatistics,
    net: FeatureNet,
    metrics: Iterable[str] = METRICS,
    batch_size: int = 64,
    kid_subsets: int = 100,
    kid_subset_size: int = 1000,
    is_splits: int = 10,
    neighbour: int = 3,
    seed: int = 2020,
    progress: Callable[[int], object] = lambda count: None,
) -> ImageScores:
    """Score samples; the defaults are torch-fidelity's, so its numbers can stand beside.

    Args:
        samples: uint8 `(n, C, H, W)`.
        reference: images, or their statistics, which suffice for FID (and the Inception Score needs neither).
        net: the feature network; of both sets.
        metrics: names in `METRICS`: `fid`, `kid`, `is`, `prc`.
        batch_size: images at a time.
        kid_subsets: of KID.
        kid_subset_size: of KID, at most the smaller set's size.
        is_splits: of the Inception Score.
        neighbour: k of precision and recall.
        seed: of KID's subsets and the Inception Score's shuffle.
        progress: called with the number of images done, after each batch.

    Raises:
        InputError: an unknown metric, statistics of another network, a metric they do not suffice for, or sets too
            small.

    Example:
        >>> dataset, net = load_images("digits"), open_feature_net("random")
        >>> test = load_images("digits", "test").images
        >>> score_images(test, dataset, net, metrics=["fid"]).to_dict()["feature_net"]["name"]
        'random'
    """
    asked = list(metrics)
    unknown = [name for name in asked if name not in METRICS]
    if unknown or not asked:
        raise InputError(f"unknown metric {unknown[0] if unknown else 'none'!r}; known are {', '.join(METRICS)}")
    whole = bool(_NEED_FEATURES & set(asked))
    given = isinstance(reference, FeatureStatistics)
    if given:
        if whole:
            name = min(_NEED_FEATURES & set(asked))
            raise InputError(f"{name} needs the reference's images, got their statistics, which suffice for fid")
        if reference.feature_net not in (None, net.identity):
            raise InputError(
                f"statistics are of feature network {reference.feature_net.name}"
                f" ({reference.feature_net.sha256 or 'no weights'}), got {net.identity.name}"
                f" ({net.identity.sha256 or 'no weights'}); make them anew"
            )
    mine = extract(samples, net, batch_size, whole, "is" in asked, progress)
    theirs = None
    if not given and asked != ["is"]:
        theirs = extract(reference.images, net, batch_size, whole, progress=progress)
    scores: dict = {}
    if "fid" in asked:
        known = reference if given else FeatureStatistics.of(theirs.moments, net.identity, None)
        scores["fid"] = frechet_distance(mine.moments.mean, mine.moments.covariance(), known.mean, known.covariance)
    if "kid" in asked:
        scores["kid"] = kernel_distance(mine.features, theirs.features, kid_subsets, kid_subset_size, seed)
    if "is" in asked:
        scores["inception_score"] = inception_score(mine.logits, is_splits, seed)
    if "prc" in asked:
        scores["prc"] = precision_recall(mine.features, theirs.features, neighbour)
    return ImageScores(
        net.identity,
        len(samples),
        reference.count if given else len(reference),
        reference.dataset if given else _about(reference),
        **scores,
    )


def _about(dataset: ImageDataset) -> dict:
    return {**dataset.identity.to_dict(), "split": dataset.split}
