"""Vertices and faces of PLY files (Greg Turk, The PLY Polygon File Format, 1994), text and binary, any polygons."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pcdiff.interop.polygons import Surface, fans
from pcdiff.interop.text import header_lines, without_bom

_NUMBERS = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}
_CORNERS = ("vertex_indices", "vertex_index")


@dataclass
class _Element:
    name: str
    count: int
    numbers: list[tuple[str, str]] = field(default_factory=list)  # name, type: also of a list's entries
    lengths: dict[str, str] = field(default_factory=dict)  # name, type of the length: only of lists


_Rows = list[np.ndarray]  # one array an element's row, of any lengths


def parse_ply(content: bytes) -> Surface:
    """Return vertices and triangles, polygons cut into fans; properties of other names are left out, lists too.

    Raises:
        ValueError: it is no PLY, lacks x, y or z, or holds fewer or other elements than its header gives.
    """
    content = without_bom(content)
    order, elements, start = _header(content)
    body = _Text(content[start:]) if order is None else _Binary(memoryview(content)[start:], order)
    vertices, faces = np.empty((0, 3)), np.empty((0, 3), dtype=np.int64)
    for element in elements:
        if element.name == "tristrips" and element.count:
            raise ValueError("triangle strips are not read; store faces")
        rows = body.table(element) if not element.lengths else body.lists(element)
        if element.name == "vertex":
            if not {"x", "y", "z"} <= rows.keys() - element.lengths.keys():
                raise ValueError("the vertices lack x, y or z")
            vertices = np.stack([_column(rows[axis]) for axis in "xyz"], axis=1)
        elif element.name == "face" and element.count:
            corners = [rows[name] for name in _CORNERS if name in element.lengths]
            if not corners:
                raise ValueError(f"the faces lack {_CORNERS[0]}")
            faces = fans(_by_size(corners[0]))
    return vertices, faces


def _column(rows: np.ndarray | _Rows) -> np.ndarray:
    """Return one number a row as float64."""
    whole = rows if isinstance(rows, np.ndarray) else np.concatenate([np.empty(0), *rows])
    return whole.reshape(-1).astype(np.float64)


def _by_size(polygons: np.ndarray | _Rows) -> list[np.ndarray]:
    if isinstance(polygons, np.ndarray):
        return [polygons]
    by_size: dict[int, _Rows] = {}
    for polygon in polygons:
        by_size.setdefault(len(polygon), []).append(polygon)
    return [np.stack(group) for group in by_size.values()]


def _header(content: bytes) -> tuple[str | None, list[_Element], int]:
    if not content.startswith(b"ply"):
        raise ValueError("no PLY header")
    lines, start = header_lines(content, b"end_header")
    order, elements = "", []
    for line in lines[1:-1]:
        # blanks by the bytes' rule: a comment in another charset may hold what is one in Latin-1
        match [word.decode("latin-1") for word in line.split()]:
            case ["format", form, *_] if form in _ORDERS:
                order = _ORDERS[form]
            case ["element", name, count] if count.isascii() and count.isdigit() and len(count) < 19:
                elements.append(_Element(name, int(count)))
            case ["property", "list", length, number, name] if elements and {length, number} <= _NUMBERS.keys():
                elements[-1].lengths[name] = _NUMBERS[length]
                elements[-1].numbers.append((name, _NUMBERS[number]))
            case ["property", number, name] if elements and number in _NUMBERS:
                elements[-1].numbers.append((name, _NUMBERS[number]))
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise ValueError(f"header line {line[:60].decode('latin-1')!a}")
    if order == "":
        raise ValueError("no format line")
    if len({element.name for element in elements}) < len(elements):
        raise ValueError("two elements have one name")
    for element in elements:
        if len({name for name, _ in element.numbers}) < len(element.numbers):
            raise ValueError(f"two properties of {element.name[:40]!a} have one name")
    return order, elements, start


class _Text:
    """The body of an ASCII file: numbers between blanks."""

    def __init__(self, body: bytes) -> None:
        self.words, self.next = body.split(), 0

    def take(self, count: int) -> np.ndarray:
        words = self.words[self.next : self.next + count]
        if len(words) < count:
            raise ValueError(f"{count} numbers promised, {len(words)} found")
        self.next += count
        return np.array(words, dtype="S").astype(np.float64) if words else np.empty(0)

    def table(self, element: _Element) -> dict[str, np.ndarray]:
        names = [name for name, _ in element.numbers]
        table = self.take(element.count * len(names)).reshape(element.count, len(names))
        return dict(zip(names, table.T, strict=True))

    def lists(self, element: _Element) -> Mapping[str, np.ndarray | _Rows]:
        def entries(name: str, _: str) -> np.ndarray:
            return self.take(_whole(self.take(1)[0]) if name in element.lengths else 1)

        # Nearly always a list is as long in every row: then the rows are a table.
        start, sizes = self.next, _first_sizes(element, entries)
        self.next, width = start, sum(sizes.values()) + len(element.lengths)
        if element.count * width <= len(self.words) - start:
            table = self.take(element.count * width).reshape(element.count, width)
            columns, place, equal = {}, 0, True
            for name, size in sizes.items():
                if name in element.lengths:
                    equal = equal and bool((table[:, place] == size).all())
                    place += 1
                columns[name] = table[:, place : place + size]
                place += size
            if equal:
                return columns
            self.next = start
        return _rows(element, entries)


class _Binary:
    """The body of a binary file."""

    def __init__(self, body: memoryview, order: str) -> None:
        self.body, self.order, self.next = body, order, 0

    def take(self, dtype: np.dtype | str, count: int) -> np.ndarray:
        dtype = np.dtype(dtype)
        if count * dtype.itemsize > len(self.body) - self.next:
            raise ValueError(f"{count * dtype.itemsize} bytes promised, {len(self.body) - self.next} found")
        values = np.frombuffer(self.body, dtype, count, self.next) if count else np.empty(0, dtype)
        self.next += count * dtype.itemsize
        return values

    def table(self, element: _Element) -> dict[str, np.ndarray]:
        rows = self.take(np.dtype([(name, self.order + number) for name, number in element.numbers]), element.count)
        return {name: rows[name] for name, _ in element.numbers}

    def lists(self, element: _Element) -> Mapping[str, np.ndarray | _Rows]:
        def entries(name: str, number: str) -> np.ndarray:
            count = 1 if name not in element.lengths else int(self.take(self.order + element.lengths[name], 1)[0])
            return self.take(self.order + number, _whole(count))

        start, sizes = self.next, _first_sizes(element, entries)  # as in text
        self.next, fields = start, []
        for name, number in element.numbers:
            if name in element.lengths:
                fields.append((f"length of {name}", self.order + element.lengths[name]))
            fields.append((f"entries of {name}", self.order + number, (sizes[name],)))
        row = np.dtype(fields)
        if element.count * row.itemsize <= len(self.body) - start:
            table = self.take(row, element.count)
            if all((table[f"length of {name}"] == sizes[name]).all() for name in element.lengths):
                return {name: table[f"entries of {name}"] for name in sizes}
            self.next = start
        return _rows(element, entries)


def _first_sizes(element: _Element, entries: Callable[[str, str], np.ndarray]) -> dict[str, int]:
    """Return how many entries each property has in the first row."""
    return {name: len(entries(name, number)) if element.count else 0 for name, number in element.numbers}


def _rows(element: _Element, entries: Callable[[str, str], np.ndarray]) -> dict[str, _Rows]:
    columns: dict[str, _Rows] = {name: [] for name, _ in element.numbers}
    for _ in range(element.count):
        for name, number in element.numbers:
            columns[name].append(entries(name, number))
    return columns


def _whole(value: float) -> int:
    if value != int(value) or value < 0:
        raise ValueError(f"a list of length {value:g}")
    return int(value)
