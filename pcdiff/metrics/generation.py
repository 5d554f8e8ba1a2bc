"""How close a set of generated clouds is to a reference set: MMD, coverage and 1-NNA.

The three scores read nearest neighbors only, so they serve any distance. MMD and coverage: Achlioptas et al.,
"Learning Representations and Generative Models for 3D Point Clouds" (ICML 2018), section 2; 1-NNA: Lopez-Paz and
Oquab (ICLR 2017), brought to clouds by Yang et al., "PointFlow" (ICCV 2019), section 5.1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from pcdiff.errors import InputError
from pcdiff.metrics._blocks import MapBlocks, in_order
from pcdiff.metrics._inputs import as_clouds, as_matrix
from pcdiff.metrics.neighbor_metrics import percent
from pcdiff.metrics.neighbors import Nearest, Neighbors, Progress, equal, neighbors_in_matrices
from pcdiff.metrics.registry import DISTANCES, neighbor_metrics
from pcdiff.runtime.call_checks import checked


class Coverage(NamedTuple):
    """`share` of the references in [0, 1]; `ties` counts samples with more than one nearest reference."""

    share: float
    ties: int


class OneNNA(NamedTuple):
    """The outcome of the leave-one-out test; all accuracies in percent, 50 is perfect.

    `accuracy` over both sets, `samples` and `reference` over one; `ties` counts clouds with a nearest neighbor
    in both sets; `copies` counts samples at distance zero from a reference (memorized, or the same file).
    """

    accuracy: float
    samples: float
    reference: float
    ties: int
    copies: int


@dataclass(frozen=True)
class Scores:
    """The three scores by one distance, and the terms of each cloud that they are means of.

    Attributes:
        mmd: the mean of `reference_distance`.
        coverage: its share is the mean of `covered`.
        one_nna: its accuracy is the mean of all votes.
        reference_distance: `(R,)` distance of each reference to its nearest sample.
        covered: `(R,)` bool: the nearest reference of at least one sample.
        sample_votes: `(S,)` 1 where a sample is classified correctly, 0 where wrongly, one half in a tie.
        reference_votes: `(R,)` likewise.
        nearest_reference: `(S,)` index of each sample's nearest reference.
        sample_distance: `(S,)` distance of each sample to its nearest reference.
    """

    mmd: float
    coverage: Coverage
    one_nna: OneNNA
    reference_distance: np.ndarray
    covered: np.ndarray
    sample_votes: np.ndarray
    reference_votes: np.ndarray
    nearest_reference: np.ndarray
    sample_distance: np.ndarray

    def record(self) -> dict[str, list[float]]:
        """Return the terms of each cloud, ready for JSON; votes and coverage as 0, one half or 1."""
        return {
            "reference_distance": self.reference_distance.tolist(),
            "covered": self.covered.astype(int).tolist(),
            "sample_votes": self.sample_votes.tolist(),
            "reference_votes": self.reference_votes.tolist(),
        }


def scores_of(neighbors: Neighbors) -> Scores:
    """Compute MMD, coverage and 1-NNA from the nearest neighbors."""
    to_reference, to_samples = neighbors.sample_reference, neighbors.reference_sample
    covered = np.isin(np.arange(len(to_samples.distance)), to_reference.index)
    sample_votes, tied_samples = _votes(neighbors.sample_sample, to_reference.distance)
    reference_votes, tied_references = _votes(neighbors.reference_reference, to_samples.distance)
    test = OneNNA(
        accuracy=percent(np.concatenate([sample_votes, reference_votes])),
        samples=percent(sample_votes),
        reference=percent(reference_votes),
        ties=tied_samples + tied_references,
        copies=int((to_reference.distance == 0).sum()),
    )
    return Scores(
        mmd=float(to_samples.distance.mean()),
        coverage=Coverage(float(covered.mean()), int(to_reference.tied.sum())),
        one_nna=test,
        reference_distance=to_samples.distance,
        covered=covered,
        sample_votes=sample_votes,
        reference_votes=reference_votes,
        nearest_reference=to_reference.index,
        sample_distance=to_reference.distance,
    )


def mmd(sample_reference) -> float:
    """Return the minimum matching distance: the mean over references of the distance to the nearest sample.

    Args:
        sample_reference: `(S, R)` distances, row = sample. The result has their unit.
    """
    return float(as_matrix(sample_reference, "sample_reference").min(axis=0).mean())


def coverage(sample_reference) -> Coverage:
    """Return the share of references that are the nearest reference of at least one sample.

    A sample with several nearest references (duplicates in the reference set) covers the first of them only.
    The share depends on S / R: compare sets of one size.

    Args:
        sample_reference: `(S, R)` distances, row = sample.
    """
    nearest = Nearest.of_rows(matrix := as_matrix(sample_reference, "sample_reference"))
    return Coverage(len(np.unique(nearest.index)) / matrix.shape[1], int(nearest.tied.sum()))


def one_nna(sample_reference, reference_reference, sample_sample) -> OneNNA:
    """Return the accuracy of a leave-one-out 1-nearest-neighbor classifier that separates the two sets.

    Each cloud's nearest other cloud decides: right if it comes from the same set. Where the nearest of the same
    set and the nearest of the other set are equally far (within `TIE_TOLERANCE`), the cloud counts one half,
    whatever the order of the sets. Duplicates in both sets therefore give 50, not 0. A set of exact copies of a
    reference without duplicates is no tie and does score near 0: see `copies`.

    Args:
        sample_reference: `(S, R)` distances.
        reference_reference: `(R, R)` distances; the diagonal is not read.
        sample_sample: `(S, S)` distances; the diagonal is not read.

    Raises:
        InputError: for shapes that do not fit, or a set of fewer than two clouds.
    """
    return scores_of(neighbors_in_matrices(sample_reference, reference_reference, sample_sample)).one_nna


@checked
def generation_scores(
    *,
    samples,
    reference,
    distances: Sequence[str] = ("cd", "emd"),
    progress: Callable[[int, int], None] | None = None,
    map_blocks: MapBlocks = in_order,
) -> dict:
    """Score generated clouds against a reference set of the same size. The clouds are compared as they come.

    Args:
        samples: `(n, P, 3)`.
        reference: `(n, Q, 3)`; P = Q where "emd" is asked.
        distances: of "cd" (squared, mean + mean) and "emd" (exact, Euclidean, mean).
        progress: called with (pairs of clouds compared, pairs in all); a pair counts once for each distance.
        map_blocks: computes the blocks of the work; by default this process does, one after the other.

    Returns:
        For each distance D: `MMD-D` (unit of D), `COV-D` and `1-NNA-D` (percent); and under `details` per D the
        accuracy of each set, |1-NNA - 50|, ties and copies, and for the EMD how many pairs had to be solved.

    Raises:
        InputError: for bad clouds, unequal set sizes (coverage and 1-NNA depend on them), unequal point counts
            with "emd", or an unknown distance.

    Example:
        >>> clouds = np.random.default_rng(0).normal(size=(8, 64, 3))
        >>> generation_scores(samples=clouds[:4], reference=clouds[4:], distances=["cd"])["COV-CD"] <= 100
        True
    """
    samples, reference = as_clouds(samples, "samples"), as_clouds(reference, "reference")
    if not distances:
        raise InputError(f"distances must be some of {sorted(DISTANCES)}, got none")
    check_sets(samples, reference, distances)
    steps = Steps(progress, len(distances) * pairs_compared(len(samples)))
    found, details = score_by(samples, reference, distances, map_blocks, "", steps)
    return named(found) | {"details": details}


def score_by(
    samples: Tensor,
    reference: Tensor,
    distances: Sequence[str],
    map_blocks: MapBlocks,
    title: str,
    progress: Progress,
) -> tuple[dict[str, Scores], dict[str, dict]]:
    """Return the scores by each distance of two checked sets, and each distance's details for a result file.

    Args:
        samples: `(n, P, 3)`.
        reference: `(n, Q, 3)`.
        distances: of `DISTANCES`.
        map_blocks: computes the blocks.
        title: sets this comparison apart from others of the same job.
        progress: called with the number of pairs compared, whenever some are.
    """
    scores, details = {}, {}
    for short in distances:
        name = short.upper()
        neighbors, effort = DISTANCES[short].search(samples, reference, map_blocks, f"{title}{name}", progress)
        scores[name] = scores_of(neighbors)
        test = scores[name].one_nna
        details[name] = {
            "1-NNA-samples": test.samples,
            "1-NNA-reference": test.reference,
            "|1-NNA-50|": abs(test.accuracy - 50),
            "1-NNA-ties": test.ties,
            "COV-ties": scores[name].coverage.ties,
            "copies": test.copies,
            **effort,
        }
    return scores, details


def named(scores: dict[str, Scores]) -> dict[str, float]:
    """Return the scores under the names of result files: MMD raw, COV and 1-NNA in percent."""
    metrics = neighbor_metrics()
    return {
        f"{metric}-{distance}": metrics[metric].score(found)
        for distance, found in scores.items()
        for metric in metrics
    }


def pairs_compared(count: int) -> int:
    """Return the pairs of clouds in the three matrices of two sets of `count` clouds, two of them symmetric."""
    return count * (2 * count - 1)


class Steps:
    """Turns steps into calls of `progress(done, total)`."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, pairs: int) -> None:
        self._done += pairs
        if self._progress is not None and pairs:
            self._progress(self._done, self._total)


