"""Points as other programs write them: types in lower case, odd fields, charsets, line ends, byte order marks."""

import struct

import numpy as np
import pytest

from pcdiff.interop import read_cloud_set

POINTS = np.array([[0, 1, 2], [3, 4.5, -6], [7, -8, 9]])


def read(path, content):
    path.write_bytes(content)
    return read_cloud_set(path).clouds[0]


def pcd(form, types, sizes, end="\n", comment="# .PCD", counts="1 1 1 2 1"):
    """Return POINTS between a field that no type of numpy fits and one of text."""
    lines = [comment, "VERSION .7", "FIELDS odd x y rgb z", f"SIZE {sizes}", f"TYPE {types}"]
    lines += [f"COUNT {counts}", "WIDTH 3", "HEIGHT 1", "POINTS 3", f"DATA {form}"]
    head = "".join(line + end for line in lines).encode("latin-1")
    if form == "ascii":
        return head + "".join(f"a {x} {y} c 0xff {z}{end}" for x, y, z in POINTS).encode()
    records = b"".join(struct.pack("<3sffHHf", b"\n\r#", x, y, 1, 2, z) for x, y, z in POINTS)
    if form == "binary":
        return head + records
    fields = b"".join(r[:3] for r in (records[i : i + 19] for i in range(0, 57, 19)))
    for start, stop in ((3, 7), (7, 11), (11, 15), (15, 19)):
        fields += b"".join(records[i + start : i + stop] for i in range(0, 57, 19))
    literal = b"".join(bytes([len(p) - 1]) + p for p in (fields[i : i + 32] for i in range(0, len(fields), 32)))
    return head + struct.pack("<II", len(literal), len(fields)) + literal


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
@pytest.mark.parametrize("types", ["C F F U F", "c f f u f"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_pcd(tmp_path, form, types, end):
    content = pcd(form, types, "3 4 4 2 4", end, comment="# gr\xfc\xdfe \x85 DATA", counts="1 1 1 2 1")
    np.testing.assert_array_equal(read(tmp_path / "a.pcd", content), POINTS)
    np.testing.assert_array_equal(read(tmp_path / "a.pcd", b"\xef\xbb\xbf" + content), POINTS)


@pytest.mark.parametrize(
    "content",
    [
        b"0 1 2\r3 4.5 -6\r7 -8 9",
        "# gr\u00fc\u00dfe \u0085 5 5 5\n0 1 2\n3 4.5 -6\n7 -8 9\n".encode("latin-1"),
        "# 中文\n0\t1\t2\n3\t4.5\t-6 # 中\n7 -8 9\n".encode("gbk"),
        "0 1 2\r\n3 4.5 -6\r\n7 -8 9\r\n".encode("utf-16"),
    ],
)
def test_xyz(tmp_path, content):
    np.testing.assert_array_equal(read(tmp_path / "a.xyz", content), POINTS)
