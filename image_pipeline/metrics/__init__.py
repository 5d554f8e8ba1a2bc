"""Scores of images: FID, KID, Inception Score, improved precision and recall, on a named feature network."""

from image_pipeline.metrics.choose import FEATURE_NETS, open_feature_net
from image_pipeline.metrics.features import FeatureNet, FeatureNetIdentity, Features
from image_pipeline.metrics.kernel import KernelDistance, kernel_distance, squared_mmd
from image_pipeline.metrics.manifold import PrecisionRecall, precision_recall
from image_pipeline.metrics.scores import (
    METRICS,
    ImageScores,
    check_request,
    dataset_statistics,
    score_images,
    try_net,
)
from image_pipeline.metrics.statistics import FeatureStatistics, load_statistics, save_statistics
from pcdiff.metrics.entropy import InceptionScore, inception_score
from pcdiff.metrics.frechet import FeatureMoments, frechet_distance

__all__ = [
    "FEATURE_NETS",
    "METRICS",
    "FeatureMoments",
    "FeatureNet",
    "FeatureNetIdentity",
    "FeatureStatistics",
    "Features",
    "ImageScores",
    "InceptionScore",
    "KernelDistance",
    "PrecisionRecall",
    "check_request",
    "dataset_statistics",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "load_statistics",
    "open_feature_net",
    "precision_recall",
    "save_statistics",
    "score_images",
    "squared_mmd",
    "try_net",
]
