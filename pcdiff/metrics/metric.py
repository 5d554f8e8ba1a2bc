"""What a metric of a set of clouds is: a value, an interval, and how tables print it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from torch import Tensor

from pcdiff.metrics.bootstrap import pooled_interval

if TYPE_CHECKING:
    from pcdiff.metrics.generation import Scores

Better = Literal["low", "high", "near 50"]
_ARROWS = {"low": " ↓", "high": " ↑", "near 50": " (50 is best)"}
_POWERS = {1.0: "", 10.0: " ×10", 1e2: " ×10²", 1e3: " ×10³", 1e4: " ×10⁴"}


@dataclass(frozen=True)
class Column:
    """How one score is printed.

    Attributes:
        name: of the score in a result.
        header: above the column, without scale and direction.
        scale: the score is multiplied by it, as papers print it: a power of ten up to 10⁴.
        better: which value is best.
        digits: after the decimal point.
    """

    name: str
    header: str
    scale: float
    better: Better
    digits: int

    @property
    def title(self) -> str:
        """The header with scale and direction: `MMD-CD ×10³ ↓`."""
        return f"{self.header}{_POWERS[self.scale]}{_ARROWS[self.better]}"

    def text(self, score: float) -> str:
        """Return a score as printed, in this column's scale."""
        return f"{score * self.scale:.{self.digits}f}"

    def badness(self, score: float) -> float:
        """Return what is least for the best score; scores that print alike are equally good."""
        printed = float(self.text(score))
        if self.better == "near 50":
            return round(abs(printed - 50), self.digits)
        return printed if self.better == "low" else -printed


class Terms(NamedTuple):
    """What a score is the mean of, or the median: terms of the reference clouds, and of the result's own."""

    shared: np.ndarray  # (n,), in the order of the reference
    own: np.ndarray  # (m,), none for most scores
    median: bool = False

    def score(self, shared: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Return the scores of resampled terms `(R, n)` and `(R, m)`, `(R,)`."""
        if self.median:
            return np.median(shared, axis=1)
        return (shared.sum(axis=1) + own.sum(axis=1)) / (shared.shape[1] + own.shape[1])


class Metric:
    """A score of generated clouds against a reference set. `pcdiff.metrics.METRICS` has the classes by name.

    Class attributes:
        summary: what it is, in one line, for the documentation's table.
        better: which value is best: `low`, `high` or `near 50` (a percentage).
        scale: of the column in tables, a power of ten up to 10⁴.
        digits: after the decimal point, in tables.
        header: of the column; the metric's name by default.
        by_default: whether it is computed where no metrics are named; False of those that need a file.
    """

    summary: ClassVar[str] = ""
    by_default: ClassVar[bool] = True
    better: ClassVar[Better] = "low"
    scale: ClassVar[float] = 1.0
    digits: ClassVar[int] = 3
    header: ClassVar[str | None] = None

    def score(self, samples: Tensor, reference: Tensor) -> float:
        """Return the score.

        Args:
            samples: `(n, P, 3)` float32, as the protocol compares them.
            reference: `(n, Q, 3)`, likewise.
        """
        raise NotImplementedError

    def interval(self, samples: Tensor, reference: Tensor, **settings: Any) -> tuple[float, float] | None:
        """Return the ends of a confidence interval; None where the metric has none.

        Args:
            samples: as of `score`.
            reference: as of `score`.
            **settings: `resamples`, `level`, `seed` and `name`, as `pcdiff.metrics.mean_interval` takes them.
        """
        return None

    def details(self, samples: Tensor, reference: Tensor) -> dict[str, Any]:
        """Return what a result file has besides the score, ready for JSON; nothing by default."""
        return {}

    @classmethod
    def column(cls, name: str) -> Column:
        """Return the column of a metric's name."""
        return Column(name, cls.header or name, cls.scale, cls.better, cls.digits)


class NeighborMetric:
    """A score that needs only the nearest clouds: it is computed by each of a protocol's distances.

    `pcdiff.metrics.METRICS` has it among the others; results have it as NAME-DISTANCE, such as `MMD-CD`.

    Class attributes:
        summary: as of `Metric`, like `better` and `digits`.
        scale: None takes the distance's own.
        unit: behind the name in a table's header.
    """

    summary: ClassVar[str] = ""
    better: ClassVar[Better] = "low"
    scale: ClassVar[float | None] = 1.0
    digits: ClassVar[int] = 2
    unit: ClassVar[str] = ""

    def score(self, found: "Scores") -> float:
        """Return the score of what was found by one distance."""
        raise NotImplementedError

    def terms(self, record: Mapping[str, Sequence[float]]) -> Terms:
        """Return the terms that the score is the mean of, for intervals and paired comparisons.

        Args:
            record: what a result has of each cloud, as `pcdiff.metrics.generation.Scores.record` returns it.
        """
        raise NotImplementedError

    def interval(self, found: "Scores", **settings: Any) -> tuple[float, float]:
        """Return the bootstrap interval over the terms; `settings` as of `pcdiff.metrics.mean_interval`."""
        terms = self.terms(found.record())
        return pooled_interval(*(group for group in (terms.own, terms.shared) if len(group)), **settings)

    @classmethod
    def column(cls, name: str, distance: str, scale: float) -> Column:
        """Return the column of a metric's name by a distance, whose own scale is given."""
        full = f"{name}-{distance}"
        return Column(full, f"{full}{cls.unit}", scale if cls.scale is None else cls.scale, cls.better, cls.digits)
