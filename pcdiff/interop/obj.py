"""Vertices and faces of Wavefront OBJ files."""

import re

import numpy as np

from pcdiff.interop.polygons import Surface, fans
from pcdiff.interop.text import table, text_lines

# A backslash at the end of a line continues with the next one, but not as the second byte of a letter, as names in
# Shift JIS or GBK may end.
_CONTINUED = re.compile(rb"(?<![\x80-\xff])\\[ \t]*(?:\r\n|\n|\r)")
_WIDTHS = (3, 4, 6, 7, 8)  # x y z, then perhaps w, perhaps a color of three or four


def parse_obj(content: bytes) -> Surface:
    """Return vertices and triangles, polygons cut into fans; textures, normals, colors, lines are left out.

    A negative index counts back from the face's own line: -1 is the last vertex above it.

    Raises:
        ValueError: a line is damaged, or an index is 0, which OBJ has none of, or reaches before the first vertex.
    """
    points: list[bytes] = []
    faces: dict[int, list[bytes]] = {}  # by size
    above: dict[int, list[int]] = {}  # how many vertices precede each face
    for line in text_lines(_CONTINUED.sub(b" ", content)):
        word, _, rest = line.replace(b"\t", b" ").partition(b" ")
        if word == b"v":
            points.append(rest)
        elif word in (b"f", b"fo"):  # fo: as version 2 had it
            corners = re.sub(rb"/\S*", b"", rest) if b"/" in rest else rest
            size = len(corners.split())
            faces.setdefault(size, []).append(corners)
            above.setdefault(size, []).append(len(points))
    return _vertices(points), fans(_absolute(size, faces[size], above[size]) for size in faces)


def _vertices(rows: list[bytes]) -> np.ndarray:
    by_width: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_width.setdefault(len(row.split()), []).append(i)
    vertices = np.empty((len(rows), 3))
    for width, places in by_width.items():
        if width not in _WIDTHS:
            raise ValueError(f"{width} numbers a vertex")
        vertices[places] = table([rows[i] for i in places])[:, :3]
    return vertices


def _absolute(size: int, rows: list[bytes], above: list[int]) -> np.ndarray:
    """Return corners `(F, size)` that count from 0."""
    if size < 3:
        raise ValueError(f"a face with {size} corners")
    corners = table(rows)
    if (corners == 0).any():
        raise ValueError("a face has the index 0, which does not exist in OBJ: indices start at 1")
    absolute = np.where(corners < 0, np.array(above)[:, None] + corners, corners - 1)
    if (absolute < 0).any():
        raise ValueError("a negative index reaches before the first vertex")
    return absolute
