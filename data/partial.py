"""Partial clouds cut from whole ones: what a viewpoint sees, or what is left when the points nearest to it go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pcdiff.config import PartialConfig
from pcdiff.errors import InputError, OutOfRange, UnknownName
from pcdiff.ops.far_origin import placed
from pcdiff.ops.normalization import PART_MODES, normalize
from pcdiff.runtime import rng

RULES = ("view", "nearest")


def random_directions(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw directions uniform over the sphere: unit vectors `(count, 3)`."""
    return F.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)


def centre_and_radius(clouds: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centroids `(B, 1, 3)` of clouds `(B, P, 3)`, and the distance of the farthest point, `(B, 1)`."""
    centre = clouds.mean(dim=1, keepdim=True)
    return centre, (clouds - centre).norm(dim=2).amax(dim=1, keepdim=True)


def hidden_depth(clouds: Tensor, directions: Tensor, resolution: int | None = None, radius: int = 1) -> Tensor:
    """Return each point's depth behind what hides it from far away in a direction; 0 for visible points.

    A depth map (z-buffer) in parallel projection. It has `resolution` pixels across the sphere about the centroid
    that holds the cloud. A point covers the square of `2 radius + 1` pixels about its own; it is hidden where the
    nearest point that covers its pixel lies nearer to the viewer by more than `2 (radius + 1)` pixels. So no point
    of a surface of up to 54 degrees' slope (tangent sqrt(2)) is hidden by its own neighbours; steeper ones thin
    out, as they do in a camera's depth map, and of a plate thinner than that both sides are seen.

    Args:
        clouds: `(B, P, 3)`.
        directions: unit vectors `(B, 3)`, from the cloud to the viewer.
        resolution: pixels; None takes `sqrt(2 P)`, at which the squares of a surface of P points leave few holes.
        radius: pixels that a point covers to each side.

    Returns:
        `(B, P)`, in the clouds' unit, at least 0.

    Raises:
        InputError: a resolution below 1, a negative radius, or not one direction a cloud.
    """
    _check_grid(resolution, radius)
    _check(clouds, directions)
    batch, count = clouds.shape[:2]
    side = max(1, round((2 * count) ** 0.5)) if resolution is None else resolution
    centre, extent = centre_and_radius(clouds)
    towards = directions.to(clouds)
    # two axes across the direction: the first from the coordinate axis that it is farthest from
    axis = F.one_hot(towards.abs().argmin(dim=1), 3).to(towards)
    right = F.normalize(torch.linalg.cross(axis, towards), dim=1)
    frame = torch.stack([right, torch.linalg.cross(towards, right), towards], dim=2)
    across, up, near = ((clouds - centre) @ frame).unbind(dim=2)
    pixel = (2 * extent / side).clamp_min(torch.finfo(clouds.dtype).tiny)
    column, row = (((v + extent) / pixel).long().clamp(0, side - 1) for v in (across, up))
    place = row * side + column
    nearest = near.new_full((batch, side * side), -torch.inf).scatter_reduce(1, place, near, "amax")
    spread = F.max_pool2d(nearest.view(batch, 1, side, side), 2 * radius + 1, stride=1, padding=radius)
    behind = spread.flatten(1).gather(1, place) - near
    return torch.where(behind > 2 * (radius + 1) * pixel, behind, 0)


def distance_to_viewpoint(clouds: Tensor, directions: Tensor) -> Tensor:
    """Return each point's distance `(B, P)` to a viewpoint on the sphere about the centroid that holds the cloud.

    PoinTr's ShapeNet-55 benchmark (Yu et al., ICCV 2021) draws the viewpoint on the unit sphere, into which its
    clouds are normalised; this is the same in any unit.

    Args:
        clouds: `(B, P, 3)`.
        directions: unit vectors `(B, 3)`, from the centroid to the viewpoint.

    Raises:
        InputError: not one direction a cloud.
    """
    _check(clouds, directions)
    centre, extent = centre_and_radius(clouds)
    return (clouds - (centre + directions.to(clouds)[:, None] * extent[:, None])).norm(dim=2)


class PartialDraws(NamedTuple):
    """All that is random in the cutting of B clouds.

    Attributes:
        directions: of the viewpoints, unit vectors `(B, 3)` float64.
        order: which of the points that are seen, or left, come first: smaller numbers, `(B, P)` in [0, 1).
        removed: share of the points that goes, `(B,)`; of the rule `nearest` alone.
    """

    directions: Tensor
    order: Tensor
    removed: Tensor


class CutClouds(NamedTuple):
    """Clouds with their given points first.

    Attributes:
        points: `(B, N, 3)`; `points * scale + shift` are those that were cut.
        shift: `(B, 1, 3)` float64.
        scale: `(B, 1, 1)` float64.
    """

    points: Tensor
    shift: Tensor
    scale: Tensor

    def restore(self, clouds: Tensor, indices: Iterable[int]) -> Tensor:
        """Return clouds `(n, M, 3)` made of those of these indices to where these were cut."""
        rows = torch.as_tensor(list(indices), dtype=torch.long)
        return placed(clouds, self.scale[rows], self.shift[rows])


@dataclass(frozen=True)
class PartialClouds:
    """Clouds with the points that are given in front: those that a random viewpoint sees, or leaves.

    Rule `view`: given are points that a depth map from a random direction shows (`hidden_depth`); where it shows
    fewer than asked, those that are hidden least deeply follow. Rule `nearest`: the points nearest to a random
    viewpoint go, a share drawn from `removed`, and given are some of the others (PoinTr's ShapeNet-55 way: 25, 50
    and 75 % are its easy, median and hard cases). Either way the given ones are drawn at random among those, and so
    are the points behind them among all that are not given.

    Args:
        num_given: given points of a cloud.
        rule: one of `RULES`.
        removed: shares that rule `nearest` removes, each as likely as the others.
        resolution: of the depth map; see `hidden_depth`.
        radius: likewise.
        normalization: of each whole cloud by its given points, a mode of `PART_MODES`, since that is all that is
            known of a cloud to be completed; None leaves the clouds as they are.

    Raises:
        InputError: the rule or the normalization is unknown, or a number is out of range.

    Example:
        >>> cut = PartialClouds(num_given=200)
        >>> clouds = torch.rand(4, 2048, 3)
        >>> cut(clouds, cut.draw(*clouds.shape[:2], torch.Generator().manual_seed(0))).shape  # (4, 2048, 3)
        torch.Size([4, 2048, 3])
    """

    num_given: int
    rule: str = "view"
    removed: tuple[float, ...] = (0.25, 0.5, 0.75)
    resolution: int | None = None
    radius: int = 1
    normalization: str | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UnknownName("the rule of partial clouds", self.rule, RULES)
        if self.normalization is not None and self.normalization not in PART_MODES:
            raise UnknownName("normalization by given points", self.normalization, PART_MODES)
        if self.num_given < 1:
            raise OutOfRange("num_given", "at least 1", self.num_given)
        _check_grid(self.resolution, self.radius)
        if not self.removed or not all(0 < share < 1 for share in self.removed):
            raise InputError(f"removed must be shares in (0, 1), got {list(self.removed)}")

    def check(self, points: int) -> None:
        """Refuse clouds of too few points.

        Raises:
            InputError: nothing would be left to draw, or fewer points than are given would be left to give.
        """
        if self.num_given >= points:
            raise InputError(f"num_given must be below the {points} points of a cloud, got {self.num_given}")
        most = max(self.removed)
        if self.rule == "nearest" and self.num_given > points - round(most * points):
            raise InputError(
                f"num_given must be at most the {points - round(most * points)} points that are left of {points} "
                f"when {most:.0%} go, got {self.num_given}"
            )

    def draw(self, count: int, points: int, generator: torch.Generator | None = None) -> PartialDraws:
        """Draw what is random for `count` clouds of `points` points, on the CPU."""
        directions = random_directions(count, generator)
        order = torch.rand(count, points, generator=generator)
        shares = torch.tensor(self.removed, dtype=torch.float64)
        return PartialDraws(directions, order, shares[torch.randint(len(shares), (count,), generator=generator)])

    def __call__(self, clouds: Tensor, draws: PartialDraws, num_points: int | None = None) -> Tensor:
        """Return the clouds with their given points first, see `cut`."""
        return self.cut(clouds, draws, num_points).points

    def cut(self, clouds: Tensor, draws: PartialDraws, num_points: int | None = None) -> CutClouds:
        """Return the clouds with their given points first, and how they were normalized by these.

        Args:
            clouds: `(B, P, 3)`.
            draws: of `draw`, for as many clouds.
            num_points: points of the result; the first `num_given` are given, the others are drawn among all that
                are not. All P by default.

        Returns:
            Points `(B, num_points, 3)`, with shift and scale.

        Raises:
            InputError: see `check`; the given points of a cloud coincide, so that nothing normalizes by them; or
                `num_points` leaves nothing behind the given ones, or is more than P.
        """
        points = clouds.shape[1]
        self.check(points)
        wanted = points if num_points is None else num_points
        if not self.num_given < wanted <= points:
            raise InputError(
                f"num_points must be above the {self.num_given} given points and at most {points}, got {wanted}"
            )
        order = draws.order.to(clouds)
        if self.rule == "view":
            behind = hidden_depth(clouds, draws.directions, self.resolution, self.radius)
            # seen points in random order, then the hidden ones by their depth
            keys = torch.where(behind > 0, 1 + behind, order)
        else:
            gone = (draws.removed.to(clouds.device) * points).round().long()
            nearness = distance_to_viewpoint(clouds, draws.directions).argsort(dim=1, stable=True).argsort(dim=1)
            keys = torch.where(nearness < gone[:, None], 1 + order, order)
        given = keys.argsort(dim=1, stable=True)[:, : self.num_given]
        # the given ones keep their places in front, the others follow at random
        rest = order.scatter(
            1, given, torch.arange(-self.num_given, 0, device=order.device).to(order).expand_as(given)
        )
        chosen = rest.argsort(dim=1, stable=True)[:, :wanted]
        found = clouds.gather(1, chosen[:, :, None].expand(-1, -1, 3))
        _, shift, scale = normalize(found[:, : self.num_given], self.normalization or "none")
        if self.normalization is not None:
            found = ((found.double() - shift) / scale).to(found.dtype)
        return CutClouds(found, shift, scale)


def partial_set(clouds: Tensor, cut: PartialClouds, seed: int) -> CutClouds:
    """Return clouds `(n, P, 3)` with their given points first, each cut by its own draws.

    What is given of cloud i depends on the seed, i and P, not on how many clouds there are.

    Args:
        clouds: `(n, P, 3)`.
        cut: how partial clouds are cut.
        seed: of all draws.

    Raises:
        InputError: see `PartialClouds.cut`.
    """
    rows = []
    for i, cloud in enumerate(clouds):
        draws = cut.draw(1, len(cloud), rng.generator(seed, "partial", i))
        rows.append(cut.cut(cloud[None], draws))
    return CutClouds(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def partial_of_run(num_given: int, config: PartialConfig, normalization: str) -> PartialClouds:
    """Return how the clouds of a completion model's run are cut.

    Args:
        num_given: the model's.
        config: the run's.
        normalization: the run's; one of `PART_MODES` is that of the given points.
    """
    return PartialClouds(
        num_given, **vars(config), normalization=normalization if normalization in PART_MODES else None
    )


def _check(clouds: Tensor, directions: Tensor) -> None:
    if clouds.dim() != 3 or clouds.shape[2] != 3 or 0 in clouds.shape:
        raise InputError(f"clouds must be (B, P, 3), got {tuple(clouds.shape)}")
    if directions.shape != (len(clouds), 3):
        raise InputError(f"directions must be ({len(clouds)}, 3), one a cloud, got {tuple(directions.shape)}")


def _check_grid(resolution: int | None, radius: int) -> None:
    if resolution is not None and resolution < 1:
        raise OutOfRange("resolution", "at least 1", resolution)
    if radius < 0:
        raise OutOfRange("radius", "at least 0", radius)
