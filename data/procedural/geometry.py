"""Triangle meshes from a few families of surfaces.

A surface is a pair (vertices `(V, 3)` float64, faces `(F, 3)` int64). y is up.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import trimesh

from pcdiff.interop.meshes import sample_surface
from pcdiff.interop.polygons import Surface


class MicroBatches:
    """A shape being put together: surfaces, and boxes in it that nothing can be seen of."""

    def __init__(self) -> None:
        self._vertices: list[np.ndarray] = []
        self._faces: list[np.ndarray] = []
        self._count = 0
        self._hidden: list[np.ndarray] = []  # (2, 3) low and high corner each

    def add(self, *surfaces: Surface) -> None:
        """Append surfaces."""
        for vertices, faces in surfaces:
            self._vertices.append(vertices)
            self._faces.append(faces + self._count)
            self._count += len(vertices)

    def add_mirrored(self, *surfaces: Surface) -> None:
        """Append surfaces and their mirror images in the plane x = 0."""
        for vertices, faces in surfaces:
            self.add((vertices, faces), (vertices * [-1.0, 1.0, 1.0], faces[:, ::-1]))

    def hide(self, low: Sequence[float], high: Sequence[float]) -> None:
        """Declare that points strictly inside this box are buried in the shape and get no sample."""
        self._hidden.append(np.array([low, high], dtype=np.float64))

    def add_solid_box(self, size: Sequence[float], center: Sequence[float]) -> None:
        """Append a box whose inside hides what other parts have there."""
        self.add(box(size, center))
        half = np.asarray(size) / 2
        self.hide(center - half, center + half)

    def surface(self) -> Surface:
        """Return everything as one surface: bounding box centered, of unit diagonal (ShapeNet's scale)."""
        center, diagonal = self._frame()
        return (np.concatenate(self._vertices) - center) / diagonal, np.concatenate(self._faces)

    def mesh(self) -> trimesh.Trimesh:
        """Return everything as a `trimesh.Trimesh`, buried faces included."""
        return trimesh.Trimesh(*self.surface(), process=False)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw points uniformly by area on what is not hidden, independently and in random order.

        Returns:
            `(count, 3)` float32, in the frame of `surface`.
        """
        surface = self.surface()
        if not self._hidden:
            return sample_surface(surface, count, rng).astype(np.float32)
        center, diagonal = self._frame()
        low, high = np.moveaxis((np.stack(self._hidden) - center) / diagonal, 1, 0)  # (K, 3) each
        margin = 1e-6  # a box's own faces are on its border, and must stay visible
        drawn, missing = [], count
        while missing > 0:
            points = sample_surface(surface, missing + missing // 4 + 8, rng).astype(np.float32)
            spot = points[:, None]
            inside = ((spot > low + margin) & (spot < high - margin)).all(axis=2).any(axis=1)
            drawn.append(points[~inside][:missing])
            missing -= len(drawn[-1])
        return np.concatenate(drawn)

    def _frame(self) -> tuple[np.ndarray, float]:
        vertices = np.concatenate(self._vertices)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        return (low + high) / 2, float(np.linalg.norm(high - low))


@functools.cache
def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """Return the triangles between the points of a grid whose last column joins the first."""
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    right = (j + 1) % columns
    a, b = i * columns + j, i * columns + right
    c, d = (i + 1) * columns + right, (i + 1) * columns + j
    return np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], axis=2).reshape(-1, 3)


def loft(sections: np.ndarray, cap_start: bool = True, cap_end: bool = True) -> Surface:
    """Return the skin over closed cross-sections.

    Args:
        sections: `(R, C, 3)`, R sections of C points, each running round the same way.
        cap_start: close the first section with a fan about its center (so it must be star-shaped).
        cap_end: close the last one.
    """
    rows, columns, _ = sections.shape
    vertices, faces = [sections.reshape(-1, 3)], [_grid_faces(rows, columns)]
    ring = np.arange(columns)
    for wanted, row in ((cap_start, 0), (cap_end, rows - 1)):
        if wanted:
            hub = np.full(columns, rows * columns + len(vertices) - 1)
            vertices.append(sections[row].mean(axis=0, keepdims=True))
            here, after = row * columns + ring, row * columns + (ring + 1) % columns
            # Against the skin's direction along the shared edge, so that all triangles wind alike.
            faces.append(np.stack([hub, after, here] if row == 0 else [hub, here, after], -1))
    return np.concatenate(vertices), np.concatenate(faces)


_BOX = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
_BOX_RING = [0, 1, 5, 4, 2, 3, 7, 6]  # the four corners below, the four above


def box(size: Sequence[float], center: Sequence[float], taper: float = 1.0) -> Surface:
    """Return an upright box; `taper` scales its top in x and z."""
    corners = _BOX[_BOX_RING] * size
    corners[4:, [0, 2]] *= taper
    return loft((corners + center).reshape(2, 4, 3))


def beam(start: Sequence[float], end: Sequence[float], width: float, depth: float | None = None) -> Surface:
    """Return a straight bar of rectangular section from `start` to `end`."""
    return tube(np.array([start, end]), [width / 2, width / 2], 4, None if depth is None else depth / width)


@functools.cache
def _circle(columns: int) -> np.ndarray:
    angle = 2 * np.pi * (np.arange(columns) + 0.5) / columns
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def tube(
    path: np.ndarray,
    radii: Sequence[float],
    columns: int = 10,
    flatten: float | None = None,
    caps: bool = True,
) -> Surface:
    """Return the sweep of a circle (columns = 4: of a square, with the radius as half its side).

    Args:
        path: `(K, 3)`.
        radii: K radii.
        columns: points per circle.
        flatten: factor on the section's second axis.
        caps: close both ends.
    """
    path = np.asarray(path, dtype=np.float64)
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    # One reference direction for the whole sweep, far from every tangent, so that the sections do not twist.
    reference = np.eye(3)[np.argmin(np.abs(tangent).max(axis=0))]
    across = np.cross(tangent, reference)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    up = np.cross(across, tangent) * (1.0 if flatten is None else flatten)
    circle = _circle(columns) * (np.sqrt(2) if columns == 4 else 1.0)
    offsets = circle[None, :, :1] * across[:, None] + circle[None, :, 1:] * up[:, None]
    return loft(path[:, None] + np.asarray(radii)[:, None, None] * offsets, caps, caps)


def revolve(
    profile: Sequence[Sequence[float]],
    center: Sequence[float] = (0, 0, 0),
    columns: int = 24,
    stretch: Sequence[float] = (1, 1),
    caps: bool = True,
) -> Surface:
    """Return a profile of (radius, height) pairs turned about the vertical through `center`."""
    rows = np.asarray(profile, dtype=np.float64)
    circle = _circle(columns) * stretch
    sections = np.empty((len(rows), columns, 3))
    sections[..., [0, 2]] = rows[:, None, :1] * circle
    sections[..., 1] = rows[:, None, 1]
    return loft(sections + center, caps, caps)


def turn(surface: Surface, axis: str, angle: float, about: Sequence[float] = (0, 0, 0)) -> Surface:
    """Return a surface turned by `angle` radians about an axis (`"x"`, `"y"`, `"z"`) through a point."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    vertices = surface[0] - about
    cos, sin = np.cos(angle), np.sin(angle)
    turned = vertices.copy()
    turned[:, i] = cos * vertices[:, i] - sin * vertices[:, j]
    turned[:, j] = sin * vertices[:, i] + cos * vertices[:, j]
    return turned + about, surface[1]


def ellipsoid(radii: Sequence[float], center: Sequence[float], rows: int = 12, columns: int = 16) -> Surface:
    """Return an ellipsoid."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, rows)[1:-1]
    vertices, faces = revolve(np.stack([np.cos(angle), np.sin(angle)], axis=1), columns=columns)
    vertices[-2:] = (0, -1, 0), (0, 1, 0)  # the hubs of the two caps become the poles
    return vertices * radii + center, faces


def wheel(radius: float, width: float, center: Sequence[float], columns: int = 20) -> Surface:
    """Return a wheel whose axle runs along x: a tire with bevelled edges."""
    profile = [(0.55 * radius, -0.5), (0.88 * radius, -0.5), (radius, -0.3), (radius, 0.3)]
    profile += [(0.88 * radius, 0.5), (0.55 * radius, 0.5)]
    vertices, faces = revolve(profile, columns=columns)
    return vertices[:, [1, 0, 2]] * [width, 1, 1] + center, faces


def plate(outline: np.ndarray, low: float, high: float, axis: str = "y") -> Surface:
    """Return a flat outline `(C, 2)`, star-shaped about its mean, with thickness along an axis.

    It reaches from `low` to `high`. The outline lies in (x, z) for axis y, (x, y) for axis z, (z, y) for axis x.
    """
    normal, first, second = {"y": (1, 0, 2), "z": (2, 0, 1), "x": (0, 2, 1)}[axis]
    outline = np.asarray(outline, dtype=np.float64)
    sections = np.empty((2, len(outline), 3))
    sections[..., first], sections[..., second] = outline[:, 0], outline[:, 1]
    sections[0, :, normal], sections[1, :, normal] = low, high
    return loft(sections)


def rounded_outline(width: float, depth: float, power: float, columns: int = 24) -> np.ndarray:
    """Return a superellipse `(columns, 2)`: power 2 is an ellipse, large powers near a rectangle."""
    circle = _circle(columns)
    curve = np.sign(circle) * np.abs(circle) ** (2 / power)
    return curve * [width / 2, depth / 2]
