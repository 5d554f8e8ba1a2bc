"""Bootstrap confidence intervals of the scores (Efron, "Bootstrap Methods", Annals of Statistics 1979).

MMD, coverage and 1-NNA are means of one term for each cloud: the distance to the nearest sample, whether the cloud
is covered, the vote of the leave-one-out test. The **terms** are resampled. Resampling the clouds themselves would
put copies of a cloud into a set, at distance 0 from one another, and every copy would vote for its own set. So an
interval shows how far a score would move with other clouds of the same sources if the terms were independent; the
dependence that arises where one sample is the nearest of several clouds is ignored.
"""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix

from pcdiff.errors import InputError, OutOfRange
from pcdiff.metrics._inputs import as_clouds, as_numbers
from pcdiff.metrics.jsd import RESOLUTION, counts_by_cloud, divergence, divergences, into_sphere
from pcdiff.runtime.call_checks import checked
from pcdiff.runtime.rng import generator

RESAMPLES, LEVEL, SEED = 1000, 0.95, 2020
_NUMBERS_AT_ONCE = 1 << 20  # held in memory while resampling


@checked
def mean_interval(
    terms, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = SEED, name: str = ""
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `terms`.

    Args:
        terms: `(n,)`, one number for each cloud; the interval has their unit.
        resamples: how often `n` terms are drawn with replacement.
        level: the share of such intervals that hold the true mean, for many terms; in (0, 1).
        seed: of the draws.
        name: of the score; scores of different names share no draws.

    Raises:
        InputError: for terms that are no finite numbers, or a setting out of range.

    Example:
        >>> low, high = mean_interval([0.0, 1.0, 1.0, 0.0, 1.0], name="COV-CD")
        >>> 0 <= low < 0.6 < high <= 1
        True
    """
    return pooled_interval(terms, resamples=resamples, level=level, seed=seed, name=name)


@checked
def pooled_interval(
    *groups, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = SEED, name: str = ""
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean over all members of several groups.

    Each group is resampled apart and keeps its size: for 1-NNA, the votes of the samples and of the reference.

    Args:
        *groups: `(n,)` each, at least one.
        resamples: as in `mean_interval`, like all that follow.
        level: as there.
        seed: as there.
        name: as there.

    Raises:
        InputError: for no group, terms that are no finite numbers, or a setting out of range.
    """
    _check_settings(resamples, level)
    if not groups:
        raise InputError("groups must hold at least one group of terms, got none")
    groups = [as_numbers(group, f"groups[{i}]" if len(groups) > 1 else "terms") for i, group in enumerate(groups)]
    draws = draws_of(seed, name)
    sums = np.zeros(resamples)
    for group in groups:
        for part in parts_of(resamples, len(group)):
            chosen = draws.integers(len(group), size=(part.stop - part.start, len(group)))
            sums[part] += group[chosen].sum(axis=1)
    return quantiles(sums / sum(map(len, groups)), level)


@checked
def jsd_interval(
    samples,
    reference,
    *,
    resolution: int = RESOLUTION,
    normalized: bool = False,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
    name: str = "JSD",
) -> tuple[float, float]:
    """Return the bootstrap interval of the JSD between two sets, whose clouds are resampled.

    The JSD of two finite sets is above that of their sources, since chance alone makes histograms differ, and the
    JSD of resampled sets is about as far above that of the sets: percentiles would count this bias twice. So the
    resamples are centered on the score: the interval shows how far the score of sets of these sizes would move with
    other clouds of the same sources. It is clipped to [0, 1]. Copies of a cloud do not bias it: only points are
    counted.

    Args:
        samples: `(S, P, 3)`.
        reference: `(R, Q, 3)`.
        resolution: grid points along each side of the cube.
        normalized: of `jsd_normalized`, not of `jsd_legacy`.
        resamples: how often both sets are resampled, with replacement, cloud by cloud.
        level: in (0, 1).
        seed: of the draws.
        name: of the score; scores of different names share no draws.

    Raises:
        InputError: for bad clouds, as the score itself, or a setting out of range.
    """
    _check_settings(resamples, level)
    samples, reference = as_clouds(samples, "samples"), as_clouds(reference, "reference")
    if normalized:
        samples, reference = into_sphere(samples, "samples"), into_sphere(reference, "reference")
    counts = [counts_by_cloud(clouds, resolution) for clouds in (samples, reference)]
    # Most cells hold no point of either set, and add nothing.
    held = np.flatnonzero(sum(np.asarray(part.sum(axis=0)).ravel() for part in counts))
    counts = [part[:, held] for part in counts]
    score = divergence(*(np.asarray(part.sum(axis=0)).ravel() for part in counts))
    draws = draws_of(seed, name)
    resampled = np.empty(resamples)
    for part in parts_of(resamples, len(held)):
        resampled[part] = divergences(*(_resampled(rows, part.stop - part.start, draws) for rows in counts))
    low, high = quantiles(score + resampled - resampled.mean(), level)
    return max(0.0, low), min(1.0, high)


def _resampled(counts: csr_matrix, times: int, draws: np.random.Generator) -> np.ndarray:
    """Return the cell counts of `times` sets drawn with replacement from the clouds, `(times, cells)`."""
    clouds = counts.shape[0]
    copies = draws.multinomial(clouds, np.full(clouds, 1 / clouds), size=times)
    return (counts.T @ copies.T).T


def draws_of(seed: int, name: str) -> np.random.Generator:
    """Return the source of a score's draws; those of different names are independent."""
    return np.random.default_rng(generator(seed, "bootstrap", name).initial_seed())


def parts_of(resamples: int, width: int) -> Iterator[slice]:
    """Yield slices of the resamples, so that a part of rows of `width` numbers stays small."""
    step = max(1, _NUMBERS_AT_ONCE // width)
    for first in range(0, resamples, step):
        yield slice(first, min(first + step, resamples))


def quantiles(values: np.ndarray, level: float) -> tuple[float, float]:
    """Return the ends of the percentile interval of resampled values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check_settings(resamples: int, level: float) -> None:
    if resamples < 1:
        raise OutOfRange("resamples", "at least 1", resamples)
    if not 0 < level < 1:
        raise OutOfRange("level", "in (0, 1)", level)
