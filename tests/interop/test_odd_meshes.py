"""Mesh files as other programs write them: comments, charsets, line ends, relative indices, strips, truncation."""

import json
import struct

import numpy as np
import pytest

from pcdiff.errors import InputError
from pcdiff.interop import read_cloud_set
from pcdiff.interop.glb import parse_glb
from pcdiff.interop.obj import parse_obj
from pcdiff.interop.off import parse_off
from pcdiff.interop.ply import parse_ply
from pcdiff.interop.stl import parse_stl
from pcdiff.interop.text import text_lines

SQUARE = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
TWO = [[0, 1, 2], [0, 2, 3]]  # the square about its first corner


def area(surface):
    vertices, faces = surface
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


def is_square(surface):
    np.testing.assert_array_equal(surface[0], SQUARE)
    np.testing.assert_array_equal(surface[1], TWO)


def refused(path, content, match):
    path.write_bytes(content)
    with pytest.raises(InputError, match=match) as raised:
        read_cloud_set(path)
    assert "\n" not in str(raised.value)
    assert "module" not in str(raised.value).lower()


BODY = b"0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n"


@pytest.mark.parametrize(
    "content",
    [
        b"OFF\n4 1 4\n" + BODY,
        b"# 9 9 9\nOFF # 7\n# 1 2 3\n4 1 4 # counts\n# 8 8 8\n" + BODY.replace(b"\n", b" # 5 5 5\n#\n# 6 6 6\n"),
        b"\xef\xbb\xbfOFF 4 1 4\n\n" + BODY,
        ("\ufeff" + "OFF\n4 1 0\n" + BODY.decode()).encode("utf-16-le"),
        b"OFF\r4 1 4\r" + BODY.replace(b"\n", b"\r"),
        b"OFF\r\n4 1\r\n" + BODY.replace(b"\n", b"\r\n"),  # no number of edges
        b"OFF\n4 1\n4\n" + BODY,  # on a line of its own
        b"OFF4 1 4\n" + BODY.replace(b" ", b"\t"),
        b"# \xb1\xed\xc3\xfb \\\nOFF\n4 1 4\n" + BODY,  # a comment in GBK
        b"OFF 4 1 4 0 0 0 1 0 0 1 1 0 0 1 0 4 0 1 2 3",  # all on one line
        b"OFF 4 1 4 0 0 0\n1 0 0 1 1 0\n0 1 0\n4 0 1\n2 3",  # line ends mean nothing
        b"NOFF 4 1 4 0 0 0 0 0 1 1 0 0 0 0 1 1 1 0 0 0 1 0 1 0 0 0 1 4 0 1 2 3",
        b"COFF\n4 1 4\n" + BODY.replace(b" 0\n", b" 0 255 0 0 255\n") + b"\n",
        b"STCNOFF\n4 1 4\n" + BODY.replace(b" 0\n", b" 0 0 0 1 .5 .5 .5 1 0.1 0.2\n"),
        b"OFF\n4 1 4\n" + BODY.replace(b"2 3\n", b"2 3 0.5 0.5 0.5\n"),  # a face with a color
    ],
)
def test_off(content):
    is_square(parse_off(content))


