"""The Jensen-Shannon divergence as metrics: as published, and of clouds scaled into the sphere."""

from typing import Any

from torch import Tensor

from pcdiff.metrics.bootstrap import jsd_interval
from pcdiff.metrics.jsd import jsd_legacy, jsd_normalized, outside_share
from pcdiff.metrics.metric import Metric


class JSD(Metric):
    """`jsd_legacy`, in bits."""

    summary = (
        "divergence between where the two sets have their points, on a 28³ grid in a sphere of radius 0.5; points "
        "outside are snapped to it, as published"
    )
    scale = 1e3

    def score(self, samples: Tensor, reference: Tensor) -> float:
        """Return the divergence in bits, 0 to 1."""
        return jsd_legacy(samples, reference)

    def interval(self, samples: Tensor, reference: Tensor, **settings: Any) -> tuple[float, float]:
        """Return its bootstrap interval over the clouds of both sets."""
        return jsd_interval(samples, reference, **settings)

    def details(self, samples: Tensor, reference: Tensor) -> dict[str, Any]:
        """Return the grid, and the share of points outside its sphere."""
        return {
            "form": "legacy: 28^3 grid in a sphere of radius 0.5, points outside snapped to it",
            "outside_share": {"samples": outside_share(samples), "reference": outside_share(reference)},
        }


class NormalizedJSD(Metric):
    """`jsd_normalized`, in bits."""

    summary = "the same after every cloud is scaled into the sphere"
    scale = 1e3
    header = "JSD normalized"

    def score(self, samples: Tensor, reference: Tensor) -> float:
        """Return the divergence in bits, 0 to 1."""
        return jsd_normalized(samples, reference)

    def interval(self, samples: Tensor, reference: Tensor, **settings: Any) -> tuple[float, float]:
        """Return its bootstrap interval over the clouds of both sets."""
        return jsd_interval(samples, reference, normalized=True, **settings)
