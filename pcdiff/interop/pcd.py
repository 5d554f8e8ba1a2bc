"""Point clouds in PCL's `.pcd` format, version 0.7 and before: ASCII, binary and compressed.

The format: https://pointclouds.org/documentation/tutorials/pcd_file_format.html
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcdiff.errors import InputError
from pcdiff.interop.checks import unreadable
from pcdiff.interop.text import header_lines, table, text_lines, without_bom

_KEYWORDS = "VERSION FIELDS COLUMNS SIZE TYPE COUNT WIDTH HEIGHT VIEWPOINT POINTS DATA".split()
_NUMBERS = {f"{kind}{size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}
_NUMBERS |= {f"F{size}": f"<f{size}" for size in (2, 4, 8)}
_PADDING = "_"


@dataclass(frozen=True)
class _Field:
    name: str
    kind: str  # TYPE and SIZE
    size: int  # bytes, of all its numbers
    count: int

    @property
    def number(self) -> str:
        """Numpy's name of the type."""
        if self.kind not in _NUMBERS:
            raise ValueError(f"TYPE and SIZE {self.kind[:40]!a} of {self.name}")
        return _NUMBERS[self.kind]


def read_pcd(path: Path) -> np.ndarray:
    """Read the fields x, y, z of every point, in the file's order, as floats `(P, 3)`.

    Points that are NaN (an organized cloud marks missing ones so) are returned as they are.

    Raises:
        InputError: the file is damaged, no PCD, lacks x, y or z, or promises more than it holds.
    """
    with unreadable(str(path), "a .pcd file"):
        content = without_bom(path.read_bytes())
        header, start = _header(content)
        fields, count = _fields(header), _count(header)
        lacking = [axis for axis in "xyz" if [f.count for f in fields if f.name == axis] != [1]]
        if lacking:
            held = " ".join(field.name for field in fields)
            raise InputError(f"{path}: expected the fields x y z, one number each; it has {held!a}")
        if not count:
            return np.empty((0, 3))
        form = " ".join(header["DATA"])
        if form not in _BODIES:
            raise ValueError(f"DATA {form[:40]!a}, expected one of {', '.join(_BODIES)}")
        return np.stack(_BODIES[form](content[start:], fields, count), axis=1)


def _header(content: bytes) -> tuple[dict[str, list[str]], int]:
    """Return the words after each keyword, and where the data start."""
    header: dict[str, list[str]] = {}
    lines, start = header_lines(content, b"DATA")
    for line in lines:
        # blanks by the bytes' rule: a comment in another charset may hold what is one in Latin-1
        keyword, *words = [word.decode("latin-1") for word in line.split()] or ["#"]
        if keyword in _KEYWORDS:
            header[keyword] = words
        elif not keyword.startswith("#"):
            raise ValueError(f"header line {keyword[:40]!a}")
    return header, start


def _fields(header: dict[str, list[str]]) -> list[_Field]:
    names = header.get("FIELDS") or header.get("COLUMNS") or []
    sizes, kinds = header.get("SIZE", ["4"] * len(names)), header.get("TYPE", ["F"] * len(names))
    # Older converters wrote a count of 0 for 1.
    counts = [_whole([word]) or 1 for word in header.get("COUNT", ["1"] * len(names))]
    if not len(names) == len(sizes) == len(kinds) == len(counts):
        raise ValueError("FIELDS, SIZE, TYPE and COUNT differ in length")
    rows = zip(names, kinds, sizes, counts, strict=True)
    return [_Field(name, kind.upper() + size, _whole([size]) * count, count) for name, kind, size, count in rows]


def _whole(words: list[str]) -> int:
    word = " ".join(words)
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        raise ValueError(f"{word[:40]!a} is no count")
    return int(word)


def _count(header: dict[str, list[str]]) -> int:
    size = [_whole(header[keyword]) for keyword in ("WIDTH", "HEIGHT") if keyword in header]
    points = _whole(header["POINTS"]) if "POINTS" in header else None
    if points is None and len(size) < 2:
        raise ValueError("neither POINTS nor WIDTH and HEIGHT")
    if points is not None and size and math.prod(size) != points:
        raise ValueError(f"WIDTH x HEIGHT is {math.prod(size)}, POINTS {points}")
    return math.prod(size) if points is None else points


