"""Meshes: points drawn on the surface in a PLY, OFF, OBJ, STL or GLB file, or its points if it has no faces."""

from pathlib import Path

import numpy as np

from pcdiff.errors import InputError
from pcdiff.interop.checks import unreadable
from pcdiff.interop.glb import parse_glb
from pcdiff.interop.obj import parse_obj
from pcdiff.interop.off import parse_off
from pcdiff.interop.ply import parse_ply
from pcdiff.interop.polygons import Surface
from pcdiff.interop.stl import parse_stl
from pcdiff.runtime.rng import generator

_PARSERS = {".ply": parse_ply, ".off": parse_off, ".obj": parse_obj, ".stl": parse_stl, ".glb": parse_glb}
SUFFIXES = tuple(_PARSERS)


def read_mesh(path: Path, mesh_points: int, seed: int) -> np.ndarray:
    """Draw points uniformly by area on a file's surface, or return its points in their order if it has no faces.

    The draw depends on the seed and the file's name alone. A scene's parts are put where its transforms place them.

    Args:
        path: its suffix is one of `SUFFIXES`.
        mesh_points: how many points are drawn on a surface.
        seed: of the draw.

    Returns:
        `(mesh_points, 3)` float64, or the points `(P, 3)`.

    Raises:
        InputError: the file is damaged, holds another number of vertices or faces than its header gives, its faces
            have no area, or their corners are absent, NaN or infinite.
    """
    suffix = path.suffix.lower()
    with unreadable(str(path), f"a {suffix} file"):
        vertices, faces = _PARSERS[suffix](path.read_bytes())
        if len(faces) and not (faces.min() >= 0 and faces.max() < len(vertices)):
            raise ValueError(f"a face has a corner that is none of the {len(vertices)} vertices")
    if not len(faces):
        return vertices
    area = _doubled_areas((vertices, faces)).sum()
    if not 0 < area < np.inf:
        raise InputError(
            f"{path}: its {len(faces)} triangles have no finite area; expected a surface or only points"
        )
    number = generator(seed, "surface", path.name).initial_seed()
    return sample_surface((vertices, faces), mesh_points, np.random.default_rng(number))


def sample_surface(surface: Surface, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw points uniformly by area, independently and in random order.

    Returns:
        `(count, 3)` float64.
    """
    vertices, faces = surface
    corner = vertices[faces[:, 0]]
    edge_a, edge_b = vertices[faces[:, 1]] - corner, vertices[faces[:, 2]] - corner
    cumulative = np.cumsum(_doubled_areas(surface))
    face = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    u, v = rng.random((2, count, 1))
    # Fold the unit square onto the triangle: uniform, and cheaper than the square-root map.
    outside = u + v > 1
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    return corner[face] + u * edge_a[face] + v * edge_b[face]


def _doubled_areas(surface: Surface) -> np.ndarray:
    vertices, faces = surface
    corner = vertices[faces[:, 0]]
    edge_a, edge_b = vertices[faces[:, 1]] - corner, vertices[faces[:, 2]] - corner
    return np.linalg.norm(np.cross(edge_a, edge_b), axis=1)