def test_off_polygons_of_several_sizes_are_cut_about_their_first_corners():
    vertices = [[np.cos(a), np.sin(a), z] for z in (0, 2) for a in 2 * np.pi * np.arange(5) / 5]
    faces = [[0, 1, 2, 3, 4], [9, 8, 7, 6, 5], *([i, (i + 1) % 5, 5 + (i + 1) % 5, 5 + i] for i in range(5))]
    rows = [" ".join(map(repr, map(float, v))) for v in vertices] + [
        f"{len(f)} {' '.join(map(str, f))}" for f in faces
    ]
    prism = parse_off("\n".join(["OFF", "10 7 15", *rows]).encode())
    assert len(prism[1]) == 2 * 3 + 5 * 2
    # a regular pentagon of radius 1 has the area 5/2 sin 72 degrees and sides of 2 sin 36 degrees
    assert area(prism) == pytest.approx(5 * np.sin(2 * np.pi / 5) + 5 * 2 * 2 * np.sin(np.pi / 5), rel=1e-12)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"OFF\n4 1 4\n" + BODY + b"3 0 1 2\n", "1 faces promised, 2 found"),
        (b"OFF\n5 1 4\n" + BODY, "1 faces promised, 0 found"),
        (b"OFF\n4 1 4\n" + BODY.replace(b"2 3\n", b"2\n"), "a face of 4 corners that lists fewer"),
        (b"OFF\n4 1 4\n" + BODY.replace(b"4 0 1 2 3", b"2 0 1"), "a face with 2 corners"),
        (b"OFF\n4 1 4\n" + BODY.replace(b"4 0", b"-4 0"), "a face of '-4' corners"),
        (b"OFF BINARY\n" + bytes(40), "binary OFF is not read"),
        (b"4OFF\n4 1 4\n" + BODY, "expected OFF"),
        (b"OFF 4 1 4 0 0 0 1 0 0 1 1 0 0 1 0 4 0 1 2", "promised"),
        (b"OFF 4 1 4 0 0 0 1 0 0 1 1 0 0 1 0 4 0 1 2 3 9", "1 numbers after the last face"),
    ],
)
def test_off_that_does_not_hold_what_it_says(tmp_path, content, match):
    refused(tmp_path / "a.off", content, match)


V = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


@pytest.mark.parametrize(
    "content",
    [
        V + b"f 1 2 3 4\n",
        V + b"f 1 2 3\nf 1 3 4\n",
        V + b"f -4 -3 -2 -1\n",
        b"f 1 2 3 4\n" + V,  # a face may look ahead
        V.replace(b"v ", b"v\t") + b"f\t1\t2  3 \t4\n",
        b"\xef\xbb\xbf" + V + b"f 1 2 3 4\n",
        (V + b"f 1 2 3 4").decode().encode("utf-16"),
        (V + b"f 1 2 3 4").replace(b"\n", b"\r"),
        V.replace(b"v 0 0 0", b"v 0 0 0 1 0 0") + b"f 1 2 3 4",  # one colored vertex
        V.replace(b"v 1 1 0", b"v 1 1 0 1.0") + b"f 1 2 3 4",  # one with w
        V + b"vt 0 0\nvn 0 0 1\nf 1/1/1 2//1 3/1 4\n",
        V + b"f 1/1 2/1 \\\n3/1 4/1\n",  # continues
        "# ü\nmtllib größe.mtl\no Körper\n".encode("latin-1") + V + b"usemtl a#b\nf 1 2 3 4 # 5 6",
        "o 表\n".encode("shift-jis") + V + b"f 1 2 3 4",  # its second byte is a backslash
        "g 中文 1 2 3\n".encode("gbk") + V + b"s off\nl 1 2\np 1\nf 1 2 3 4",
    ],
)
def test_obj(content):
    is_square(parse_obj(content))


def test_obj_counts_back_from_the_faces_own_line():
    upper = V.replace(b" 0\n", b" 5\n")
    surface = parse_obj(b"g a\n" + V + b"f -4 -3 -2 -1\ng b\n" + upper + b"f -4 -3 -2 -1\n")
    for z, faces in zip((0, 5), np.split(surface[1], 2), strict=True):
        assert (surface[0][faces][..., 2] == z).all()
        assert area((surface[0], faces)) == 1


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (V + b"f 0 1 2\n", r"a\.obj: .*the index 0, which does not exist in OBJ: indices start at 1"),
        (V + b"f 1 2 3\nf 3 0 1\n", "the index 0"),
        (b"v 0 0 0\nf -1 -2 -3\n" + V, "reaches before the first vertex"),
        (V + b"f 1 2 5\n", "none of the 4 vertices"),
        (V + b"f 1 2 x\n", "could not convert string 'x'"),
        (V + b"v 1 2 3 4 5\n", "5 numbers a vertex"),
        (V + b"f 1 2 2.5\n", "no index"),
    ],
)
def test_obj_indices_that_do_not_exist(tmp_path, content, match):
    refused(tmp_path / "a.obj", content, match)