def check_sets(samples, reference, distances: Sequence[str]) -> None:
    """Raise InputError unless two sets of clouds can be scored against each other with `distances`."""
    unknown = [short for short in distances if short not in DISTANCES]
    if unknown:
        raise InputError(f"distances must be some of {sorted(DISTANCES)}, got {list(distances)}")
    strict = [short for short in distances if DISTANCES[short].equal_points]
    if len(samples) != len(reference):
        count, other = len(samples), len(reference)
        raise InputError(
            f"samples and reference must hold equally many clouds, got {count} and {other}: coverage and 1-NNA "
            f"depend on the counts; cut both to {min(count, other)} (--num-samples {min(count, other)})"
        )
    if len(samples) < 2:
        raise InputError("samples and reference must hold at least 2 clouds each (1-NNA leaves one out), got 1")
    if strict and samples.shape[1] != reference.shape[1]:
        raise InputError(
            f"{strict[0]} needs equal point counts, got samples with {samples.shape[1]} and reference with "
            f"{reference.shape[1]} points; cut both to the smaller"
        )


def _votes(same: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, int]:
    """Return each cloud's vote (1 if classified correctly, 0 if not, one half in a tie), and the number of ties."""
    tied = equal(same, other)
    return np.where(tied, 0.5, (same < other).astype(np.float64)), int(tied.sum())
