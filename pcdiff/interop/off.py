"""Vertices and faces of OFF files (Geomview's Object File Format), with normals, colors and textures or without.

Comments may be anywhere; the counts may follow the keyword at once (as in ModelNet), and vertices the counts.
"""

import re

from pcdiff.interop.polygons import Surface, fans
from pcdiff.interop.text import table, text_lines

_HEAD = re.compile(rb"\s*(ST)?(C)?(N)?OFF\s*(\d{1,18})\s+(\d{1,18})(?=\s|$)")
_EDGES = re.compile(rb"[ \t]+\d+(?=\s|$)|[ \t]*\n\d+[ \t]*(?=\n|$)")  # after the counts, or alone on a line


def parse_off(content: bytes) -> Surface:
    """Return vertices and triangles, polygons cut into fans.

    Raises:
        ValueError: it is no text OFF, has four coordinates a vertex, or holds fewer or more than its header gives.
    """
    text = b"\n".join(text_lines(content))
    head = _HEAD.match(text)
    if not head:
        binary = re.match(rb"\s*\w*OFF\s+BINARY", text)
        expected = "expected OFF and the numbers of vertices and faces"
        raise ValueError("binary OFF is not read" if binary else expected)
    vertices, faces = int(head[4]), int(head[5])
    edges = _EDGES.match(text, head.end())
    rest = text[edges.end() if edges else head.end() :]
    rows = [row.strip() for row in rest.split(b"\n")]
    on_head = bool(rows[0])
    rows = [row for row in rows if row]
    try:
        return _by_lines(rows, vertices, faces)
    except ValueError:
        if not on_head:
            raise
    # where vertices begin on the line of the counts, line ends may mean nothing
    width = 3 + 3 * bool(head[3]) + 4 * bool(head[2]) + 2 * bool(head[1])
    return _by_words(rest.split(), vertices, width, faces)


def _by_lines(rows: list[bytes], vertices: int, faces: int) -> Surface:
    if len(rows) < vertices:
        raise ValueError(f"{vertices} vertices promised, {len(rows)} found")
    if len(rows) != vertices + faces:
        raise ValueError(f"{faces} faces promised, {len(rows) - vertices} found")
    by_size: dict[bytes, list[bytes]] = {}
    for row in rows[vertices:]:
        by_size.setdefault(row.split(None, 1)[0], []).append(row)
    groups = []
    for word, group in by_size.items():
        size = _count(word)
        if any(len(row.split()) <= size for row in group):
            raise ValueError(f"a face of {size} corners that lists fewer")
        if size < 3:
            raise ValueError(f"a face with {size} corners")
        groups.append(table(group, range(1, size + 1)))  # colors may follow
    return table(rows[:vertices], (0, 1, 2)), fans(groups)


def _by_words(words: list[bytes], vertices: int, width: int, faces: int) -> Surface:
    if len(words) < vertices * width:
        raise ValueError(f"{vertices} vertices promised, {len(words) // width} found")
    rows = [b" ".join(words[i * width : i * width + 3]) for i in range(vertices)]
    start, polygons = vertices * width, []
    for _ in range(faces):
        size = _count(words[start]) if start < len(words) else 0
        polygons.append(table([b" ".join(words[start + 1 : start + 1 + size]) or b"0"]))
        if polygons[-1].shape[1] != size:
            raise ValueError(f"{faces} faces promised, {len(polygons) - 1} found")
        start += 1 + size
    if start != len(words):
        raise ValueError(f"{len(words) - start} numbers after the last face")
    return table(rows), fans(polygons)


def _count(word: bytes) -> int:
    if not (word.isdigit() and len(word) < 10):
        raise ValueError(f"a face of {word[:20].decode('latin-1')!a} corners")
    return int(word)
