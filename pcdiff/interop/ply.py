"""Vertices and faces of PLY files (Greg Turk, The PLY Polygon File Format, 1994): ASCII and binary, any polygons.

trimesh reads PLY too, but not polygons of several sizes in a binary file, which modelling programs write.
"""

from dataclasses import dataclass, field

import numpy as np

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


def parse_ply(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices `(V, 3)` float64 and triangles `(F, 3)` int64, polygons cut into fans.

    Raises:
        ValueError: it is no PLY, lacks x, y or z, or holds fewer or other elements than its header says.
    """
    order, elements, start = _header(content)
    body = _Text(content[start:]) if order is None else _Binary(memoryview(content)[start:], order)
    vertices, faces = np.empty((0, 3)), np.empty((0, 3), dtype=np.int64)
    for element in elements:
        if element.name == "tristrips" and element.count:
            raise ValueError("triangle strips are not read; store faces")
        rows = body.table(element) if not element.lengths else body.lists(element)
        if element.name == "vertex":
            if element.lengths or not {"x", "y", "z"} <= rows.keys():
                raise ValueError("the vertices lack x, y or z")
            vertices = np.stack([rows[axis].astype(np.float64) for axis in "xyz"], axis=1)
        elif element.name == "face" and element.count:
            corners = [rows[name] for name in _CORNERS if name in element.lengths]
            if not corners:
                raise ValueError(f"the faces lack {_CORNERS[0]}")
            faces = _fans(corners[0])
    return vertices, faces


def _header(content: bytes) -> tuple[str | None, list[_Element], int]:
    end = content.find(b"end_header")
    start = content.find(b"\n", end) + 1
    if not content.startswith(b"ply") or end < 0 or not start:
        raise ValueError("no PLY header")
    order, elements = "", []
    for line in content[:end].decode("latin-1").splitlines()[1:]:
        match line.split():
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
                raise ValueError(f"header line {line[:60]!a}")
    if order == "":
        raise ValueError("no format line")
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

    def lists(self, element: _Element) -> dict[str, np.ndarray | list[np.ndarray]]:
        # Nearly always there is one list, as long in every row: then the rows are a table.
        if len(element.numbers) == 1 and element.count:
            start, length = self.next, self.take(1)[0]
            self.next, width = start, 1 + _whole(length)
            if element.count * width <= len(self.words) - start:
                rows = self.take(element.count * width).reshape(element.count, width)
                if (rows[:, 0] == length).all():
                    return {element.numbers[0][0]: rows[:, 1:]}
                self.next = start

        def entries(name: str, _: str) -> np.ndarray:
            return self.take(_whole(self.take(1)[0]) if name in element.lengths else 1)

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

    def lists(self, element: _Element) -> dict[str, np.ndarray | list[np.ndarray]]:
        if len(element.numbers) == 1 and element.count:  # as in text
            ((name, number),) = element.numbers
            length_type, start = self.order + element.lengths[name], self.next
            length = int(self.take(length_type, 1)[0])
            self.next = start
            row = np.dtype([("length", length_type), ("entries", self.order + number, (max(length, 0),))])
            if element.count * row.itemsize <= len(self.body) - start:
                rows = self.take(row, element.count)
                if (rows["length"] == length).all():
                    return {name: rows["entries"]}
                self.next = start

        def entries(name: str, number: str) -> np.ndarray:
            count = 1 if name not in element.lengths else int(self.take(self.order + element.lengths[name], 1)[0])
            return self.take(self.order + number, _whole(count))

        return _rows(element, entries)


def _rows(element: _Element, entries) -> dict[str, list[np.ndarray]]:
    columns: dict[str, list[np.ndarray]] = {name: [] for name, _ in element.numbers}
    for _ in range(element.count):
        for name, number in element.numbers:
            columns[name].append(entries(name, number))
    return columns


def _whole(value: float) -> int:
    if value != int(value) or value < 0:
        raise ValueError(f"a list of length {value:g}")
    return int(value)


def _fans(polygons: np.ndarray | list[np.ndarray]) -> np.ndarray:
    """Cut polygons `(F, k)`, or F of any sizes, into triangles about their first corners."""
    if isinstance(polygons, list):
        by_size: dict[int, list[np.ndarray]] = {}
        for polygon in polygons:
            by_size.setdefault(len(polygon), []).append(polygon)
        return np.concatenate([_fans(np.stack(group)) for group in by_size.values()])
    count, corners = polygons.shape
    if corners < 3:
        raise ValueError(f"a face with {corners} corners")
    fan = [polygons[:, [0, i, i + 1]] for i in range(1, corners - 1)]
    whole = np.stack(fan, axis=1).reshape(count * (corners - 2), 3)
    if not (np.isfinite(whole).all() and (whole == np.floor(whole)).all()):
        raise ValueError("a face's corner is no index")
    return whole.astype(np.int64)
