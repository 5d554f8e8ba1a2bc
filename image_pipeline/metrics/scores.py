"""Score images against a reference: FID, KID, Inception Score, precision and recall."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from image_pipeline.data.dataset import ImageDataset, Images
from image_pipeline.metrics.features import FeatureNet, FeatureNetIdentity, Features
from image_pipeline.metrics.kernel import KernelDistance, kernel_distance
from image_pipeline.metrics.manifold import PrecisionRecall, precision_recall
from image_pipeline.metrics.statistics import FeatureStatistics
from pcdiff.errors import InputError
from pcdiff.metrics.entropy import ClassSums, InceptionScore, splits_of
from pcdiff.metrics.frechet import FeatureMoments, frechet_distance

METRICS = ("fid", "kid", "is", "prc")
_NEED_FEATURES = frozenset({"kid", "prc"})
_LEAST = {"fid": 2, "kid": 2, "is": 10, "prc": 4}  # images, with the defaults of `score_images`


@dataclass(frozen=True)
class ImageScores:
    """The scores asked for; the others are None.

    Attributes:
        feature_net: which network; no two results with different ones may be compared.
        num_samples: images scored.
        num_reference: images of the reference; None where a statistics file lacks it.
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
        classes: sums over the logits, or None.
    """

    moments: FeatureMoments
    features: Tensor | None
    classes: ClassSums | None


ShareOut = Callable[[Sequence[int], Callable[[Sequence[int]], Any]], list[Any]]
"""`share_out(items, compute)` gives `compute(share)` of all shares into which it parts the items, in one order."""


def in_one(items: Sequence[int], compute: Callable[[Sequence[int]], Any]) -> list[Any]:
    """Compute all items here, as one share."""
    return [compute(items)]


def extract(
    images: Tensor | Images,
    net: FeatureNet,
    batch_size: int = 64,
    keep_features: bool = False,
    splits: Tensor | None = None,
    progress: Callable[[int], object] = lambda count: None,
    share_out: ShareOut = in_one,
) -> Extracted:
    """Run a network over all images.

    Without keeping features, memory does not grow with the number of images.

    Args:
        images: uint8 `(n, C, H, W)`, a tensor or lazily decoded.
        net: the feature network.
        batch_size: images at a time.
        keep_features: keep all features, `n * D` float32.
        splits: of the Inception Score, the split of each image `(n,)`; None leaves the logits alone.
        progress: called with the number of images done, after each batch of this process.
        share_out: who runs which batches; `pcdiff.runtime.distributed.share_out` shares them among the processes of
            a job, all of which get the whole. By default this process runs all.

    Raises:
        InputError: no image, a batch size below 1, logits asked of a network that gives none, or features that are
            not finite.
    """
    if not len(images) or batch_size < 1:
        raise InputError(f"images and batch_size must be at least 1, got {len(images)}, {batch_size}")

    def run(share: Sequence[int]) -> tuple[FeatureMoments | None, dict[int, Tensor], ClassSums | None]:
        moments, features, classes = None, {}, None
        for first in share:
            indices = torch.arange(first, min(first + batch_size, len(images)))
            found = net(images[indices])
            moments = (moments or FeatureMoments.empty(found.features.shape[1])).add(found.features)
            if keep_features:
                features[first] = found.features.float().cpu()
            if splits is not None:
                logits = _logits(found, net)
                classes = classes or ClassSums.empty(int(splits.max()) + 1, logits.shape[1])
                classes = classes.add(logits, splits[indices])
            progress(len(indices))
        return moments, features, classes

    parts = share_out(range(0, len(images), batch_size), run)
    # by rank, so that every process adds up in one order
    moments, classes = (_merged([part[i] for part in parts if part[i] is not None]) for i in (0, 2))
    return Extracted(moments, _in_order([part[1] for part in parts]) if keep_features else None, classes)


def _merged(parts: list[Any]) -> Any:
    return reduce(lambda a, b: a.merge(b), parts) if parts else None


def _logits(found: Features, net: FeatureNet) -> Tensor:
    if found.logits is None:
        raise InputError(f"feature network {net.identity.name} gives no logits, which the Inception Score needs")
    return found.logits


def _in_order(parts: Iterable[dict[int, Tensor]]) -> Tensor:
    whole = {first: rows for part in parts for first, rows in part.items()}
    return torch.cat([whole[first] for first in sorted(whole)])


def dataset_statistics(
    dataset: ImageDataset, net: FeatureNet, batch_size: int = 64, share_out: ShareOut = in_one
) -> FeatureStatistics:
    """Return what FID needs of a data set's split, to be kept by `save_statistics`.

    Args:
        dataset: the images.
        net: the feature network.
        batch_size: images at a time.
        share_out: as for `extract`.

    Raises:
        InputError: fewer than two images, or as `extract`.
    """
    moments = extract(dataset.images, net, batch_size, share_out=share_out).moments
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
    neighbor: int = 3,
    seed: int = 2020,
    progress: Callable[[int], object] = lambda count: None,
    share_out: ShareOut = in_one,
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
        neighbor: k of precision and recall.
        seed: of KID's subsets and the Inception Score's shuffle.
        progress: called with the number of images done, after each batch.
        share_out: as for `extract`.

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
    check_request(reference, net, asked)
    whole = bool(_NEED_FEATURES & set(asked))
    given = isinstance(reference, FeatureStatistics)
    splits = splits_of(len(samples), is_splits, seed) if "is" in asked else None
    mine = extract(samples, net, batch_size, whole, splits, progress, share_out)
    theirs = None
    if not given and asked != ["is"]:
        theirs = extract(reference.images, net, batch_size, whole, None, progress, share_out)
    scores: dict = {}
    if "fid" in asked:
        known = reference if given else FeatureStatistics.of(theirs.moments, net.identity, None)
        scores["fid"] = frechet_distance(mine.moments.mean, mine.moments.covariance(), known.mean, known.covariance)
    if "kid" in asked:
        scores["kid"] = kernel_distance(mine.features, theirs.features, kid_subsets, kid_subset_size, seed)
    if "is" in asked:
        scores["inception_score"] = mine.classes.score()
    if "prc" in asked:
        scores["prc"] = precision_recall(mine.features, theirs.features, neighbor)
    return ImageScores(
        net.identity,
        len(samples),
        reference.count if given else len(reference),
        reference.dataset if given else _about(reference),
        **scores,
    )


def check_request(reference: ImageDataset | FeatureStatistics, net: FeatureNet, metrics: list[str]) -> None:
    """Refuse metrics that are unknown, or for which the reference is not enough.

    Raises:
        InputError: as said, or the reference's statistics are of another network.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise InputError(f"unknown metric {unknown[0] if unknown else 'none'!r}; known are {', '.join(METRICS)}")
    if not isinstance(reference, FeatureStatistics):
        return
    if needed := sorted(_NEED_FEATURES & set(metrics)):
        raise InputError(f"{needed[0]} needs the reference's images, got their statistics, which suffice for fid")
    if reference.feature_net not in (None, net.identity):
        raise InputError(
            f"statistics are of feature network {reference.feature_net.name}"
            f" ({reference.feature_net.sha256 or 'no weights'}), got {net.identity.name}"
            f" ({net.identity.sha256 or 'no weights'}); make them anew"
        )


def try_net(net: FeatureNet, shape: Sequence[int], count: int, metrics: list[str], batch_size: int = 64) -> None:
    """Run a network on black images, so that what it refuses is known before any image is drawn.

    Args:
        net: the feature network.
        shape: (C, H, W) of the images.
        count: of the images.
        metrics: names in `METRICS`.
        batch_size: images at a time.

    Raises:
        InputError: the network does not take such images or does not give what a metric needs, or the images are
            too few.
    """
    found = net(torch.zeros(min(batch_size, count), *shape, dtype=torch.uint8))
    if "is" in metrics:
        _logits(found, net)
    least = max(_LEAST[name] for name in metrics)
    if count < least:
        raise InputError(
            f"--metrics {' '.join(metrics)}: at least {least} images are needed, got {count} (--num-samples)"
        )


def _about(dataset: ImageDataset) -> dict:
    return {**dataset.identity.to_dict(), "split": dataset.split}
