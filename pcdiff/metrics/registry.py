"""Metrics of sets of clouds, and the distances between clouds, by name. A new one is one file and one line here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pcdiff.metrics._blocks import MapBlocks
from pcdiff.metrics.emd_search import emd_neighbors
from pcdiff.metrics.feature_metrics import PFID, PIS
from pcdiff.metrics.jsd_metrics import JSD, NormalizedJSD
from pcdiff.metrics.metric import Column, Metric, NeighborMetric
from pcdiff.metrics.neighbor_metrics import CoveredShare, MinimumMatchingDistance, OneNearestNeighborAccuracy
from pcdiff.metrics.neighbors import Neighbors, Progress, chamfer_neighbors
from pcdiff.registry import Registry


@dataclass(frozen=True)
class Distance:
    """A distance between clouds, by which nearest neighbors are found.

    Attributes:
        search: finds the neighbors of two sets `(S, P, 3)` and `(R, Q, 3)`; the further arguments are what computes
            blocks of work, the name of the work, and what is called with the number of pairs compared. Returns the
            neighbors, and what a result file has of the search, ready for JSON.
        scale: of MMD in tables.
        equal_points: P and Q must be equal.
    """

    search: Callable[[Tensor, Tensor, MapBlocks, str, Progress], tuple[Neighbors, dict[str, Any]]]
    scale: float = 1e3
    equal_points: bool = False


def _by_chamfer(*args: Any) -> tuple[Neighbors, dict[str, Any]]:
    return chamfer_neighbors(*args), {}


def _by_emd(*args: Any) -> tuple[Neighbors, dict[str, Any]]:
    neighbors, effort = emd_neighbors(*args)
    return neighbors, effort.to_dict()


DISTANCES: Registry[Distance] = Registry(
    "distance", {"cd": Distance(_by_chamfer), "emd": Distance(_by_emd, scale=10.0, equal_points=True)}
)
"""By the names that protocols have; results have these in capitals."""

METRICS: Registry[type[Metric] | type[NeighborMetric]] = Registry(
    "metric",
    {
        "MMD": MinimumMatchingDistance,
        "COV": CoveredShare,
        "1-NNA": OneNearestNeighborAccuracy,
        "JSD": JSD,
        "JSD-normalized": NormalizedJSD,
        "P-FID": PFID,
        "P-IS": PIS,
    },
)
"""By their names in results."""


def neighbor_metrics() -> dict[str, NeighborMetric]:
    """Return the metrics that are computed by each distance, by name."""
    return {name: cls() for name, cls in METRICS.items() if issubclass(cls, NeighborMetric)}


def set_metrics() -> dict[str, Metric]:
    """Return the metrics that are computed of two sets of clouds themselves, by name."""
    return {name: cls() for name, cls in METRICS.items() if issubclass(cls, Metric)}


def metric_columns() -> list[Column]:
    """Return the columns of all metrics, in the order of print."""
    return [
        *(
            metric.column(name, distance.upper(), facts.scale)
            for distance, facts in DISTANCES.items()
            for name, metric in neighbor_metrics().items()
        ),
        *(metric.column(name) for name, metric in set_metrics().items()),
    ]
