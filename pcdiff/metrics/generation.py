"""How close a set of generated clouds is to a reference set: MMD, coverage and 1-NNA.

The three scores read distance matrices only, so they serve any distance. MMD and coverage: Achlioptas et al.,
"Learning Representations and Generative Models for 3D Point Clouds" (ICML 2018), section 2; 1-NNA: Lopez-Paz and
Oquab (ICLR 2017), brought to clouds by Yang et al., "PointFlow" (ICCV 2019), section 5.1.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pcdiff.errors import InputError
from pcdiff.metrics._inputs import as_clouds, as_matrix
from pcdiff.ops import pairwise

TIE_TOLERANCE = 1e-6  # relative; float32 sums over the same points in another order differ by about 1e-7
DISTANCES = {"cd": "chamfer", "emd": "emd-exact"}


class Coverage(NamedTuple):
    """`share` of the references in [0, 1]; `ties` counts samples with more than one nearest reference."""

    share: float
    ties: int


class OneNNA(NamedTuple):
    """The outcome of the leave-one-out test; all accuracies in percent, 50 is perfect.

    `accuracy` over both sets, `samples` and `reference` over one; `ties` counts clouds with a nearest neighbour
    in both sets; `copies` counts samples at distance zero from a reference (memorised, or the same file).
    """

    accuracy: float
    samples: float
    reference: float
    ties: int
    copies: int


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
    matrix = as_matrix(sample_reference, "sample_reference")
    nearest = matrix.argmin(axis=1)
    tied = _equal(matrix, matrix.min(axis=1, keepdims=True)).sum(axis=1) > 1
    return Coverage(len(np.unique(nearest)) / matrix.shape[1], int(tied.sum()))


def one_nna(sample_reference, reference_reference, sample_sample) -> OneNNA:
    """Return the accuracy of a leave-one-out 1-nearest-neighbour classifier that tells the two sets apart.

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
    across = as_matrix(sample_reference, "sample_reference")
    count, count_reference = across.shape
    right_samples, tied_samples = _votes(as_matrix(sample_sample, "sample_sample"), across, "sample_sample")
    within = as_matrix(reference_reference, "reference_reference")
    right_reference, tied_reference = _votes(within, across.T, "reference_reference")
    return OneNNA(
        accuracy=100 * float(right_samples + right_reference) / (count + count_reference),
        samples=100 * float(right_samples) / count,
        reference=100 * float(right_reference) / count_reference,
        ties=tied_samples + tied_reference,
        copies=int((across.min(axis=1) == 0).sum()),
    )


def generation_scores(
    *,
    samples,
    reference,
    distances: Sequence[str] = ("cd", "emd"),
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Score generated clouds against a reference set of the same size. The clouds are compared as they come.

    Args:
        samples: `(n, P, 3)`.
        reference: `(n, Q, 3)`; P = Q where "emd" is asked.
        distances: of "cd" (squared, mean + mean) and "emd" (exact, Euclidean, mean).
        progress: called with (pairs of clouds compared, pairs in all); a pair counts once for each distance.

    Returns:
        For each distance D: `MMD-D` (unit of D), `COV-D` and `1-NNA-D` (percent); and under `details` per D the
        accuracy of each set, |1-NNA - 50|, ties and copies.

    Raises:
        InputError: for bad clouds, unequal set sizes (coverage and 1-NNA depend on them), unequal point counts
            with "emd", or an unknown distance.

    Example:
        >>> clouds = np.random.default_rng(0).normal(size=(8, 64, 3))
        >>> generation_scores(samples=clouds[:4], reference=clouds[4:], distances=["cd"])["COV-CD"] <= 100
        True
    """
    samples, reference = as_clouds(samples, "samples"), as_clouds(reference, "reference")
    check_sets(samples, reference, distances)
    scores: dict = {"details": {}}
    count = len(samples)
    total, done = len(distances) * count * (2 * count - 1), 0

    def matrix(xs, ys, kind, pairs):
        nonlocal done
        report = None if progress is None else lambda finished: progress(done + finished, total)
        result = pairwise(xs, ys, distance=kind, progress=report)
        done += pairs
        return result

    for short in distances:
        kind = DISTANCES[short]
        across = matrix(samples, reference, kind, count * count)
        within_reference = matrix(reference, None, kind, count * (count - 1) // 2)
        within_samples = matrix(samples, None, kind, count * (count - 1) // 2)
        covered = coverage(across)
        test = one_nna(across, within_reference, within_samples)
        name = short.upper()
        scores[f"MMD-{name}"] = mmd(across)
        scores[f"COV-{name}"] = 100 * covered.share
        scores[f"1-NNA-{name}"] = test.accuracy
        scores["details"][name] = {
            "1-NNA-samples": test.samples,
            "1-NNA-reference": test.reference,
            "|1-NNA-50|": abs(test.accuracy - 50),
            "1-NNA-ties": test.ties,
            "COV-ties": covered.ties,
            "copies": test.copies,
        }
    return scores


def check_sets(samples, reference, distances: Sequence[str]) -> None:
    """Raise InputError unless two sets of clouds can be scored against each other with `distances`."""
    unknown = [short for short in distances if short not in DISTANCES]
    if unknown or not distances:
        raise InputError(f"distances must be some of {sorted(DISTANCES)}, got {list(distances)}")
    if len(samples) != len(reference):
        raise InputError(
            f"samples and reference must hold equally many clouds, got {len(samples)} and {len(reference)}: "
            f"coverage and 1-NNA depend on the counts; cut both to {min(len(samples), len(reference))}"
        )
    if len(samples) < 2:
        raise InputError("samples and reference must hold at least 2 clouds each (1-NNA leaves one out), got 1")
    if "emd" in distances and samples.shape[1] != reference.shape[1]:
        raise InputError(
            f"emd needs equal point counts, got samples with {samples.shape[1]} and reference with "
            f"{reference.shape[1]} points; cut both to the smaller"
        )


def _votes(within: np.ndarray, across: np.ndarray, name: str) -> tuple[float, int]:
    """Return how many clouds of one set are told rightly (ties count one half), and the number of ties."""
    count = len(across)
    if within.shape != (count, count):
        raise InputError(f"{name} must be {(count, count)} to fit sample_reference, got {within.shape}")
    if count < 2:
        raise InputError(f"{name}: 1-NNA leaves one cloud out and needs at least 2 in each set, got {count}")
    same = np.where(np.eye(count, dtype=bool), np.inf, within).min(axis=1)
    other = across.min(axis=1)
    tied = _equal(same, other)
    return float(((same < other) & ~tied).sum() + 0.5 * tied.sum()), int(tied.sum())


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a - b) <= TIE_TOLERANCE * np.maximum(np.abs(a), np.abs(b))