CORNERS = np.array(SQUARE, dtype="<f4")[TWO]  # (2, 3, 3)


def stl(name=b"a", count=2):
    records = b"".join(bytes(12) + corners.tobytes() + b"\1\2" for corners in CORNERS)
    return name.ljust(80, b"\0") + struct.pack("<I", count) + records


STL_TEXT = b"solid s\n" + b"".join(
    b"facet normal 0 0 1\n outer loop\n%b endloop\nendfacet\n"
    % b"".join(b"  vertex %d %d %d\n" % tuple(c) for c in corners)
    for corners in CORNERS.astype(int)
)


@pytest.mark.parametrize(
    "content",
    [
        stl(),
        stl() + b"made by a program",  # bytes after the last triangle
        stl(b"solid but binary"),
        stl(b"solid facet by facet"),
        stl(b"solid but binary") + b"\r\n",
        STL_TEXT + b"endsolid s\n",
        (STL_TEXT + b"endsolid").replace(b"\n", b"\r").replace(b"facet", b"FACET"),
        b"\xef\xbb\xbf" + (STL_TEXT + b"endsolid s\n").replace(b"solid s", b"solid \xb1\xed vertex 1 2 3"),
    ],
)
def test_stl(content):
    vertices, faces = parse_stl(content)
    np.testing.assert_array_equal(vertices[faces], CORNERS)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (stl(count=3), "truncated .stl file .3 triangles promised, 2 found"),
        (stl()[:-1], "truncated .*2 triangles promised, 1 found"),
        (stl()[:83], "truncated .*83 bytes"),
        (STL_TEXT, "truncated .*no endsolid after 2 triangles"),
        (STL_TEXT[:-20], "truncated .*no endsolid"),
        (STL_TEXT.replace(b"  vertex 1 1 0\n", b"") + b"endsolid", "facets that are no triangles"),
    ],
)
def test_stl_that_ends_early(tmp_path, content, match):
    refused(tmp_path / "a.stl", content, match)


