"""Scores of generated, reconstructed and completed clouds, under named protocols."""

from pcdiff.metrics.bootstrap import jsd_interval, mean_interval, pooled_interval
from pcdiff.metrics.comparison import compare, label_files, read_result
from pcdiff.metrics.completion import (
    NearestTraining,
    completion_scores,
    completion_table,
    nearest_by_given,
    total_mutual_difference,
    unidirectional_hausdorff,
)
from pcdiff.metrics.evaluation import emd_seconds, evaluate, fingerprint, prepared, table
from pcdiff.metrics.generation import coverage, generation_scores, mmd, one_nna
from pcdiff.metrics.jsd import jsd_legacy, jsd_normalized
from pcdiff.metrics.memorization import memorization
from pcdiff.metrics.metric import Metric, NeighborMetric
from pcdiff.metrics.protocols import PROTOCOLS, Protocol, get_protocol, normalize_bbox, normalize_unit
from pcdiff.metrics.reconstruction import (
    f_score,
    oracle_scores,
    reconstruction_report,
    reconstruction_scores,
    reconstruction_table,
    split_samplings,
)
from pcdiff.metrics.registry import DISTANCES, METRICS, Distance

__all__ = [
    "DISTANCES",
    "METRICS",
    "PROTOCOLS",
    "Distance",
    "Metric",
    "NearestTraining",
    "NeighborMetric",
    "Protocol",
    "compare",
    "completion_scores",
    "completion_table",
    "coverage",
    "emd_seconds",
    "evaluate",
    "f_score",
    "fingerprint",
    "generation_scores",
    "get_protocol",
    "jsd_interval",
    "jsd_legacy",
    "jsd_normalized",
    "label_files",
    "mean_interval",
    "memorization",
    "mmd",
    "nearest_by_given",
    "normalize_bbox",
    "normalize_unit",
    "one_nna",
    "oracle_scores",
    "pooled_interval",
    "prepared",
    "read_result",
    "reconstruction_report",
    "reconstruction_scores",
    "reconstruction_table",
    "split_samplings",
    "table",
    "total_mutual_difference",
    "unidirectional_hausdorff",
]
