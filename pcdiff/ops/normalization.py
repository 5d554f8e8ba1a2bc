"""Normalization of clouds: one function, its modes by name."""

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pcdiff.errors import InputError, UnknownName
from pcdiff.ops.far_origin import is_far

log = logging.getLogger("pcdiff")

# What `scale` is, as a multiple of the cloud's standard deviation (the modes that use it).
_STD_MULTIPLE = {"shape_unit": 1.0, "shape_unit_per_axis": 1.0, "shape_half": 2.0, "shape_34": 4.0 / 3.0}
_SHORT = 0.75  # of the std that a mode promises: below this a warning is logged
_AT_ONCE = 256  # clouds in double at a time
GLOBAL_MODES = ("global", "global_per_axis", "global_unit", "global_unit_legacy_dpm")
MEAN_MODES = ("global", "global_per_axis")  # subtract a mean of all clouds
SHARED_MODES = ("none", *MEAN_MODES)  # one shift and one scale for all clouds, generated ones too
PART_MODES = ("shape_unit_per_axis", "shape_bbox")  # of a cloud by itself, wherever it stands
NORMALIZATIONS = ("none", *_STD_MULTIPLE, "shape_bbox", *GLOBAL_MODES)


def check_mode(mode: str) -> None:
    """Raise `InputError` unless `mode` is one of `NORMALIZATIONS`."""
    if mode not in NORMALIZATIONS:
        raise UnknownName("normalization", mode, NORMALIZATIONS)


