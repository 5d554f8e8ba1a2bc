"""KID: the kernel distance between two sets of features (Binkowski et al., ICLR 2018, section 4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from pcdiff.errors import InputError

ESTIMATORS = ("unbiased", "biased", "u-statistic")


@dataclass(frozen=True)
class KernelDistance:
    """KID over random subsets.

    Attributes:
        mean: over the subsets.
        std: over the subsets, dividing by their number.
        num_subsets: how many.
        subset_size: features of each set in each.
    """

    mean: float
    std: float
    num_subsets: int
    subset_size: int

    def to_dict(self) -> dict:
        """Return a JSON-ready dict."""
        return asdict(self)


def squared_mmd(x: Tensor, y: Tensor, estimator: str = "unbiased") -> float:
    """Return the squared maximum mean discrepancy under the kernel `(x . y / D + 1)^3`, in float64.

    Args:
        x: `(n, D)`.
        y: `(m, D)`; `u-statistic` needs m = n.
        estimator: `unbiased` (within a set no feature is compared with itself), `biased` (all are), or
            `u-statistic` (between the sets, too, the pairs of one place are left out).

    Raises:
        InputError: unknown estimator, or shapes that do not fit.
    """
    if estimator not in ESTIMATORS:
        raise InputError(f"unknown estimator {estimator!r}; known are {', '.join(ESTIMATORS)}")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise InputError(f"features must be (n, D) and (m, D), n, m > 1, got {tuple(x.shape)}, {tuple(y.shape)}")
    if estimator == "u-statistic" and len(x) != len(y):
        raise InputError(f"u-statistic needs sets of one size, got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    n, m = len(x), len(y)
    xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    if estimator == "biased":
        return float(xx.mean() + yy.mean() - 2 * xy.mean())
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    between = xy.mean() if estimator == "unbiased" else (xy.sum() - xy.trace()) / (n * (n - 1))
    return float(within - 2 * between)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def random_subsets(
    count_a: int, count_b: int, num_subsets: int, subset_size: int, seed: int = 2020
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the subsets that torch-fidelity draws: without replacement, in turn from the first and the second set.

    Its generator, numpy's old one, is kept, so that the same features give the same KID as there.
    """
    state = np.random.RandomState(seed)
    return [
        (state.choice(count_a, subset_size, replace=False), state.choice(count_b, subset_size, replace=False))
        for _ in range(num_subsets)
    ]


def kernel_distance(
    samples: Tensor, reference: Tensor, num_subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> KernelDistance:
    """Return KID: the unbiased squared MMD, averaged over random subsets.

    Args:
        samples: features `(n, D)`.
        reference: features `(m, D)`.
        num_subsets: how many subsets.
        subset_size: their size, at most n and m.
        seed: of the draw.

    Raises:
        InputError: a set smaller than a subset, or shapes that do not fit.
    """
    if num_subsets < 1 or subset_size < 2 or subset_size > min(len(samples), len(reference)):
        raise InputError(
            f"subset_size must be in 2..{min(len(samples), len(reference))}, the smaller set's size, and"
            f" num_subsets be at least 1, got {subset_size}, {num_subsets}"
        )
    subsets = random_subsets(len(samples), len(reference), num_subsets, subset_size, seed)
    values = torch.tensor(
        [squared_mmd(samples[torch.from_numpy(a)], reference[torch.from_numpy(b)]) for a, b in subsets],
        dtype=torch.float64,
    )
    return KernelDistance(float(values.mean()), float(values.std(correction=0)), num_subsets, subset_size)
