"""A picture of one point cloud: every point a small shaded sphere, lit from the upper left, in plain NumPy."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from pcdiff.errors import InputError, OutOfRange
from pcdiff.viz._light import box_blur, floor_shadow, lamp_directions, sky_directions, visibility

CAMERA_DISTANCE = 6.0  # in half-sides of the cloud; far enough that parallel edges look parallel
LAMP = (-0.50, 1.0, 0.55)  # in camera axes (right, up, toward the viewer): upper left, in front
_FLOOR_CELLS, _FLOOR_HALF_WIDTH = 160, 3.0
# Low to high on the cloud's upright axis, sRGB. Close in lightness, so that dark always means shade.
_PALETTE = np.array(
    [(0.42, 0.47, 0.86), (0.35, 0.66, 0.88), (0.45, 0.80, 0.74), (0.74, 0.86, 0.60), (0.98, 0.82, 0.48)]
)


def render_cloud(
    points,
    size: int = 256,
    *,
    azimuth: float = 35.0,
    elevation: float = 22.0,
    up: str = "y",
    radius: float | None = None,
    color: Sequence[float] | None = None,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    supersample: int = 2,
) -> np.ndarray:
    """Render a cloud as shaded spheres with soft shadows and return the picture, `(size, size, 3)` uint8.

    The cloud is moved and scaled to fill the picture, whatever its units. Deterministic: no random draw.

    Args:
        points: `(N, 3)` array or tensor, N >= 1, finite.
        size: width and height in pixels.
        azimuth: degrees the camera walks around the upright axis, from the cloud's front (+z, or -y for z up).
        elevation: degrees of the camera above the horizon, -90 to 90.
        up: the upright axis, "y" (ShapeNet) or "z" (ModelNet).
        radius: of a sphere, relative to the cloud's longest half-side; None follows the points' spacing.
        color: one RGB color in [0, 1] (sRGB); None colors by height.
        background: RGB in [0, 1] (sRGB).
        supersample: rendered this many times larger along each side, then averaged.

    Raises:
        InputError: for a wrong shape, NaN or inf, or a setting out of range.

    Example:
        >>> image = render_cloud(np.random.default_rng(0).normal(size=(512, 3)), size=64)
        >>> image.shape
        (64, 64, 3)
    """
    world = _upright(_as_cloud(points), up)
    _check_settings(size, elevation, radius, supersample)
    paper = _as_color(background, "background")
    if radius is None:
        radius = sphere_radius(world)
    pixels = size * supersample
    camera = _camera(azimuth, elevation)
    albedo = _albedo(world) if color is None else np.broadcast_to(_as_color(color, "color"), world.shape)

    # `camera` rows are the camera's axes in world coordinates: world = view @ camera. The lamp turns with the
    # camera but keeps its height, so that the shadow stays short from every side.
    lamp = lamp_directions(np.array(LAMP) @ camera * [1, 0, 1] + [0, LAMP[1], 0], count=16, spread=0.16)
    sky = sky_directions(24)

    view = world @ camera.T
    floor = float(world[:, 1].min()) - radius
    outline = _project(view)
    if elevation > 0:  # from below there is no floor and no shadow
        drop = (world[:, 1:2] - floor) / lamp[0, 1]
        shadow = _project((world - drop * lamp[0]) @ camera.T)
    else:
        shadow = outline
    scale, center = _fit(outline, shadow, radius, pixels)
    # Never thinner than about a pixel of the result, or a far point fades away.
    owner, depth, normal = _splat(view, radius, scale, center, pixels, least=0.6 * supersample)

    linear = np.broadcast_to(paper, (pixels, pixels, 3)).copy()
    if elevation > 0:
        shadows = [floor_shadow(world, to, radius, floor, _FLOOR_HALF_WIDTH, _FLOOR_CELLS) for to in (lamp, sky)]
        shade = box_blur(0.42 * shadows[0] + 0.34 * shadows[1], 1, times=3)
        # The shade is soft: one value for each pixel of the result will do.
        shade = _on_floor(shade, camera, floor, scale / supersample, center, size) * _edge_fade(size)
        linear *= 1 - shade.repeat(supersample, axis=0).repeat(supersample, axis=1)[..., None]

    hit = owner >= 0
    who = owner[hit]
    matt, gloss = _light(
        normal[hit], visibility(world, lamp, radius)[who], visibility(world, sky, radius)[who], camera
    )
    matt *= _crease(depth, hit, max(1, round(radius * scale * 1.2)), radius)[hit]
    linear[hit] = albedo[who] * matt[:, None] + gloss[:, None]

    linear = linear.reshape(size, supersample, size, supersample, 3).mean(axis=(1, 3))
    return np.round(255 * _to_srgb(np.clip(linear, 0, 1))).astype(np.uint8)


def sphere_radius(cloud: np.ndarray) -> float:
    """Return a sphere radius for a cloud `(N, 3)` whose longest half-side is 1.

    The spheres should just touch: the radius follows the distance to the third neighbor, which for a surface
    falls as N^-1/2, and stays near 1.5 N^-1/2 so that clumps or stray points do not decide it.
    """
    count = len(cloud)
    usual = 1.5 / math.sqrt(count)
    third = min(3, count - 1)  # the point itself is the zeroth
    some = cloud[:: max(1, count // 256)]
    spacing = float(np.median(cKDTree(cloud).query(some, k=[third + 1])[0]))
    return min(0.11, max(0.008, 0.55 * usual, min(1.5 * usual, 0.8 * spacing)))


def _as_cloud(points) -> np.ndarray:
    if hasattr(points, "detach"):
        points = points.detach().cpu().numpy()
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise InputError(f"points must be (N, 3) with N >= 1, got {points.shape}")
    if points.dtype.kind not in "fiu":
        raise InputError(f"points must hold real numbers, got dtype {points.dtype}")
    points = points.astype(np.float64)
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points).all(axis=1)).sum())
        raise InputError(f"points must be finite, got NaN or inf in {bad} of {len(points)} points")
    return points


def _check_settings(size: int, elevation: float, radius: float | None, supersample: int) -> None:
    if size < 8:
        raise InputError(f"size must be at least 8 pixels, got {size}")
    if not -90 <= elevation <= 90:
        raise InputError(f"elevation must be in [-90, 90] degrees, got {elevation}")
    if radius is not None and not 0 < radius <= 1:
        raise InputError(f"radius must be in (0, 1], relative to the cloud's longest half-side, got {radius}")
    if supersample < 1:
        raise OutOfRange("supersample", "at least 1", supersample)


def _upright(points: np.ndarray, up: str) -> np.ndarray:
    """Return the cloud with y up, bounding box centered at 0, longest half-side 1."""
    if up not in ("y", "z"):
        raise InputError(f'up must be "y" or "z", got {up!r}')
    if up == "z":
        points = points[:, [0, 2, 1]] * [1, 1, -1]
    low, high = points.min(axis=0), points.max(axis=0)
    half = float((high - low).max()) / 2
    return (points - (low + high) / 2) / (half if half > 0 else 1.0)


def _camera(azimuth: float, elevation: float) -> np.ndarray:
    """Return the camera's right, up and backward axes as rows, in world coordinates, `(3, 3)`."""
    a, e = math.radians(azimuth), math.radians(elevation)
    backward = np.array([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])
    right = np.array([math.cos(a), 0.0, -math.sin(a)])
    return np.stack([right, np.cross(backward, right), backward])


