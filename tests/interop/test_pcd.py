"""PCL's format: ASCII, binary and compressed."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcdiff.errors import InputError
from pcdiff.interop import read_cloud_set
from pcdiff.interop.pcd import lzf_decompress

POINTS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
POINTS[20:] = POINTS[:20]  # something to compress
FIELDS = [  # not x y z in a row, padding, a field of several numbers
    ("rgb", "U", 4, 1),
    ("z", "F", 4, 1),
    ("_", "U", 1, 3),
    ("x", "F", 8, 1),
    ("histogram", "I", 2, 5),
    ("y", "F", 4, 1),
]
NUMBERS = {"F4": "f", "F8": "d", "U4": "I", "U1": "B", "I2": "h", "I4": "i"}


def lzf_compress(plain):
    """Compress greedily; the LZF format leaves the choice of references free."""
    out, literals, seen, i = bytearray(), bytearray(), {}, 0

    def flush():
        for start in range(0, len(literals), 32):
            run = literals[start : start + 32]
            out.extend([len(run) - 1, *run])
        literals.clear()

    while i < len(plain):
        before = seen.get(plain[i : i + 3], -(10**6))
        seen[plain[i : i + 3]] = i
        length = 0
        if i - before <= 8192:
            while i + length < len(plain) and length < 264 and plain[before + length] == plain[i + length]:
                length += 1
        if length < 3:
            literals.append(plain[i])
            i += 1
            continue
        flush()
        high, low = divmod(i - before - 1, 256)
        out.extend([(min(length - 2, 7) << 5) | high, *([length - 9] if length >= 9 else []), low])
        i += length
    flush()
    return bytes(out)


def pcd(form, points=POINTS, fields=FIELDS, count=None, width=None, **lines):
    """Return a file of `points`; the other fields hold 7."""
    names, kinds, sizes, counts = zip(*fields, strict=True)
    count = len(points) if count is None else count
    head = {"VERSION": "0.7", "FIELDS": " ".join(names), "SIZE": " ".join(map(str, sizes)), "TYPE": " ".join(kinds)}
    head |= {
        "COUNT": " ".join(map(str, counts)),
        "WIDTH": width or count,
        "HEIGHT": 1,
        "VIEWPOINT": "0 0 0 1 0 0 0",
    }
    head = {**head, "POINTS": count, "DATA": form, **lines}
    text = "# .PCD v0.7 - Point Cloud Data file format\n"
    text += "".join(f"{key} {value}\n" for key, value in head.items() if value is not None)
    columns = []
    for name, kind, size, repeat in fields:
        values = points[:, "xyz".index(name)] if name in "xyz" else [7] * len(points)
        columns.append([(NUMBERS[f"{kind}{size}"], [value] * repeat) for value in values])
    if form == "ascii":
        kept = [column for column, name in zip(columns, names, strict=True) if name != "_"]
        rows = [" ".join(" ".join(map(repr_, cell[1])) for cell in row) for row in zip(*kept, strict=True)]
        return (text + "\n".join(rows) + "\n").encode()
    if form == "binary":
        cells = [cell for row in zip(*columns, strict=True) for cell in row]
    else:
        cells = [cell for column, name in zip(columns, names, strict=True) if name != "_" for cell in column]
    body = b"".join(struct.pack(f"<{len(values)}{code}", *values) for code, values in cells)
    if form == "binary_compressed":
        packed = lzf_compress(body)
        body = struct.pack("<II", len(packed), len(body)) + packed
    return text.encode() + body


def repr_(value):
    return repr(float(value))


def read(path, content):
    path.write_bytes(content)
    (cloud,), (name,) = read_cloud_set(path)
    assert name == str(path)
    return cloud


FORMS = pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])


@FORMS
def test_x_y_z_anywhere_among_other_fields(tmp_path, form):
    np.testing.assert_array_equal(read(tmp_path / "a.pcd", pcd(form)), POINTS)


@FORMS
def test_plain_files_with_only_what_is_needed(tmp_path, form):
    plain = [(axis, "F", 4, 1) for axis in "xyz"]
    content = pcd(form, fields=plain, VERSION=None, COUNT=None, VIEWPOINT=None, WIDTH=None, HEIGHT=None)
    np.testing.assert_array_equal(read(tmp_path / "a.pcd", content), POINTS)
    content = pcd(form, fields=plain, WIDTH=8, HEIGHT=5, POINTS=None)
    np.testing.assert_array_equal(read(tmp_path / "a.pcd", content), POINTS)


@FORMS
def test_whole_number_coordinates(tmp_path, form):
    points = np.array([[1, -2, 3], [400, 5, -6]])
    fields = [("x", "I", 4, 1), ("y", "I", 2, 1), ("z", "I", 4, 1)]
    np.testing.assert_array_equal(read(tmp_path / "a.pcd", pcd(form, points, fields)), points)


@FORMS
def test_missing_points_of_an_organized_cloud_are_named(tmp_path, form):
    points = POINTS.copy()
    points[[3, 30]] = np.nan
    with pytest.raises(
        InputError, match=r"a\.pcd: NaN or inf in 2 of 40 points, first in point 3; repair or remove"
    ):
        read(tmp_path / "a.pcd", pcd(form, points, WIDTH=8, HEIGHT=5))


@FORMS
def test_every_truncation_is_refused(tmp_path, form):
    whole = pcd(form, POINTS[:4])
    end = len(whole) if form != "ascii" else whole.rindex(b" ") + 2  # of the last number digits may be missing
    for length in range(end - 1):
        with pytest.raises(InputError, match=r"a\.pcd: ") as raised:
            read(tmp_path / "a.pcd", whole[:length])
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"FIELDS": "rgb z _ x histogram w"}, "expected the fields x y z, one number each"),
        ({"FIELDS": "rgb z _ x y y"}, "expected the fields x y z, one number each"),
        ({"FIELDS": "x y z"}, "FIELDS, SIZE, TYPE and COUNT differ in length"),
        ({"SIZE": "4 4 1 8 2 3"}, "TYPE and SIZE 'F3'"),
        ({"TYPE": "U F U Q F F"}, "TYPE and SIZE 'Q8' of x"),
        ({"COUNT": "1 1 3 1 -5 1"}, "'-5' is no count"),
        ({"WIDTH": 39}, "WIDTH x HEIGHT is 39, POINTS 40"),
        ({"WIDTH": ""}, "'' is no count"),
        ({"POINTS": None, "WIDTH": None}, "neither POINTS nor WIDTH and HEIGHT"),
        ({"WIDTH": 10**15, "POINTS": 10**15}, "bytes promised"),
        ({"COUNT": f"1 1 3 1 {10**17} 1"}, "bytes promised"),
        ({"WIDTH": 0, "POINTS": 0}, "holds no point"),
        ({"DATA": "zipped"}, "DATA 'zipped', expected one of ascii, binary, binary_compressed"),
        ({"SOMETHING": 1}, "no DATA line|header line|bytes promised"),
    ],
)
@pytest.mark.parametrize("form", ["binary", "binary_compressed"])
def test_headers_that_lie(tmp_path, form, change, match):
    content = pcd(form, **change)
    if "SOMETHING" in change:
        content = b"SOMETHING 1\n" + content
    with pytest.raises(InputError, match=match):
        read(tmp_path / "a.pcd", content)


@pytest.mark.parametrize(
    ("packed", "size", "match"),
    [
        (bytes([0]), 1, "give 0 bytes, 1 promised"),
        (bytes([5, 1, 2]), 6, "give 2 bytes"),
        (bytes([0, 1, 32, 0]), 3, "give 4 bytes, 3 promised"),
        (bytes([32, 0]), 3, "reference before the start"),
        (bytes([0, 1, 32]), 4, "end within a reference"),
        (bytes([0, 1, 0b111_00000, 200]), 210, "end within a reference"),
    ],
)
def test_damaged_lzf(packed, size, match):
    with pytest.raises(ValueError, match=match):
        lzf_decompress(packed, size)


def test_lzf_by_hand():
    assert lzf_decompress(bytes([2, *b"abc", 0b001_00000, 2]), 6) == b"abcabc"
    assert lzf_decompress(bytes([1, *b"ab", 0b111_00000, 255, 1]), 2 + 264) == b"ab" * 133
    assert lzf_decompress(b"", 0) == b""


@given(st.lists(st.sampled_from([b"a", b"bc", bytes(300), b"0123456789" * 9]), max_size=60).map(b"".join))
def test_lzf_round_trip(plain):
    packed = lzf_compress(plain)
    assert lzf_decompress(packed, len(plain)) == plain
    assert len(packed) <= len(plain) + len(plain) // 32 + 1
