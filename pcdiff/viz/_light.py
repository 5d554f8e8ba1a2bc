"""How much light reaches each point of a cloud, and the shadow it throws on the floor.

World axes here are right-handed with y up. A direction always points from the scene toward the light.
"""

import numpy as np

_NEIGHBORS = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])


def sky_directions(count: int) -> np.ndarray:
    """Return `count` unit directions over the upper hemisphere, denser overhead (cosine weighted), `(D, 3)`."""
    k = np.arange(count)
    radius = np.sqrt((k + 0.5) / count)  # uniform on the disc = cosine weighted on the hemisphere
    angle = k * np.pi * (3 - np.sqrt(5))
    return np.stack([radius * np.cos(angle), np.sqrt(1 - radius**2), radius * np.sin(angle)], axis=1)


def lamp_directions(toward: np.ndarray, count: int, spread: float) -> np.ndarray:
    """Return `count` unit directions on a disc of half-width `spread` (radians) around `toward`, `(D, 3)`."""
    toward = toward / np.linalg.norm(toward)
    side, up = _frame(toward)
    k = np.arange(count)
    radius = spread * np.sqrt((k + 0.5) / count)
    angle = k * np.pi * (3 - np.sqrt(5))
    directions = toward + np.outer(radius * np.cos(angle), side) + np.outer(radius * np.sin(angle), up)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def visibility(points: np.ndarray, directions: np.ndarray, radius: float) -> np.ndarray:
    """Return the share of `directions` from which each point is lit, by one coarse depth map per direction.

    Args:
        points: `(N, 3)`, within about [-1, 1].
        directions: `(D, 3)` unit vectors toward the light.
        radius: of the spheres, in the points' unit; it sets the width of a map cell and the depth tolerance.

    Returns:
        `(N,)` in [0, 1].
    """
    cell = 2.0 * radius
    lit = np.zeros(len(points))
    for direction in directions:
        side, up = _frame(direction)
        u, v = points @ side / cell, points @ up / cell
        depth = points @ direction
        iu, iv = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
        iu, iv = iu - iu.min() + 1, iv - iv.min() + 1
        width, height = iu.max() + 2, iv.max() + 2
        nearest = np.full(width * height, -np.inf)
        np.maximum.at(nearest, iu * height + iv, depth)
        # Soft edges: the mean over the nine cells around, each answering lit or not.
        cells = (iu[:, None] + _NEIGHBORS[:, 0]) * height + iv[:, None] + _NEIGHBORS[:, 1]
        # The tolerance grows off-center: a slanted surface must not darken itself.
        slack = radius * np.where(np.abs(_NEIGHBORS).sum(axis=1) == 0, 2.5, 4.0)
        lit += (nearest[cells] <= depth[:, None] + slack).mean(axis=1)
    return lit / len(directions)


def floor_shadow(
    points: np.ndarray, directions: np.ndarray, radius: float, floor: float, half_width: float, cells: int
) -> np.ndarray:
    """Return how much of the light from `directions` is kept off the plane y = `floor`.

    Args:
        points: `(N, 3)` above the plane.
        directions: `(D, 3)` unit vectors toward the light.
        radius: of the spheres.
        floor: height of the plane.
        half_width: the map covers x and z in [-half_width, half_width].
        cells: cells along each side of the map.

    Returns:
        `(cells, cells)` indexed [x, z], in [0, 1]; points whose shadow leaves the map are left out.
    """
    shadow = np.zeros((cells, cells))
    scale = cells / (2 * half_width)
    reach = max(1, int(np.ceil(radius * scale)))
    steps = np.arange(-reach, reach + 1)
    disc = np.array([(i, j) for i in steps for j in steps if i * i + j * j <= reach * reach])
    for direction in directions:
        if direction[1] < 0.35:  # grazing light throws a long streak, not a shade
            continue
        drop = (points[:, 1] - floor) / direction[1]
        x = (points[:, 0] - drop * direction[0] + half_width) * scale
        z = (points[:, 2] - drop * direction[2] + half_width) * scale
        ix = np.floor(x).astype(np.int64)[:, None] + disc[:, 0]
        iz = np.floor(z).astype(np.int64)[:, None] + disc[:, 1]
        inside = (ix >= 0) & (ix < cells) & (iz >= 0) & (iz < cells)
        covered = np.zeros((cells, cells))
        covered[ix[inside], iz[inside]] = 1.0
        shadow += covered
    return shadow / len(directions)


def box_blur(image: np.ndarray, reach: int, times: int = 1) -> np.ndarray:
    """Return the mean over the (2 reach + 1)^2 square around each cell, edges repeated, done `times` times."""
    for _ in range(times if reach > 0 else 0):
        for axis in (0, 1):
            pad = [(0, 0), (0, 0)]
            pad[axis] = (reach + 1, reach)
            total = np.cumsum(np.pad(image, pad, mode="edge"), axis=axis)
            width = 2 * reach + 1
            after = np.take(total, range(width, total.shape[axis]), axis=axis)
            before = np.take(total, range(total.shape[axis] - width), axis=axis)
            image = (after - before) / width
    return image


def _frame(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two unit vectors that complete `direction` to an orthonormal frame."""
    helper = np.array([0.0, 1.0, 0.0]) if abs(direction[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    side = np.cross(helper, direction)
    side /= np.linalg.norm(side)
    return side, np.cross(direction, side)
