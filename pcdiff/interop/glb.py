"""Meshes of GLB files (glTF 2.0 in one file): every node's mesh, placed by the nodes' transforms.

The format: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, sections 3.6 (accessors), 3.7 (meshes) and 4.
"""

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from pcdiff.interop.checks import TruncatedError
from pcdiff.interop.polygons import Surface

_JSON, _BIN = 0x4E4F534A, 0x004E4942
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_POINTS, _LINES = 0, (1, 2, 3)
_PACKED = "its coordinates are compressed ({}), which is not read; save it uncompressed"
_DRACO, _INSTANCES = "KHR_draco_mesh_compression", "EXT_mesh_gpu_instancing"


def parse_glb(content: bytes) -> Surface:
    """Return the scene's vertices and triangles, strips and fans among them; its points, if there are none.

    Normalized integers represent 0..1 or -1..1 (KHR_mesh_quantization). Lines, skins, morph targets and animations
    are left out; so are loose points, where there are triangles.

    Raises:
        TruncatedError: it ends early.
        ValueError: it is damaged, needs another file, or stores its coordinates sparsely or by an extension.
    """
    glb = _Glb(content)
    parts = [part for matrix, mesh in glb.placed() for part in glb.parts(mesh, matrix)]
    if any(len(faces) for _, faces in parts):
        parts = [part for part in parts if len(part[1])]
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    vertices = np.concatenate([np.empty((0, 3)), *(vertices for vertices, _ in parts)])
    faces = [faces + start for (_, faces), start in zip(parts, starts, strict=False)]
    return vertices, np.concatenate([np.empty((0, 3), dtype=np.int64), *faces])


class _Glb:
    """The tree of a file, and the bytes its buffers hold."""

    def __init__(self, content: bytes) -> None:
        if len(content) < 20:
            raise ValueError("no header")
        magic, version, length = struct.unpack_from("<4sII", content)
        if magic != b"glTF" or version != 2:
            raise ValueError(f"expected glTF 2, got {magic!a} {version}")
        if length > len(content):
            raise TruncatedError(f"{length} bytes promised, {len(content)} found")
        chunks, start = [], 12
        while start + 8 <= length:
            size, kind = struct.unpack_from("<II", content, start)
            if start + 8 + size > length:
                raise TruncatedError(f"a chunk of {size} bytes promised, {length - start - 8} found")
            chunks.append((kind, content[start + 8 : start + 8 + size]))
            start += 8 + size
        if not chunks or chunks[0][0] != _JSON:
            raise ValueError("its first chunk is no JSON")
        self.tree = json.loads(chunks[0][1])
        self.binary = chunks[1][1] if len(chunks) > 1 and chunks[1][0] == _BIN else None

    def item(self, kind: str, index: Any) -> dict[str, Any]:
        """Return the tree's entry of that kind and number."""
        entries = self.tree.get(kind, [])
        if type(index) is not int or not 0 <= index < len(entries):
            raise ValueError(f"it has no {kind}[{index!r:.20}]")
        return entries[index]

    def placed(self) -> list[tuple[np.ndarray, dict[str, Any]]]:
        """Return each mesh of the scene (the first, where none is the default) and its `(4, 4)` transform."""
        nodes = self.tree.get("nodes", [])
        if self.tree.get("scenes"):
            roots = self.item("scenes", self.tree.get("scene", 0)).get("nodes", [])
        else:
            below = {child for node in nodes for child in node.get("children", [])}
            roots = [i for i in range(len(nodes)) if i not in below]
        found, seen = [], set()
        waiting = [(index, np.eye(4)) for index in reversed(roots)]
        while waiting:
            index, above = waiting.pop()
            node = self.item("nodes", index)
            if index in seen:
                raise ValueError(f"its node {index} hangs below two others")
            seen.add(index)
            if _INSTANCES in node.get("extensions", {}):
                raise ValueError(f"instances by an extension ({_INSTANCES}) are not read; save each as a node")
            matrix = above @ _transform(node)
            if "mesh" in node:
                found.append((matrix, self.item("meshes", node["mesh"])))
            waiting += [(child, matrix) for child in reversed(node.get("children", []))]
        return found

    def parts(self, mesh: dict[str, Any], matrix: np.ndarray) -> list[Surface]:
        """Return the points and triangles of a mesh, placed."""
        parts = []
        for part in mesh["primitives"]:
            mode, place = part.get("mode", 4), part.get("attributes", {}).get("POSITION")
            if mode in _LINES or place is None:  # without positions there is nothing to draw
                continue
            vertices = self.accessor(place, 3, part)
            indices = np.arange(len(vertices))
            if "indices" in part:
                indices = self.accessor(part["indices"], 1, part)[:, 0].astype(np.int64)
            if len(indices) and indices.max() >= len(vertices):
                raise ValueError(f"a face has a corner that is none of the {len(vertices)} vertices")
            if mode == _POINTS:
                vertices, faces = vertices[indices], np.empty((0, 3), dtype=np.int64)
            elif mode in _TRIANGLES:
                faces = _TRIANGLES[mode](indices)
            else:
                raise ValueError(f"its mode {mode!r:.20} is none that glTF has")
            parts.append((vertices @ matrix[:3, :3].T + matrix[:3, 3], faces))
        return parts

    def accessor(self, index: Any, width: int, part: dict[str, Any]) -> np.ndarray:
        """Return an accessor's rows `(count, width)` as float64, normalized where it is marked so."""
        accessor = self.item("accessors", index)
        if "sparse" in accessor:
            raise ValueError("its coordinates are stored sparsely, which is not read; save them whole")
        if "bufferView" not in accessor:
            raise ValueError(_PACKED.format(_DRACO if _DRACO in part.get("extensions", {}) else "by an extension"))
        view = self.item("bufferViews", accessor["bufferView"])
        if packed := [name for name in view.get("extensions", {}) if "compression" in name]:
            raise ValueError(_PACKED.format(packed[0][:40]))
        if accessor["type"] != {1: "SCALAR", 3: "VEC3"}[width] or accessor["componentType"] not in _COMPONENTS:
            raise ValueError("an accessor of another type than glTF has there")
        dtype, count = np.dtype(_COMPONENTS[accessor["componentType"]]), _whole(accessor["count"])
        size, start = dtype.itemsize * width, _whole(accessor.get("byteOffset", 0))
        stride = _whole(view.get("byteStride", size))
        promised = start + stride * (count - 1) + size if count else 0
        first, length = _whole(view.get("byteOffset", 0)), _whole(view["byteLength"])
        data = self.buffer(view["buffer"])
        if stride < size or promised > length or first + length > len(data):
            raise ValueError(f"an accessor of {count} rows reaches beyond its data")
        rows = np.ndarray((count, width), dtype, data, first + start, (stride, dtype.itemsize)).astype(np.float64)
        if accessor.get("normalized") and dtype.kind in "iu":
            rows = np.maximum(rows / np.iinfo(dtype).max, -1.0)
        return rows

    def buffer(self, index: Any) -> bytes:
        """Return a buffer's bytes."""
        uri = self.item("buffers", index).get("uri")
        if uri is None:
            if index or self.binary is None:
                raise ValueError(f"its buffer {index} has no bytes")
            return self.binary
        head, comma, data = uri.partition(";base64,")
        if not (head.startswith("data:") and comma):
            raise ValueError("its data are in another file; save it as one .glb")
        return base64.b64decode(data, validate=True)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{value!r:.20} where a count or a place should be")
    return value


