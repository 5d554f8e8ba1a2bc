"""Does a generator repeat its training set? Statistics of every sample's nearest training cloud.

Meehan, Chaudhuri and Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models" (AISTATS 2020):
samples that copy are nearer to the training clouds than held-out clouds of the same source do.
"""

import numpy as np

from pcdiff.errors import InputError
from pcdiff.metrics._inputs import as_numbers

SUSPECTS = 8
STRIKING = 3.0  # of |C_T|; beyond it the summary speaks out. Chance alone passes it once in 370 times
NEAR_SHARE = 0.05


def memorization(*, sample_distance, sample_index, reference_distance, suspects: int = SUSPECTS) -> dict:
    """Return statistics of copying from the distances to the nearest training clouds.

    The test is the paper's with one cell: C_T compares all samples with all held-out clouds at once, so a generator
    that copies in one corner of the shapes and strays in another can hide in it; look at `closest_samples` too.

    Args:
        sample_distance: `(S,)`, each sample's distance to its nearest training cloud, of any kind and unit.
        sample_index: `(S,)`, the index of that training cloud.
        reference_distance: `(R,)`, each held-out cloud's distance to its nearest training cloud.
        suspects: how many of the closest samples to list.

    Returns:
        A dict ready for JSON:
        `train_index`, `distance`: lists, one entry for each sample;
        `median`: of the `samples`' and the `reference`'s distances; `ratio`: the first over the second, None where
        the second is 0;
        `copies`, `reference_copies`: samples and held-out clouds at distance exactly 0;
        `closer_than_5_percent_of_references`: the share of samples nearer to the training set than the 5 % quantile
        of the held-out clouds (0.05 is expected);
        `C_T`: the Mann-Whitney U of the samples' distances against the held-out ones', standardized (ties
        included): far below 0 means copying, far above 0 samples farther out than data;
        `C_T_p_value`: of so low a C_T without copying (one-sided, as `scipy.stats.mannwhitneyu` gives it);
        `closest_samples`: indices, the closest first;
        `summary`: all this in one line.

    Raises:
        InputError: for empty, negative or not finite distances, lists that do not pair up, or bad indices.

    Example:
        >>> far, near = [0.3, 0.2, 0.4, 0.35], [0.0, 0.1, 0.05, 0.0]
        >>> report = memorization(sample_distance=near, sample_index=[4, 0, 7, 4], reference_distance=far)
        >>> report["copies"], round(report["C_T"], 2), report["closest_samples"][:2]
        (2, -2.32, [0, 3])
    """
    ours = _as_distances(sample_distance, "sample_distance")
    held_out = _as_distances(reference_distance, "reference_distance")
    index = _as_indices(sample_index, len(ours))
    if suspects < 0:
        raise InputError(f"suspects must not be negative, got {suspects}")
    median, reference_median = float(np.median(ours)), float(np.median(held_out))
    z, p_value = data_copying_test(ours, held_out)
    report = {
        "train_index": index.tolist(),
        "distance": ours.tolist(),
        "median": {"samples": median, "reference": reference_median},
        "ratio": median / reference_median if reference_median > 0 else None,
        "copies": int((ours == 0).sum()),
        "reference_copies": int((held_out == 0).sum()),
        "closer_than_5_percent_of_references": float((ours < np.quantile(held_out, NEAR_SHARE)).mean()),
        "C_T": z,
        "C_T_p_value": p_value,
        "closest_samples": np.argsort(ours, kind="stable")[:suspects].tolist(),
    }
    return report | {"summary": _summary(report)}


def data_copying_test(sample_distance: np.ndarray, reference_distance: np.ndarray) -> tuple[float, float]:
    """Return C_T and its one-sided p-value from two lists of distances `(S,)` and `(R,)` to the training set.

    C_T = (U - S R / 2) / sigma: U counts the pairs in which the sample is the farther one (ties one half), sigma is
    its standard deviation where both lists come from one source, corrected for ties. The p-value of short lists
    without ties is exact, otherwise from the normal law with its continuity correction. Where all distances are
    equal the lists cannot be separated: 0 and 1.
    """
    both = np.concatenate([sample_distance, reference_distance])
    _, tied = np.unique(both, return_counts=True)
    if len(tied) == 1:
        return 0.0, 1.0
    from scipy.stats import mannwhitneyu, rankdata  # here, since it takes half a second of every program's start

    s, r, n = len(sample_distance), len(reference_distance), len(both)
    wins = rankdata(both)[:s].sum() - s * (s + 1) / 2
    variance = s * r / 12 * (n + 1 - (tied.astype(np.float64) ** 3 - tied).sum() / (n * (n - 1)))
    p_value = mannwhitneyu(sample_distance, reference_distance, alternative="less").pvalue
    return float((wins - s * r / 2) / np.sqrt(variance)), float(p_value)


def _summary(report: dict) -> str:
    count, copies, z = len(report["distance"]), report["copies"], report["C_T"]
    copied = "none" if copies == 0 else f"{copies}"
    parts = [f"{copied} of {count} samples {'is a copy' if copies == 1 else 'are copies'} of a training cloud"]
    if report["reference_copies"]:
        parts.append(f"{report['reference_copies']} of the held-out clouds are in the training set too")
    share = 100 * report["closer_than_5_percent_of_references"]
    parts.append(f"{share:.0f} % are nearer to the training set than the nearest 5 % of held-out clouds")
    if z < -STRIKING:
        verdict = "nearer to it than held-out clouds are, which points to copying"
    elif z > STRIKING:
        verdict = "farther from it than held-out clouds are: no copying, but shapes unlike the data"
    else:
        verdict = "about as far from it as held-out clouds are"
    parts.append(f"as a whole the samples are {verdict} (C_T = {z:.1f})")
    return "; ".join(parts)


def _as_distances(values, name: str) -> np.ndarray:
    array = as_numbers(values, name, "distances")
    bad = np.flatnonzero(array < 0)
    if len(bad):
        raise InputError(f"{name}[{bad[0]}] must not be negative, got {array[bad[0]]}")
    return array


def _as_indices(values, count: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (count,):
        raise InputError(f"sample_index must be ({count},), one for each sample_distance, got shape {array.shape}")
    if array.dtype.kind not in "iu" or (array < 0).any():
        raise InputError("sample_index must hold indices of training clouds (integers from 0)")
    return array
