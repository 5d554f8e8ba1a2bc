"""Noise levels and Langevin step from data: NCSNv2's techniques 1, 2 and 4 (Song & Ermon, NeurIPS 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from image_pipeline.data.batches import RANGES
from image_pipeline.data.dataset import ImageDataset
from pcdiff.diffusion import geometric_sigmas
from pcdiff.errors import InputError, OutOfRange

_BLOCK_NUMBERS = 1 << 24  # coordinates of one block in float64: 128 MiB


@dataclass(frozen=True)
class NoiseScales:
    """The techniques' settings for a data set.

    Attributes:
        sigma_max: the largest distance between two images (technique 1).
        sigma_min: as given.
        farthest: the indices of those two.
        dims: numbers in an image.
        num_levels: how many levels keep neighboring ones close enough, rounded up (technique 2).
        ratio: between neighboring levels.
        langevin_step: epsilon, whose step at level sigma is `epsilon (sigma / sigma_min)^2` (technique 4).
        steps_per_level: Langevin steps that epsilon was chosen for.
    """

    sigma_max: float
    sigma_min: float
    farthest: tuple[int, int]
    dims: int
    num_levels: int
    ratio: float
    langevin_step: float
    steps_per_level: int

    @property
    def sigmas(self) -> Tensor:
        """The levels from the largest on, `(L,)` float64."""
        return geometric_sigmas(self.sigma_max, self.sigma_min, self.num_levels)

    def to_dict(self) -> dict:
        """Return a JSON-ready dict."""
        return {**asdict(self), "farthest": list(self.farthest)}


def noise_scales(
    dataset: ImageDataset, data_range: str = "unit", sigma_min: float = 0.01, steps_per_level: int = 5
) -> NoiseScales:
    """Choose noise levels and a Langevin step for a data set.

    Args:
        dataset: two images or more; all are looked at.
        data_range: what the model will see; distances in `symmetric` are twice those in `unit`.
        sigma_min: the smallest level.
        steps_per_level: Langevin steps at each level.

    Raises:
        InputError: fewer than two images, all the same, a `sigma_min` not below the largest distance, or an unknown
            range.

    Example:
        >>> noise_scales(load_images("digits")).num_levels
        21
    """
    if data_range not in RANGES:
        raise InputError(f"unknown data_range {data_range!r}; known are {', '.join(RANGES)}")
    low, high = RANGES[data_range]
    distance, farthest = largest_distance(dataset.images)
    distance *= (high - low) / 255
    if not 0 < sigma_min < distance:
        raise InputError(f"sigma_min must lie between 0 and {distance:.4g}, the largest distance, got {sigma_min}")
    dims = math.prod(dataset.images.shape[1:])
    levels = math.ceil(1 + math.log(distance / sigma_min) / math.log(level_ratio(dims)))
    ratio = (distance / sigma_min) ** (1 / (levels - 1))
    step = langevin_step(ratio, sigma_min, steps_per_level)
    return NoiseScales(distance, sigma_min, farthest, dims, levels, ratio, step, steps_per_level)


def largest_distance(images) -> tuple[float, tuple[int, int]]:
    """Return the largest Euclidean distance between two images and their indices (technique 1), exactly.

    Blocks of images, by falling distance from the mean: two images are at most as far apart as their distances from
    it add up to, so the search ends as soon as no later pair can be farther than the farthest so far. Of uint8
    images all sums are whole numbers that float64 holds.

    Args:
        images: `(n, ...)`, a tensor or lazily decoded; distances are in its units.

    Raises:
        InputError: fewer than two images.
    """
    if len(images) < 2:
        raise InputError(f"the largest distance needs two images, got {len(images)}")
    block = max(1, _BLOCK_NUMBERS // math.prod(images.shape[1:]))
    everything = torch.arange(len(images))
    mean = sum(rows.sum(dim=0) for rows in _blocks(images, everything, block)) / len(images)
    radius = torch.cat([(rows - mean).norm(dim=1) for rows in _blocks(images, everything, block)])
    radius, order = radius.sort(descending=True)
    best, pair = -1.0, (0, 1)
    for first, rows in zip(range(0, len(images), block), _blocks(images, order, block), strict=True):
        for second in range(first, len(images), block):
            if radius[first] + radius[second] < math.sqrt(max(best, 0.0)) * (1 - 1e-12):
                break  # the radii fall from here on
            others = rows if second == first else next(_blocks(images, order[second : second + block], block))
            squared = rows.square().sum(dim=1)[:, None] + others.square().sum(dim=1) - 2 * (rows @ others.T)
            if float(squared.max()) > best:
                best, place = float(squared.max()), int(squared.argmax())
                pair = int(order[first + place // len(others)]), int(order[second + place % len(others)])
    a, b = (images[torch.tensor([i])].double() for i in pair)
    return float((a - b).norm()), (min(pair), max(pair))


def _blocks(images, order: Tensor, block: int) -> Iterator[Tensor]:
    for chunk in order.split(block):
        yield images[chunk].double().flatten(1)


def overlap(ratio: float, dims: int) -> float:
    """Return how much of one level's shell of noise lies within three deviations of the next one's (technique 2).

    `Phi(sqrt(2 D) (gamma - 1) + 3 gamma) - Phi(sqrt(2 D) (gamma - 1) - 3 gamma)`.
    """
    from scipy.special import ndtr

    gap = math.sqrt(2 * dims) * (ratio - 1)
    return float(ndtr(gap + 3 * ratio) - ndtr(gap - 3 * ratio))


def level_ratio(dims: int, share: float = 0.5) -> float:
    """Return the ratio gamma of neighboring levels whose `overlap` is `share` (technique 2).

    That condition takes the length of the noise for a normal number, which is good for many dimensions. Up to 4 the
    three deviations reach down to 0, and every ratio overlaps by nearly 1: there the shell ends where the exact law
    of the length, chi of D, has the same tail (0.135 % below it), and `share` of the next level's noise is longer.
    Ratios are large then, 400 for one number and 5.6 for four. Five have 19.5, for which the normal number is to
    blame.

    Raises:
        InputError: no dimension, or `share` is not between 0 and 1, or larger than any ratio's.
    """
    if dims < 1:
        raise OutOfRange("dims", "at least 1", dims)
    if not 0 < share < overlap(1.0, dims):
        raise InputError(f"share must lie between 0 and {overlap(1.0, dims):.4g} for dims {dims}, got {share}")
    if math.sqrt(2 * dims) <= 3:
        from scipy.special import ndtr  # here, since it takes half a second of every program's start
        from scipy.stats import chi

        return float(chi.isf(share, dims) / chi.ppf(ndtr(-3.0), dims))
    from scipy.optimize import brentq

    # the overlap falls to 0 in the end
    upper = 2.0
    while overlap(upper, dims) > share:
        upper *= 2
    return float(brentq(lambda ratio: overlap(ratio, dims) - share, 1.0, upper, xtol=1e-15))


def spread_after(step: float, ratio: float, sigma_min: float, steps_per_level: int) -> float:
    """Return the variance after the Langevin steps of a level, over the level's own (technique 4).

    `a^(2T) (gamma^2 - q) + q` with `a = 1 - eps / sigma_L^2` and `q = 2 eps / (sigma_L^2 - sigma_L^2 a^2)`.
    """
    a = 1 - step / sigma_min**2
    q = 2 * step / (sigma_min**2 - sigma_min**2 * a**2)
    return a ** (2 * steps_per_level) * (ratio**2 - q) + q


def langevin_step(ratio: float, sigma_min: float, steps_per_level: int) -> float:
    """Return the epsilon whose `spread_after` is closest to one (technique 4), in (0, sigma_min^2).

    The spread never falls below one, so it is the minimum: found on a grid first, as there may be two.

    Raises:
        InputError: a ratio of 1 or less, or no step.
    """
    if ratio <= 1 or steps_per_level < 1:
        raise InputError(f"ratio must exceed 1 and steps_per_level be at least 1, got {ratio}, {steps_per_level}")

    from scipy.optimize import minimize_scalar

    def spread(log_step: float) -> float:
        return spread_after(math.exp(log_step) * sigma_min**2, ratio, sigma_min, steps_per_level)

    grid = np.linspace(math.log(1e-6), math.log(1 - 1e-9), 400)
    near = int(np.argmin([spread(point) for point in grid]))
    bounds = grid[max(near - 1, 0)], grid[min(near + 1, len(grid) - 1)]
    found = minimize_scalar(spread, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    return math.exp(found.x) * sigma_min**2