def _as_color(color: Sequence[float], name: str) -> np.ndarray:
    """Return an sRGB color as linear light, `(3,)`."""
    try:
        channels = np.asarray(color, dtype=np.float64)
    except (TypeError, ValueError):
        channels = np.empty(0)
    if channels.shape != (3,) or not ((channels >= 0) & (channels <= 1)).all():
        raise InputError(f"{name} must be three numbers in [0, 1] (red, green, blue), got {color!r}")
    return _to_linear(channels)


def _albedo(world: np.ndarray) -> np.ndarray:
    """Return the linear base color of each point by its height, `(N, 3)`."""
    height = world[:, 1]
    span = float(np.ptp(height))
    share = (height - height.min()) / span if span > 0 else np.full(len(height), 0.5)
    stops = np.linspace(0, 1, len(_PALETTE))
    return _to_linear(np.stack([np.interp(share, stops, _PALETTE[:, c]) for c in range(3)], axis=1))


def _project(view: np.ndarray) -> np.ndarray:
    return view[:, :2] * (CAMERA_DISTANCE / (CAMERA_DISTANCE - view[:, 2:]))


def _fit(outline: np.ndarray, shadow: np.ndarray, radius: float, pixels: int) -> tuple[float, np.ndarray]:
    """Return pixels per unit of the image plane, and the point of it that comes to the picture's center."""
    low, high = outline.min(axis=0) - 1.2 * radius, outline.max(axis=0) + 1.2 * radius
    # The shadow may come nearer to the edge than the cloud, and never shrinks it by more than a fifth.
    low_s, high_s = np.minimum(low, shadow.min(axis=0)), np.maximum(high, shadow.max(axis=0))
    extent = float((high - low).max())
    wanted = min(max(extent * 1.06, float((high_s - low_s).max())), 1.2 * extent)
    center = (low + high) / 2 + 0.5 * ((low_s + high_s) - (low + high)) / 2
    return pixels / (wanted * 1.04), center