def _ascii(data: bytes, fields: list[_Field], count: int) -> list[np.ndarray]:
    fields = [field for field in fields if field.name != _PADDING]  # PCL writes no padding as text
    rows, columns = text_lines(data), sum(field.count for field in fields)
    found = {len(row.split()) for row in rows}  # of other fields anything is allowed there
    if len(rows) != count or found != {columns}:
        widths = " or ".join(map(str, sorted(found)[:3]))
        raise ValueError(f"{count} rows of {columns} numbers promised, {len(rows)} of {widths} found")
    place = {field.name: sum(other.count for other in fields[:i]) for i, field in enumerate(fields)}
    return list(table(rows, [place[axis] for axis in "xyz"]).T)


def _binary(data: bytes, fields: list[_Field], count: int) -> list[np.ndarray]:
    """Take the axes from records, one a point."""
    record = sum(field.size for field in fields)
    _check_size(count * record, len(data))
    place = {field.name: sum(other.size for other in fields[:i]) for i, field in enumerate(fields)}
    number = {field.name: field.number for field in fields if field.name in {*"xyz"}}
    layout = np.dtype(
        {
            "names": [*"xyz"],
            "formats": [number[a] for a in "xyz"],
            "offsets": [place[a] for a in "xyz"],
            "itemsize": record,
        }
    )
    points: np.ndarray = np.frombuffer(data, layout, count)
    return [points[axis].astype(np.float64) for axis in "xyz"]


def _compressed(data: bytes, fields: list[_Field], count: int) -> list[np.ndarray]:
    """Take the axes from LZF-compressed fields, one after the other."""
    fields = [field for field in fields if field.name != _PADDING]  # PCL drops the padding here
    packed, whole = struct.unpack_from("<II", data)
    _check_size(packed, len(data) - 8)
    _check_size(count * sum(field.size for field in fields), whole)
    plain, axes, start = lzf_decompress(data[8 : 8 + packed], whole), {}, 0
    for field in fields:
        if field.name in ("x", "y", "z"):
            axes[field.name] = np.frombuffer(plain, field.number, count, start).astype(np.float64)
        start += count * field.size
    return [axes[axis] for axis in "xyz"]


def _check_size(promised: int, found: int) -> None:
    if promised > found:
        raise ValueError(f"{promised} bytes promised, {found} found")


_BODIES = {"ascii": _ascii, "binary": _binary, "binary_compressed": _compressed}


def lzf_decompress(packed: bytes, size: int) -> bytes:
    """Undo the compression of Marc Lehmann's LibLZF.

    A control byte below 32 announces that many literal bytes and one; any other starts a reference to bytes already
    written: three bits of length (7: one more byte follows) and thirteen of distance.

    Raises:
        ValueError: the result is not `size` bytes long, or a reference points before its start.

    Example:
        >>> lzf_decompress(bytes([0, 97, 0b111_00000, 1, 0]), 11)
        b'aaaaaaaaaaa'
    """
    out, i = bytearray(), 0
    while i < len(packed) and len(out) <= size:
        control, i = packed[i], i + 1
        if control < 32:
            out += packed[i : i + control + 1]
            i += control + 1
            continue
        length = control >> 5
        extra = int(length == 7)
        if i + extra >= len(packed):
            raise ValueError("LZF data end within a reference")
        length += 2 + (packed[i] if extra else 0)
        distance = ((control & 31) << 8) + packed[i + extra] + 1
        i += 1 + extra
        if distance > len(out):
            raise ValueError("LZF reference before the start")
        source = len(out) - distance
        chunk = out[source : source + length]
        out += (chunk * (length // len(chunk) + 1))[:length]  # a reference may reach into what it writes
    if len(out) != size or i > len(packed):
        raise ValueError(f"LZF data give {len(out)} bytes, {size} promised")
    return bytes(out)
