"""One number of points for all clouds, by a rule that is said aloud."""

from typing import Literal

import numpy as np
import torch

from pcdiff.errors import InputError, UnknownName
from pcdiff.interop.checks import check_count
from pcdiff.interop.files import CloudSet
from pcdiff.ops import farthest_point_sample
from pcdiff.runtime.rng import generator

POINT_RULES = ("first", "random", "farthest")


def stack_clouds(
    clouds: CloudSet,
    num_points: int | None,
    rule: Literal["first", "random", "farthest"] | None,
    seed: int = 2020,
) -> np.ndarray:
    """Make one array of clouds, each cut to the same number of points.

    Clouds that all have `num_points` points (or are of one size, if it is None) are stacked as they are. Without a
    rule, larger clouds of one size are cut to their first points, as the published protocols do; clouds of several
    sizes are refused. No point is ever taken twice.

    Args:
        clouds: the set.
        num_points: points a cloud; None: as many as the smallest has.
        rule: `first` points; `random` ones, drawn by seed and the cloud's index; or `farthest`-point sampling from
            the first point on.
        seed: of the rule `random`.

    Returns:
        `(n, P, 3)` float32, or float64 where a cloud is.

    Raises:
        InputError: there is no cloud, a cloud has fewer than `num_points` points, or sizes differ and there is no
            rule.

    Example:
        >>> clouds = CloudSet([np.zeros((5, 3), np.float32), np.ones((4, 3), np.float32)], ["a.ply", "b.ply"])
        >>> stack_clouds(clouds, 3, "random").shape
        (2, 3, 3)
    """
    if rule is not None and rule not in POINT_RULES:
        raise UnknownName("rule", rule, POINT_RULES, " or None")
    if num_points is not None:
        check_count("num_points", num_points)
    if not clouds.clouds:
        raise InputError("clouds must hold at least one cloud, got none")
    sizes = [len(cloud) for cloud in clouds.clouds]
    small, large = int(np.argmin(sizes)), int(np.argmax(sizes))
    if sizes[small] != sizes[large] and rule is None:
        raise InputError(
            f"clouds differ in size, from {sizes[small]} points ({clouds.names[small]}) to {sizes[large]} "
            f"({clouds.names[large]}); cut them with --num-points N --point-rule {'|'.join(POINT_RULES)}"
        )
    count = sizes[small] if num_points is None else num_points
    if count > sizes[small]:
        raise InputError(f"num_points {count}: {clouds.names[small]} has only {sizes[small]} points")
    if count == sizes[large]:
        return np.stack(clouds.clouds)
    return np.stack([cloud[_chosen(cloud, count, rule, seed, i)] for i, cloud in enumerate(clouds.clouds)])


def _chosen(cloud: np.ndarray, count: int, rule: str | None, seed: int, index: int) -> np.ndarray | slice:
    if rule == "random":
        return torch.randperm(len(cloud), generator=generator(seed, "points", index))[:count].numpy()
    if rule == "farthest":
        return farthest_point_sample(torch.from_numpy(cloud)[None], count)[0].numpy()
    return slice(count)
