"""Whether one result is better than another on the same reference clouds: a paired bootstrap of their difference.

Both results have a term for each reference cloud (or each reconstructed cloud). What makes a reference cloud hard
makes it hard for both, so the clouds are resampled for both together (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 8): the interval of the difference is then far narrower than the two separate
intervals suggest. The votes of generated clouds, which belong to one result alone, are resampled apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pcdiff.metrics.bootstrap import LEVEL, RESAMPLES, SEED, draws_of, parts_of, quantiles
from pcdiff.metrics.metric import Column, Terms
from pcdiff.metrics.registry import neighbor_metrics

WORSE, TIE, UNDECIDED = "worse", "tie", "undecided"


def terms_of(result: Mapping[str, Any], name: str) -> Terms | None:
    """Return the terms of a score by a result's record, None where it has none (the JSD has none ever).

    Args:
        result: as `evaluate` and `reconstruction_report` return it, checked.
        name: of the score.
    """
    none = np.zeros(0)
    if "per_cloud" in result:
        base, median = name.removesuffix("-median"), name.endswith("-median")
        values = result["per_cloud"].get(base)
        return None if values is None else Terms(np.asarray(values, dtype=np.float64), none, median)
    short, _, distance = name.rpartition("-")
    record, metric = (result.get("terms") or {}).get(distance), neighbor_metrics().get(short)
    return None if record is None or metric is None else metric.terms(record)


def difference_interval(
    one: Terms,
    other: Terms,
    column: Column,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
) -> tuple[float, float]:
    """Return the paired bootstrap interval of how much worse `one` is than `other`, in the score's unit.

    Worse is higher for a score whose best is low, lower for one whose best is high, and farther from 50 for 1-NNA.

    Args:
        one: terms of a score of one result.
        other: of the same score of another, on the same reference clouds.
        column: of the score.
        resamples: how often the terms are resampled.
        level: of the percentile interval.
        seed: of the draws.
    """
    draws, count = draws_of(seed, f"paired {column.name}"), len(one.shared)
    found = np.empty(resamples)
    for part in parts_of(resamples, count):
        size = part.stop - part.start
        chosen = draws.integers(count, size=(size, count))
        worth = []
        for terms in (one, other):
            m = len(terms.own)
            own = terms.own[draws.integers(m, size=(size, m))] if m else np.zeros((size, 0))
            worth.append(worseness(column, terms.score(terms.shared[chosen], own)))
        found[part] = worth[0] - worth[1]
    return quantiles(found, level)


def worseness(column: Column, score: np.ndarray | float) -> np.ndarray | float:
    """Return what is less for the better score."""
    if column.better == "near 50":
        return np.abs(score - 50)
    return score if column.better == "low" else -score


@dataclass(frozen=True)
class Verdict:
    """Which rows of a column are worse than the best.

    Attributes:
        top: the row of the best score.
        best: rows that are best or tie with the best; none where no row is shown to be worse.
        ties: rows that a bootstrap cannot separate from the best score, the best row itself left out.
        undecided: rows whose records cannot decide whether they are worse than the best.
        worse: rows that are.
    """

    top: int | None
    best: tuple[int, ...]
    ties: tuple[int, ...]
    undecided: tuple[int, ...]
    worse: tuple[int, ...]

    def words(self) -> dict[int, str]:
        """Return the verdict on each row in a word; none where there was nothing to compare."""
        found = (
            dict.fromkeys(self.ties, TIE)
            | dict.fromkeys(self.undecided, UNDECIDED)
            | dict.fromkeys(self.worse, WORSE)
        )
        return found if self.top is None else found | {self.top: "best"}


def verdict(results: Sequence[Mapping[str, Any]], column: Column, paired: bool) -> Verdict:
    """Compare every result with the one of the best score.

    Args:
        results: checked, and fit for one table.
        column: of the score; results without it are left out.
        paired: whether all are known to be of the same reference clouds in the same order.
    """
    there = [i for i, result in enumerate(results) if column.name in result["scores"]]
    if len(there) < 2:
        return Verdict(None, (), (), (), ())
    top = min(there, key=lambda i: worseness(column, results[i]["scores"][column.name]))
    outcomes = {i: compared(results[i], results[top], column, paired) for i in there if i != top}
    ties, undecided, worse = (
        tuple(i for i, w in outcomes.items() if w == word) for word in (TIE, UNDECIDED, WORSE)
    )
    return Verdict(top, tuple(sorted((top, *ties))) if worse and not undecided else (), ties, undecided, worse)


def compared(result: Mapping[str, Any], best: Mapping[str, Any], column: Column, paired: bool) -> str:
    """Return whether a result is worse than the best one, a tie, or undecided by what the two have on record."""
    if result["scores"][column.name] == best["scores"][column.name]:
        return TIE
    one, other = (terms_of(each, column.name) for each in (result, best))
    if paired and one is not None and other is not None and len(one.shared) == len(other.shared):
        low, _ = difference_interval(one, other, column)
        return WORSE if low > 0 else TIE
    found = [(each.get("intervals") or {}).get(column.name) for each in (result, best)]
    intervals = [(low, high) for low, high in filter(None, found)]
    if len(intervals) < len(found):
        return UNDECIDED
    # Two 95 % intervals that do not even touch leave no doubt; where they do, the difference may be real or not.
    if column.better == "near 50":
        intervals = [_distances_from_50(low, high) for low, high in intervals]
    elif column.better == "high":
        intervals = [(-high, -low) for low, high in intervals]
    return WORSE if intervals[0][0] > intervals[1][1] else UNDECIDED


def _distances_from_50(low: float, high: float) -> tuple[float, float]:
    ends = abs(low - 50), abs(high - 50)
    return (0.0 if low <= 50 <= high else min(ends)), max(ends)
