"""Triangles of STL files, binary and text."""

import re
import struct

import numpy as np

from pcdiff.interop.checks import TruncatedError
from pcdiff.interop.polygons import Surface
from pcdiff.interop.text import table, text_lines

_HEADER, _RECORD = 84, np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_TEXT = re.compile(rb"[\s\xef\xbb\xbf]*solid\b(?s:.{0,4096}?)(?:facet|endsolid)", re.IGNORECASE)
_FACET = (b"facet", b"outer", b"vertex", b"vertex", b"vertex", b"endloop", b"endfacet")


def parse_stl(content: bytes) -> Surface:
    """Return the triangles, each with its own three vertices; what follows the last one is left out.

    Raises:
        TruncatedError: it ends early.
        ValueError: it is damaged.
    """
    promised = struct.unpack_from("<I", content, 80)[0] if len(content) >= _HEADER else None
    exact = promised is not None and len(content) == _HEADER + promised * _RECORD.itemsize
    # the header of a binary file may begin with `solid` too, but no text follows it
    if not exact and _TEXT.match(content):
        corners = _text(content)
    elif promised is None:
        raise TruncatedError(f"{len(content)} bytes, where a binary one has {_HEADER} before its first triangle")
    else:
        held = (len(content) - _HEADER) // _RECORD.itemsize
        if held < promised:
            raise TruncatedError(f"{promised} triangles promised, {held} found")
        corners = np.frombuffer(content, _RECORD, promised, _HEADER)["corners"].reshape(-1, 3).astype(np.float64)
    return corners, np.arange(len(corners)).reshape(-1, 3)


def _text(content: bytes) -> np.ndarray:
    words, rows = [], []
    for line in text_lines(content):
        word, *rest = line.split(None, 1)
        words.append(word.lower())
        if words[-1] == b"vertex":
            rows.append(rest[0] if rest else b"")
    solids, ends = words.count(b"solid"), words.count(b"endsolid")
    facets = [word for word in words if word in _FACET]
    count = len(facets) // len(_FACET)
    if facets[: count * len(_FACET)] != list(_FACET) * count:
        raise ValueError("facets that are no triangles")
    if ends < solids or len(facets) % len(_FACET):
        raise TruncatedError(f"no endsolid after {count} triangles")
    corners = table(rows)
    if corners.shape[1] != 3:
        raise ValueError(f"{corners.shape[1]} numbers a vertex")
    return corners