def glb(positions, indices=None, mode=4, normalized=False, stride=0, change=lambda tree: None, nodes=None):
    """Return a file of one mesh; positions of any type glTF has, indices of one primitive or of none."""
    code = {"f4": 5126, "i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125}
    rows = [row.tobytes().ljust(stride, b"\xff") for row in positions]
    data = b"".join(rows).ljust(len(b"".join(rows)) + 3 & ~3, b"\0")
    view = {"buffer": 0, "byteLength": len(data)} | ({"byteStride": stride} if stride else {})
    place = {
        "bufferView": 0,
        "componentType": code[positions.dtype.str[1:]],
        "count": len(positions),
        "type": "VEC3",
    }
    tree = {
        "asset": {"version": "2.0"},
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": mode}]}],
        "nodes": nodes or [{"mesh": 0}],
        "bufferViews": [view],
        "accessors": [place | ({"normalized": True} if normalized else {})],
    }
    if indices is not None:
        array = np.array(indices, dtype="<u2")
        tree["bufferViews"].append({"buffer": 0, "byteOffset": len(data), "byteLength": array.nbytes})
        tree["accessors"].append({"bufferView": 1, "componentType": 5123, "count": array.size, "type": "SCALAR"})
        tree["meshes"][0]["primitives"][0]["indices"] = 1
        data += array.tobytes()
    data = data.ljust(len(data) + 3 & ~3, b"\0")
    tree["buffers"] = [{"byteLength": len(data)}]
    change(tree)
    text = json.dumps(tree).encode()
    text = text.ljust(len(text) + 3 & ~3)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


FLOATS = np.array(SQUARE, dtype="<f4")


@pytest.mark.parametrize(("dtype", "one"), [("<i1", 127), ("<u1", 255), ("<i2", 32767), ("<u2", 65535)])
def test_normalized_integers_stand_for_0_to_1(dtype, one):
    stride = {"1": 4, "2": 8}[dtype[-1]]  # rows are aligned to four bytes
    for normalized, unit in ((True, 1.0), (False, float(one))):
        vertices, faces = parse_glb(glb((FLOATS * one).astype(dtype), [0, 1, 2, 0, 2, 3], 4, normalized, stride))
        np.testing.assert_array_equal(vertices, np.array(SQUARE) * unit)
        np.testing.assert_array_equal(faces, TWO)
    if dtype[1] == "i":  # the lowest integer stands for -1 too
        low = np.full((3, 3), -one - 1, dtype=dtype)
        assert (parse_glb(glb(low, None, 4, True, stride))[0] == -1).all()


@pytest.mark.parametrize(
    ("mode", "indices"), [(4, [0, 1, 2, 0, 2, 3]), (5, [0, 1, 3, 2]), (6, [0, 1, 2, 3]), (6, None)]
)
def test_strips_and_fans_are_surfaces(mode, indices):
    surface = parse_glb(glb(FLOATS, indices, mode))
    assert len(surface[1]) == 2
    assert area(surface) == 1
    a, b, c = (surface[0][surface[1][:, i]] for i in range(3))
    assert (np.cross(b - a, c - a)[:, 2] == 1).all()  # both face up


def test_a_fan_beside_triangles_is_not_dropped():
    def both(tree):
        tree["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": 6})
        tree["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": 1})  # lines are
        tree["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": 0})  # points are

    vertices, faces = parse_glb(glb(FLOATS, [0, 1, 2, 0, 2, 3], change=both))
    assert len(faces) == 4
    assert len(vertices) == 8


def test_transforms_of_nodes():
    """A quarter turn about z, then the double, then a move; and the same once more as a matrix, one node down."""
    turned = {"rotation": [0, 0, np.sqrt(0.5), np.sqrt(0.5)], "scale": [2, 2, 2], "translation": [10, 0, 0]}
    matrix = [0, 2, 0, 0, -2, 0, 0, 0, 0, 0, 2, 0, 10, 0, 0, 1]
    nodes = [{"mesh": 0, **turned}, {"children": [2], "translation": [0, 0, 7]}, {"mesh": 0, "matrix": matrix}]
    vertices, _ = parse_glb(glb(FLOATS, mode=6, nodes=nodes))
    expected = np.array([[10, 0, 0], [10, 2, 0], [8, 2, 0], [8, 0, 0]])
    np.testing.assert_allclose(vertices, np.concatenate([expected, expected + np.array([0, 0, 7])]), atol=1e-12)


def changed(**entries):
    return lambda tree: tree["meshes"][0]["primitives"][0].update(entries)


