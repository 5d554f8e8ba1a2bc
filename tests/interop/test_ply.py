"""PLY: ASCII and binary, any polygons, any order of elements and properties."""

import struct

import numpy as np
import pytest
import trimesh

from pcdiff.interop.ply import parse_ply

VERTICES = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5], [-1, 2, 0]])
POLYGONS = [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [2, 1, 0]]
TRIANGLES = [[0, 1, 2], [2, 1, 0], [0, 1, 2], [0, 2, 3], [0, 1, 2], [0, 2, 3], [0, 3, 4]]


def ply(form, polygons, faces_first=False):
    """Return a file with properties before, between and after those wanted."""
    order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}[form]
    vertex = "element vertex 5\nproperty uchar red\nproperty double z\nproperty float x\n"
    vertex += "property short q\nproperty float y\n"
    face = f"element face {len(polygons)}\nproperty list uchar int vertex_indices\nproperty ushort flag\n"
    extra = "element edge 1\nproperty int a\nproperty int b\n"
    parts = [face, extra, vertex] if faces_first else [vertex, extra, face]
    text = f"ply\nformat {form} 1.0\ncomment end of nothing\n" + "".join(parts) + "end_header\n"
    if order:
        vertices = b"".join(struct.pack(f"{order}Bdfhf", 9, z, x, -3, y) for x, y, z in VERTICES)
        faces = b"".join(struct.pack(f"{order}B{len(p)}iH", len(p), *p, 7) for p in polygons)
        edges = struct.pack(f"{order}2i", 5, 6)
    else:
        vertices = "".join(f"9 {z} {x} -3 {y}\n" for x, y, z in VERTICES).encode()
        faces = "".join(f"{len(p)} {' '.join(map(str, p))} 7\n" for p in polygons).encode()
        edges = b"5 6\n"
    return text.encode() + b"".join([faces, edges, vertices] if faces_first else [vertices, edges, faces])


FORMS = pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])


@FORMS
@pytest.mark.parametrize("faces_first", [False, True])
def test_polygons_of_several_sizes(form, faces_first):
    vertices, faces = parse_ply(ply(form, POLYGONS, faces_first))
    np.testing.assert_array_equal(vertices, VERTICES)
    assert sorted(faces.tolist()) == sorted(TRIANGLES)


@FORMS
def test_every_truncation_is_noticed(form):
    whole = ply(form, POLYGONS)
    parse_ply(whole)
    for length in range(len(whole) - (2 if form == "ascii" else 0)):  # of "7\n" the line break may be missing
        with pytest.raises((ValueError, TypeError)):
            parse_ply(whole[:length])


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_triangles_agree_with_trimesh(encoding):
    sphere = trimesh.creation.icosphere(2)
    vertices, faces = parse_ply(sphere.export(file_type="ply", encoding=encoding))
    np.testing.assert_allclose(vertices, sphere.vertices, atol=1e-6)
    np.testing.assert_array_equal(faces, sphere.faces)


def test_equal_lengths_at_first_sight_only():
    """A quad, a triangle and a pentagon fill exactly the place of three quads."""
    polygons = [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2, 3, 4]]
    text = ply("binary_little_endian", []).replace(b"face 0", b"face 3").replace(b"property ushort flag\n", b"")
    _, faces = parse_ply(text + b"".join(struct.pack(f"<B{len(p)}i", len(p), *p) for p in polygons))
    assert len(faces) == 2 + 1 + 3
    text = ply("ascii", []).replace(b"face 0", b"face 3").replace(b"property ushort flag\n", b"")
    _, faces = parse_ply(text + b"".join(b"%d %s\n" % (len(p), " ".join(map(str, p)).encode()) for p in polygons))
    assert len(faces) == 2 + 1 + 3


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"ply\n", b"PLY\n", "no PLY header"),
        (b"format ascii 1.0\n", b"", "no format line"),
        (b"format ascii", b"format ebcdic", "header line"),
        (b"element vertex 5", b"element vertex -5", "header line"),
        (b"element vertex 5", b"element vertex 10000000000000", "numbers promised"),
        (b"property float y", b"property float w", "lack x, y or z"),
        (b"property float y", b"property float x", "have one name"),
        (b"property float y", b"property quad y", "header line"),
        (b"vertex_indices", b"corners", "the faces lack vertex_indices"),
        (b"element edge 1", b"element tristrips 1", "triangle strips"),
        (b"\n3 0 1 2 7\n", b"\n-3 0 1 2 7\n", "a list of length -3"),
        (b"\n3 0 1 2 7\n", b"\n2 0 1 7\n", "a face with 2 corners"),
        (b"\n3 0 1 2 7\n", b"\n3 0 1 1.5 7\n", "a face's corner is no index"),
        (b"\n3 0 1 2 7\n", b"\n3 0 1 nan 7\n", "a face's corner is no index"),
    ],
)
def test_damage(old, new, match):
    whole = ply("ascii", POLYGONS)
    assert old in whole
    with pytest.raises(ValueError, match=match):
        parse_ply(whole.replace(old, new))