def _splat(view, radius, scale, center, pixels, least):
    """Draw the spheres into a depth buffer, each at least `least` pixels in radius.

    Returns:
        owner `(H, W)`: the point seen in each pixel, -1 for none; depth `(H, W)` toward the viewer, -inf for
        none; normal `(H, W, 3)` of the sphere there, in camera axes.
    """
    zoom = CAMERA_DISTANCE / (CAMERA_DISTANCE - view[:, 2])
    xy = (view[:, :2] * zoom[:, None] - center) * scale * [1, -1] + pixels / 2
    r = np.maximum(radius * zoom * scale, least)
    reach = int(np.ceil(r.max())) + 1
    steps = np.arange(-reach, reach + 1)
    stencil = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    stencil = stencil[(stencil**2).sum(axis=1) <= (r.max() + 1) ** 2]

    column = np.floor(xy[:, 0]).astype(np.int64)[:, None] + stencil[:, 0]
    row = np.floor(xy[:, 1]).astype(np.int64)[:, None] + stencil[:, 1]
    nx = (column + 0.5 - xy[:, :1]) / r[:, None]
    ny = (xy[:, 1:] - row - 0.5) / r[:, None]
    square = nx * nx + ny * ny
    keep = (square < 1) & (column >= 0) & (column < pixels) & (row >= 0) & (row < pixels)
    who = np.broadcast_to(np.arange(len(view))[:, None], keep.shape)[keep]
    nx, ny = nx[keep], ny[keep]
    nz = np.sqrt(1 - square[keep])
    where = row[keep] * pixels + column[keep]
    z = view[who, 2] + radius * nz

    depth = np.full(pixels * pixels, -np.inf)
    np.maximum.at(depth, where, z)
    winner = np.flatnonzero(z == depth[where])  # of exact ties the last point stays
    owner = np.full(pixels * pixels, -1)
    owner[where[winner]] = who[winner]
    normal = np.zeros((pixels * pixels, 3))
    normal[where[winner]] = np.stack([nx, ny, nz], axis=1)[winner]
    return owner.reshape(pixels, pixels), depth.reshape(pixels, pixels), normal.reshape(pixels, pixels, 3)


def _light(normal: np.ndarray, lamp_seen: np.ndarray, sky_seen: np.ndarray, camera: np.ndarray):
    """Return the light a matt surface throws back, and the gloss on top of it, for each pixel, `(K,)` both.

    Args:
        normal: `(K, 3)` in camera axes.
        lamp_seen: `(K,)`, the share of the lamp that reaches the pixel's point.
        sky_seen: `(K,)`, the share of the sky that does.
        camera: its axes as rows, `(3, 3)`.
    """
    to_lamp = np.array(LAMP) / np.linalg.norm(LAMP)
    halfway = to_lamp + np.array([0.0, 0.0, 1.0])
    halfway /= np.linalg.norm(halfway)
    direct = np.clip(normal @ to_lamp, 0, None) * lamp_seen
    # Some light comes from below, off the pale floor; 0.18 is what bounces into the deepest hollow.
    dome = (0.62 + 0.38 * (normal @ camera[:, 1])) * (0.18 + 0.82 * sky_seen)
    return 0.80 * direct + 0.62 * dome, 0.10 * np.clip(normal @ halfway, 0, None) ** 40 * lamp_seen


def _crease(depth: np.ndarray, hit: np.ndarray, reach: int, radius: float) -> np.ndarray:
    """Return a darkening factor (H, W) for pixels that are deeper than their surroundings.

    Unsharp masking of the depth buffer (Luft, Colditz and Deussen 2006), over covered pixels only.
    """
    weight = box_blur(hit.astype(np.float64), reach)
    around = box_blur(np.where(hit, depth, 0.0), reach) / np.maximum(weight, 1e-9)
    sunk = np.where(hit, np.clip((around - np.where(hit, depth, 0.0)) / radius, 0, 2), 0)
    return 1 - 0.30 * sunk


def _on_floor(shade: np.ndarray, camera, floor, scale, center, pixels) -> np.ndarray:
    """Return the floor map `shade` as the camera sees it, `(H, W)`: each pixel's ray meets the plane y = floor."""
    grid = (np.arange(pixels) + 0.5 - pixels / 2) / scale
    x, y = np.meshgrid(grid + center[0], -grid + center[1])
    ray = np.stack([x, y, np.full_like(x, -CAMERA_DISTANCE)], axis=-1) @ camera
    eye = CAMERA_DISTANCE * camera[2]
    down = np.minimum(ray[..., 1], -1e-6)  # rays to the horizon land far outside the map
    land = eye + ((floor - eye[1]) / down)[..., None] * ray
    cells = shade.shape[0]
    u = np.clip((land[..., 0] + _FLOOR_HALF_WIDTH) / (2 * _FLOOR_HALF_WIDTH) * cells - 0.5, 0, cells - 1.001)
    v = np.clip((land[..., 2] + _FLOOR_HALF_WIDTH) / (2 * _FLOOR_HALF_WIDTH) * cells - 0.5, 0, cells - 1.001)
    i, j = u.astype(np.int64), v.astype(np.int64)
    a, b = u - i, v - j
    top = shade[i, j] * (1 - b) + shade[i, j + 1] * b
    bottom = shade[i + 1, j] * (1 - b) + shade[i + 1, j + 1] * b
    return top * (1 - a) + bottom * a


def _edge_fade(pixels: int) -> np.ndarray:
    """Return 1 inside and a smooth fall to 0 at the picture's edge, so that cells of a grid join unseen."""
    edge = np.clip(np.minimum(np.arange(pixels), np.arange(pixels)[::-1]) / (0.14 * pixels), 0, 1)
    edge = edge * edge * (3 - 2 * edge)
    return np.minimum(edge[:, None], edge[None, :])


def _to_linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _to_srgb(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-12) ** (1 / 2.4) - 0.055)