def normalize(
    points: Tensor,
    mode: str,
    stats: float | Tensor | None = None,
    names: Sequence[str] | None = None,
    mean: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize every cloud: `(points - shift) / scale`, in the modes of Luo & Hu (CVPR 2021) and of PointFlow.

    | mode | shift | scale |
    | --- | --- | --- |
    | none | 0 | 1 |
    | shape_unit, shape_half, shape_34 | centroid | std s of the cloud, s / 0.5, s / 0.75 |
    | shape_unit_per_axis | centroid | std of the cloud about its centroid |
    | shape_bbox | center of the bounding box | half of its longest side |
    | global | `mean` of the **train** split of the chosen categories | `stats`: its std (PointFlow) |
    | global_per_axis | the same mean | `stats`: std `(3,)` of each axis about its mean (GECCO) |
    | global_unit | centroid | `stats`: std of the **train** split of the chosen categories |
    | global_unit_legacy_dpm | centroid | `stats`: std over train, val and test together (a leak) |

    Every std but those of shape_unit_per_axis and global_per_axis is about ONE scalar mean of x, y and z (not about
    the centroid), with ddof = 1 (`global` and `global_per_axis`: 0). So shape_unit's result has std 1 exactly only
    for a cloud whose centroid has three equal coordinates, and depends on where the cloud stood: `spreads` returns
    how far it falls short. The result of shape_unit_per_axis always has std 1. `none`, `global` and
    `global_per_axis` give all clouds one shift and scale: only these can be undone on generated clouds
    (`CloudDataset.denormalize_generated`).

    All is computed in double, so that clouds far from the origin lose nothing but what `points` lost before;
    `none`, which moves nothing, rounds them to float32 where they are.

    Args:
        points: `(n, P, 3)` floating point; float64 where they are far from the origin.
        mode: one of `NORMALIZATIONS`.
        stats: the std that the global modes divide by; of global_per_axis one for each axis, or one for all.
        names: what to call cloud i in an error.
        mean: `(3,)`, what the modes of `MEAN_MODES` subtract.

    Returns:
        points `(n, P, 3)` float32, shift `(n, 1, 3)` and scale `(n, 1, 1)`, of global_per_axis `(n, 1, 3)`,
        float64.

    Raises:
        InputError: unknown mode, wrong shape, missing `stats` or `mean`, or a cloud of zero or non-finite extent.

    Example:
        >>> cloud, shift, scale = normalize(torch.rand(1, 8, 3), "shape_bbox")
        >>> bool(torch.isclose(cloud.abs().max(), torch.tensor(1.0)))
        True
    """
    check_mode(mode)
    if points.ndim != 3 or points.shape[-1] != 3 or 0 in points.shape or not points.is_floating_point():
        raise InputError(f"points must be floating point (n, P, 3), got {points.dtype} {tuple(points.shape)}")
    n = len(points)
    if mode == "none":
        shift, scale = (points.new_full((n, 1, k), value, dtype=torch.float64) for k, value in ((3, 0.0), (1, 1.0)))
        return points.to(torch.float32, copy=True), shift, scale
    if mode in MEAN_MODES and (mean is None or mean.shape != (3,) or not torch.isfinite(mean).all()):
        came = None if mean is None else mean.tolist()
        raise InputError(f"mean must be the finite (3,) mean that {mode} subtracts, got {came}")
    if mode in GLOBAL_MODES:
        stats = _checked_std(stats, mode)
    found = points.new_empty(points.shape, dtype=torch.float32)
    shifts, scales = [], []
    for first in range(0, n, _AT_ONCE):
        some = points[first : first + _AT_ONCE].double()
        shift, scale, longest = _shift_and_scale(some, mode, stats, mean)
        fits = ((scale > 0) & torch.isfinite(scale)).all(dim=2, keepdim=True)
        broken = ((longest == 0) | ~fits | ~torch.isfinite(longest)).flatten()
        if broken.any():
            index = int(broken.nonzero()[0, 0])
            name = names[first + index] if names is not None else f"cloud {first + index}"
            raise InputError(
                f"{name} has extent {longest[index].item():g}: {mode} cannot scale it"
                " (one repeated point, or broken coordinates); remove it"
            )
        found[first : first + _AT_ONCE] = (some - shift) / scale
        shifts.append(shift)
        scales.append(scale)
    return found, torch.cat(shifts), torch.cat(scales)


def _checked_std(stats: float | Tensor | None, mode: str) -> Tensor:
    """Return the std of a global mode, `(1,)` or `(3,)` float64."""
    std = torch.as_tensor(math.nan if stats is None else stats, dtype=torch.float64).reshape(-1)
    if (len(std) != 1 and (len(std), mode) != (3, "global_per_axis")) or not (std > 0).all():
        raise InputError(f"stats must be the positive std that {mode} divides by, got {stats}")
    return std


def _shift_and_scale(points: Tensor, mode: str, stats: Tensor | None, mean: Tensor | None) -> tuple[Tensor, ...]:
    """Return `shift (n, 1, 3)`, `scale (n, 1, 1 or 3)` and the longest side `(n, 1, 1)` of double clouds."""
    low, high = points.amin(dim=1, keepdim=True), points.amax(dim=1, keepdim=True)  # (n, 1, 3)
    longest = (high - low).amax(dim=2, keepdim=True)
    if mode == "shape_bbox":
        return (low + high) / 2, longest / 2, longest
    shift = mean.to(points).repeat(len(points), 1, 1) if mode in MEAN_MODES else points.mean(dim=1, keepdim=True)
    if mode in GLOBAL_MODES:
        width = 3 if mode == "global_per_axis" else 1
        return shift, stats.to(points).expand(len(points), 1, width), longest
    about = points - shift if mode == "shape_unit_per_axis" else points
    return shift, about.flatten(1).std(dim=1).reshape(-1, 1, 1) * _STD_MULTIPLE[mode], longest


def spreads(points: Tensor, mode: str) -> Tensor:
    """Return what normalized clouds `(n, P, 3)` have of the std that the mode's name promises, `(n,)`.

    1 for all clouds in `shape_unit_per_axis`, `shape_bbox` and `none`, which promise nothing that a place could
    change; less in the modes of one scalar mean, the farther a centroid is from the diagonal x = y = z.
    """
    if _STD_MULTIPLE.get(mode) is None:
        return points.new_ones(len(points))
    about = points - points.mean(dim=1, keepdim=True)
    return about.flatten(1).std(dim=1) * _STD_MULTIPLE[mode]


def warn_of_side_effects(mode: str, points: Tensor, normalized: Tensor, where: str) -> None:
    """Log effects of a normalization on clouds that its name does not suggest.

    Args:
        mode: of the normalization.
        points: `(n, P, 3)`, before it.
        normalized: `(n, P, 3)`, after it.
        where: the clouds come from, for the message.
    """
    if mode == "none" and is_far(points):
        log.warning("%s: far from the origin, where float32 blurs them; normalization none moves nothing", where)
    short = spreads(normalized, mode)
    if (short < _SHORT).any():
        low, high, count = float(short.min()), float(short.max()), int((short < _SHORT).sum())
        log.warning(
            "%s: %s measures about one mean of x, y and z, so that clouds off the diagonal come out smaller: "
            "%d of %d read less than %g of what it promises (%.2g to %.2g); shape_unit_per_axis gives all 1",
            *(where, mode, count, len(short), _SHORT, low, high),
        )
