"""Normalisation of clouds: one function, its modes by name."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcdiff.errors import InputError

# What `scale` is, as a multiple of the cloud's standard deviation (the modes that use it).
_STD_MULTIPLE = {"shape_unit": 1.0, "shape_half": 2.0, "shape_34": 4.0 / 3.0}
GLOBAL_MODES = ("global", "global_unit", "global_unit_legacy_dpm")
SHARED_MODES = ("none", "global")  # one shift and one scale for all clouds, generated ones too
NORMALISATIONS = ("none", "shape_unit", "shape_half", "shape_34", "shape_bbox", *GLOBAL_MODES)


def check_mode(mode: str) -> None:
    """Raise `InputError` unless `mode` is one of `NORMALISATIONS`."""
    if mode not in NORMALISATIONS:
        raise InputError(f"normalisation must be one of {', '.join(NORMALISATIONS)}, got {mode!r}")


def normalise(
    points: Tensor,
    mode: str,
    stats: float | None = None,
    names: Sequence[str] | None = None,
    mean: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise every cloud: `(points - shift) / scale`, in the modes of Luo & Hu (CVPR 2021) and of PointFlow.

    | mode | shift | scale |
    | --- | --- | --- |
    | none | 0 | 1 |
    | shape_unit, shape_half, shape_34 | centroid | std s of the cloud, s / 0.5, s / 0.75 |
    | shape_bbox | centre of the bounding box | half of its longest side |
    | global | `mean` of the **train** split of the chosen categories | `stats`: its std (PointFlow) |
    | global_unit | centroid | `stats`: std of the **train** split of the chosen categories |
    | global_unit_legacy_dpm | centroid | `stats`: std over train, val and test together (a leak) |

    Every std is about ONE scalar mean of x, y and z (not about the centroid), with ddof = 1 (`global`, as in
    PointFlow: 0). So shape_unit's result has std 1 exactly only for a cloud whose centroid has three equal
    coordinates. `none` and `global` give all clouds one shift and scale: only these can be undone on generated
    clouds (`CloudDataset.denormalise_generated`).

    Args:
        points: `(n, P, 3)` floating point.
        mode: one of `NORMALISATIONS`.
        stats: the std that the global modes divide by.
        names: what to call cloud i in an error.
        mean: `(3,)`, what `global` subtracts.

    Returns:
        points `(n, P, 3)`, shift `(n, 1, 3)`, scale `(n, 1, 1)`, all float32.

    Raises:
        InputError: unknown mode, wrong shape, missing `stats` or `mean`, or a cloud of zero or non-finite extent.

    Example:
        >>> cloud, shift, scale = normalise(torch.rand(1, 8, 3), "shape_bbox")
        >>> bool(torch.isclose(cloud.abs().max(), torch.tensor(1.0)))
        True
    """
    check_mode(mode)
    if points.ndim != 3 or points.shape[-1] != 3 or 0 in points.shape or not points.is_floating_point():
        raise InputError(f"points must be floating point (n, P, 3), got {points.dtype} {tuple(points.shape)}")
    points = points.float()
    n = len(points)
    if mode == "none":
        return points.clone(), points.new_zeros(n, 1, 3), points.new_ones(n, 1, 1)

    low, high = points.amin(dim=1, keepdim=True), points.amax(dim=1, keepdim=True)  # (n, 1, 3)
    longest = (high - low).amax(dim=2, keepdim=True)  # (n, 1, 1)
    if mode == "shape_bbox":
        shift, scale = (low + high) / 2, longest / 2
    else:
        if mode != "global":
            shift = points.mean(dim=1, keepdim=True)
        elif mean is not None and mean.shape == (3,) and torch.isfinite(mean).all():
            shift = mean.to(points).repeat(n, 1, 1)
        else:
            came = None if mean is None else mean.tolist()
            raise InputError(f"mean must be the finite (3,) mean that global subtracts, got {came}")
        if mode in GLOBAL_MODES:
            if stats is None or not stats > 0:
                raise InputError(f"stats must be the positive std that {mode} divides by, got {stats}")
            scale = points.new_full((n, 1, 1), stats)
        else:
            scale = points.flatten(1).std(dim=1).reshape(n, 1, 1) * _STD_MULTIPLE[mode]
    broken = ((longest == 0) | ~(scale > 0) | ~torch.isfinite(scale) | ~torch.isfinite(longest)).flatten()
    if broken.any():
        index = int(broken.nonzero()[0, 0])
        name = names[index] if names is not None else f"cloud {index}"
        raise InputError(
            f"{name} has extent {longest[index].item():g}: {mode} cannot scale it"
            " (one repeated point, or broken coordinates); remove it"
        )
    return (points - shift) / scale, shift, scale