def lost(kind, *keys):
    def change(tree):
        for key in keys:
            tree[kind][0].pop(key)

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t["accessors"][0].update(sparse={}), "stored sparsely"),
        (lost("accessors", "bufferView"), "compressed .by an extension"),
        (
            lambda t: (
                lost("accessors", "bufferView")(t),
                changed(extensions={"KHR_draco_mesh_compression": {}})(t),
            ),
            "compressed .KHR_draco_mesh_compression., which is not read; save it uncompressed",
        ),
        (
            lambda t: t["bufferViews"][0].update(extensions={"EXT_meshopt_compression": {}}),
            "EXT_meshopt_compression",
        ),
        (lambda t: t["nodes"][0].update(extensions={"EXT_mesh_gpu_instancing": {}}), "instances by an extension"),
        (lambda t: t["nodes"][0].update(children=[0]), "hangs below two others|holds no point"),
        (lambda t: t["nodes"].append({"children": [0, 0]}), "hangs below two others"),
        (lambda t: t["buffers"][0].update(uri="other.bin"), "are in another file"),
        (lambda t: t["accessors"][0].update(count=5), "reaches beyond its data"),
        (lambda t: t["accessors"][0].update(count=10**12), "reaches beyond its data"),
        (lambda t: t["accessors"][0].update(count=-1), "-1 where a count"),
        (lambda t: t["accessors"][0].update(bufferView=-1), "it has no bufferViews"),
        (changed(mode=9), "its mode 9"),
        (changed(mode=4), "4 corners make no triangles"),
    ],
)
def test_glb_that_would_be_read_wrongly_is_refused(tmp_path, change, match):
    refused(tmp_path / "a.glb", glb(FLOATS, [0, 1, 2, 3], 6, change=change), match)


def test_glb_that_ends_early_or_late(tmp_path):
    whole = glb(FLOATS, [0, 1, 2, 3], 6)
    refused(tmp_path / "a.glb", whole[:-4], "truncated .glb file")
    assert area(parse_glb(whole + b"more")) == 1
    refused(tmp_path / "a.glb", whole.replace(b"glTF\2", b"glTF\1"), "expected glTF 2")


def ply(form, end="\n", comment="comment x", faces=True, views=((1, 2), (1, 2), (1, 2), (1, 2))):
    """Return the square with a list property of its vertices before x, y, z and another one after."""
    order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}[form]
    lines = ["ply", f"format {form} 1.0", comment, "element vertex 4", "property list uchar int view"]
    lines += ["property float x", "property double y", "property float z", "property list ushort uchar w"]
    lines += ["element face 1", "property list uchar int vertex_indices"] if faces else []
    head = "".join(line + end for line in [*lines, "end_header"]).encode("latin-1")
    rows = [(len(v), *v, *p, 1, 9) for v, p in zip(views, SQUARE, strict=True)]
    if not order:
        return (
            head + "".join(" ".join(map(str, row)) + end for row in [*rows, (4, 0, 1, 2, 3)][: 4 + faces]).encode()
        )
    body = b"".join(struct.pack(f"{order}B{len(v)}ifdfHB", *row) for v, row in zip(views, rows, strict=True))
    return head + body + struct.pack(f"{order}B4i", 4, 0, 1, 2, 3) * faces


FORMS = pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])


@FORMS
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("views", [((1, 2),) * 4, ((), (7,), (1, 2, 3), (4,))])
def test_ply_with_list_properties_of_vertices(form, end, views):
    is_square(parse_ply(ply(form, end, views=views)))
    vertices, faces = parse_ply(ply(form, end, faces=False, views=views))
    np.testing.assert_array_equal(vertices, SQUARE)
    assert not len(faces)


@FORMS
def test_ply_marks_charsets_and_comments(form):
    is_square(parse_ply(b"\xef\xbb\xbf" + ply(form)))
    is_square(parse_ply(ply(form, comment="comment \x85 Größe end_header")))  # \x85 ends a line in Latin-1 only
    is_square(parse_ply(ply(form, comment="comment end_header")))


def test_binary_ply_whose_data_begin_like_a_line_end():
    """After CR alone a byte 10 is data: here the length of the first list."""
    content = ply("binary_little_endian", "\r", views=(tuple(range(10)), *((1,),) * 3))
    assert content[content.index(b"end_header\r") + 11] == 10
    is_square(parse_ply(content))


def test_lines():
    assert text_lines(b"\xef\xbb\xbfa # b\r\rc\r\n\td\x0be \n#\n") == [b"a", b"c", b"d\x0be"]
    assert text_lines("a\n# ü\nb".encode("utf-16")) == [b"a", b"b"]
    assert text_lines("a".encode("utf-32")) == [b"a"]