def _transform(node: dict[str, Any]) -> np.ndarray:
    """Return a node's own transform `(4, 4)`: its matrix, or translation, rotation and scale."""
    if "matrix" in node:
        return _numbers(node["matrix"], 16).reshape(4, 4).T  # stored by columns
    x, y, z, w = _numbers(node.get("rotation", (0, 0, 0, 1)), 4)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= _numbers(node.get("scale", (1, 1, 1)), 3)
    matrix[:3, 3] = _numbers(node.get("translation", (0, 0, 0)), 3)
    return matrix


def _numbers(values: Sequence[float], count: int) -> np.ndarray:
    array = np.array(values, dtype=np.float64)
    if array.shape != (count,):
        raise ValueError(f"a transform of shape {array.shape}, expected {count} numbers")
    return array


def _triangles(indices: np.ndarray) -> np.ndarray:
    if len(indices) % 3:
        raise ValueError(f"{len(indices)} corners make no triangles")
    return indices.reshape(-1, 3)


def _strip(indices: np.ndarray) -> np.ndarray:
    """Every corner makes a triangle with the two before it; every other one is turned to face as the first."""
    faces = np.stack([indices[:-2], indices[1:-1], indices[2:]], axis=1)
    faces[1::2] = faces[1::2, [0, 2, 1]]
    return faces


def _fan(indices: np.ndarray) -> np.ndarray:
    """Every two neighbors make a triangle with the first corner."""
    return np.stack([indices[1:-1], indices[2:], np.broadcast_to(indices[:1], (max(len(indices) - 2, 0),))], axis=1)


_TRIANGLES = {4: _triangles, 5: _strip, 6: _fan}
