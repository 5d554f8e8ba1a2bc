"""Meshes: points drawn on the surface in a PLY, OFF, OBJ, STL or GLB file, or its points if it has no faces."""

import io
import json
import re
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pcdiff.errors import InputError
from pcdiff.interop.checks import unreadable
from pcdiff.interop.ply import parse_ply
from pcdiff.interop.xyz import parse_table
from pcdiff.rng import generator

SUFFIXES = (".ply", ".off", ".obj", ".stl", ".glb")

Surface = tuple[np.ndarray, np.ndarray]  # vertices (V, 3) floats, faces (F, 3) integers


class _Declared(NamedTuple):
    """What a file says it holds; trimesh does not always compare."""

    vertices: int | None
    faces: int


def read_mesh(path: Path, mesh_points: int, seed: int) -> np.ndarray:
    """Draw points uniformly by area on a file's surface, or return its points in their order if it has no faces.

    The draw depends on the seed and the file's name alone. A scene's parts are put where its transforms place them.

    Args:
        path: its suffix is one of `SUFFIXES`.
        mesh_points: how many points are drawn on a surface.
        seed: of the draw.

    Returns:
        `(mesh_points, 3)` float32, or the points `(P, 3)`.

    Raises:
        InputError: the file is damaged, holds another number of vertices or faces than it says, its faces have no
            area, or their corners are absent, NaN or infinite.
    """
    with unreadable(str(path), f"a {path.suffix.lower()} file"):
        content, suffix = path.read_bytes(), path.suffix.lower()
        declared = _DECLARED[suffix](content) if suffix in _DECLARED else None
        parts = [parse_ply(content)] if suffix == ".ply" else _load(content, suffix)
        for part_vertices, part_faces in parts:
            if len(part_faces) and not (part_faces.min() >= 0 and part_faces.max() < len(part_vertices)):
                raise ValueError(f"a face has a corner that is none of the {len(part_vertices)} vertices")
        vertices = np.concatenate([np.empty((0, 3)), *(part[0] for part in parts)])
        starts = np.cumsum([0, *(len(part[0]) for part in parts)])
        faces = [part[1] + start for part, start in zip(parts, starts, strict=False) if len(part[1])]
        faces = np.concatenate([np.empty((0, 3), dtype=np.int64), *faces])
        if declared and declared.vertices not in (len(vertices), None):
            raise ValueError(f"{declared.vertices} vertices promised, {len(vertices)} found")
        if declared and declared.faces > len(faces):  # a polygon of k corners became k - 2 triangles
            raise ValueError(f"{declared.faces} faces promised, {len(faces)} triangles found")
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
        `(count, 3)` float32.
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
    return (corner[face] + u * edge_a[face] + v * edge_b[face]).astype(np.float32)


def _doubled_areas(surface: Surface) -> np.ndarray:
    vertices, faces = surface
    corner = vertices[faces[:, 0]]
    edge_a, edge_b = vertices[faces[:, 1]] - corner, vertices[faces[:, 2]] - corner
    return np.linalg.norm(np.cross(edge_a, edge_b), axis=1)


def _load(content: bytes, suffix: str) -> list[Surface]:
    """Return every part in the scene's frame; faces are `(0, 3)` for bare points."""
    import trimesh  # here, because it is slow to import and few need it

    options = {} if suffix in (".off", ".stl") else {"skip_materials": True}
    if suffix == ".obj":
        content = re.sub(rb"#[^\n]*", b"", content)  # a comment after numbers would stop trimesh
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what trimesh makes of the file is checked
        # numpy's word for text that is no number, after which the rest of the line would be lost
        warnings.filterwarnings("error", message="string or file could not be read")
        # From memory: so no other file (textures, buffers) is opened. Unprocessed: no vertex is merged or dropped.
        loaded = trimesh.load(io.BytesIO(content), file_type=suffix[1:], process=False, **options)
        scene = loaded if isinstance(loaded, trimesh.Scene) else trimesh.Scene(loaded)
        parts = []
        for node in scene.graph.nodes_geometry:
            matrix, name = scene.graph[node]
            part = scene.geometry[name]
            if not isinstance(part, (trimesh.Trimesh, trimesh.PointCloud)):
                continue  # lines
            vertices = np.asarray(part.vertices, dtype=np.float64).reshape(-1, 3)
            faces = np.asarray(getattr(part, "faces", []), dtype=np.int64).reshape(-1, 3)
            parts.append((vertices @ matrix[:3, :3].T + matrix[:3, 3], faces))
    return parts


def _declared_in_off(content: bytes) -> _Declared:
    head = re.sub(rb"#[^\n]*", b"", content[:65536])
    # ModelNet has files without the line break after OFF.
    match = re.match(rb"\s*(?:ST)?C?N?OFF\s*(\d{1,18})\s+(\d{1,18})\s", head)
    if not match:
        raise ValueError("expected OFF and the numbers of vertices, faces and edges")
    return _Declared(int(match[1]), int(match[2]))


def _declared_in_obj(content: bytes) -> _Declared:
    """Count the lines; trimesh, which reads all numbers in one go, would take a short line's from the next."""
    vertices = parse_table(b"\n".join(re.findall(rb"^[ \t]*v[ \t]([^\n]*)", content, re.MULTILINE)))
    if vertices.shape[1] not in (3, 4, 6, 7):  # x y z, then perhaps w, perhaps a colour
        raise ValueError(f"{vertices.shape[1]} numbers a vertex")
    faces = len(re.findall(rb"^[ \t]*f[ \t]", content, re.MULTILINE))
    return _Declared(None if faces else len(vertices), faces)  # parts of a surface each get their own vertices


def _check_glb(content: bytes) -> None:
    """Refuse what trimesh would read as zeros: corners stored sparsely or by an extension such as Draco."""
    if len(content) < 20:
        raise ValueError("no header")
    magic, _, length, json_length = struct.unpack_from("<4sIII", content)
    if magic != b"glTF" or length != len(content):
        raise ValueError(f"{length} bytes promised, {len(content)} found")
    tree = json.loads(content[20 : 20 + json_length])
    for mesh in tree.get("meshes", []):
        for part in mesh["primitives"]:
            used = [part["attributes"]["POSITION"], *([part["indices"]] if "indices" in part else [])]
            if any("bufferView" not in tree["accessors"][i] or "sparse" in tree["accessors"][i] for i in used):
                raise ValueError("its coordinates are stored by an extension or sparsely; save it uncompressed")


_DECLARED = {".off": _declared_in_off, ".obj": _declared_in_obj, ".glb": _check_glb}
