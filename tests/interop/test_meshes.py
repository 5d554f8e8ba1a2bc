"""Points on surfaces, and points of mesh files without faces."""

import json
import re
import struct

import numpy as np
import pytest
import trimesh

from pcdiff.errors import InputError
from pcdiff.interop import read_cloud_set
from pcdiff.interop.meshes import SUFFIXES, sample_surface

POINTS = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 0], [5, 6, 7]], dtype=np.float32)  # one twice, one on no face
MESHES = {
    ".off": b"OFF\n4 1 0\n0 0 0\n2 0 0\n0 2 0\n9 9 9\n3 0 1 2\n",
    ".obj": b"mtllib gone.mtl\nv 0 0 0 1 0 0 # red\nv 2 0 0 1 0 0\nv 0 2 0 1 0 0\nusemtl a\nf 1/1 2/2 -1/3\n",
    ".stl": trimesh.Trimesh([[0, 0, 0], [2, 0, 0], [0, 2, 0]], [[0, 1, 2]]).export(file_type="stl"),
    ".glb": trimesh.Trimesh([[0, 0, 0], [2, 0, 0], [0, 2, 0]], [[0, 1, 2]]).export(file_type="glb"),
    ".ply": trimesh.Trimesh([[0, 0, 0], [2, 0, 0], [0, 2, 0]], [[0, 1, 2]]).export(file_type="ply"),
}


def read(path, content, **options):
    """Write `content` and return the one cloud read from it."""
    path.write_bytes(content)
    (cloud,), (name,) = read_cloud_set(path, **options)
    assert name == str(path)
    return cloud


def refused(path, content, match):
    with pytest.raises(InputError, match=re.escape(str(path)) + ".*" + match) as raised:
        read(path, content)
    assert "\n" not in str(raised.value)


def test_sampling_is_uniform_by_area_on_a_box():
    size = np.array([1.0, 2.0, 4.0])
    box = trimesh.creation.box(size)
    points = sample_surface((box.vertices, box.faces), 60_000, np.random.default_rng(0)).astype(float)
    areas = np.array([size[1] * size[2], size[0] * size[2], size[0] * size[1]])
    share = [np.isclose(np.abs(points[:, axis]), size[axis] / 2, atol=1e-6).mean() for axis in range(3)]
    np.testing.assert_allclose(share, areas / areas.sum(), atol=4 * 0.5 / np.sqrt(60_000))
    # Within a face: the two halves and the four quarters of the largest one.
    face = points[np.isclose(points[:, 0], size[0] / 2, atol=1e-6)][:, 1:] / size[1:] + 0.5
    cells = np.bincount((face[:, 0] * 4).astype(int).clip(0, 3) * 4 + (face[:, 1] * 4).astype(int).clip(0, 3))
    assert ((cells - len(face) / 16) ** 2 / (len(face) / 16)).sum() < 40  # chi-square, 15 degrees of freedom


def test_sampling_order_is_random():
    box = trimesh.creation.box((1, 1, 1))
    points = sample_surface((box.vertices, box.faces), 4000, np.random.default_rng(0))
    assert abs(np.corrcoef(points[:-1, 0], points[1:, 0])[0, 1]) < 0.08


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_with_faces_is_sampled(tmp_path, suffix):
    points = read(tmp_path / f"a{suffix}", MESHES[suffix], mesh_points=4000)
    assert points.shape == (4000, 3)
    assert (points[:, 2] == 0).all()
    assert (points >= 0).all()
    assert (points.sum(axis=1) <= 2 + 1e-6).all()
    np.testing.assert_allclose(points.mean(axis=0), [2 / 3, 2 / 3, 0], atol=5 * 0.5 / np.sqrt(4000))


def test_the_draw_depends_on_seed_and_name_alone(tmp_path):
    def draw(name, **options):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        return read(tmp_path / name, MESHES[".off"], mesh_points=8, **options)

    first = draw("a.off")
    np.testing.assert_array_equal(first, draw("other/a.off"))
    np.testing.assert_array_equal(first, read_cloud_set(tmp_path / "other", mesh_points=8).clouds[0])
    assert not np.array_equal(first, draw("b.off"))
    assert not np.array_equal(first, draw("a.off", seed=1))


def test_points_without_faces_keep_their_order_and_number(tmp_path):
    rows = [" ".join(map(str, row)) for row in POINTS]
    off = "OFF\n4 0 0\n" + "\n".join(rows)
    obj = "\n".join(f"v {row}" for row in rows)
    for name, content in (
        ("a.off", off.encode()),
        ("b.obj", obj.encode()),
        ("c.obj", obj.replace("\n", " 0.5 0.5 0.5\r\n").encode() + b" 1 1 1"),
        ("d.ply", trimesh.PointCloud(POINTS).export(file_type="ply")),
        ("e.glb", trimesh.Scene(trimesh.PointCloud(POINTS)).export(file_type="glb")),
    ):
        np.testing.assert_array_equal(read(tmp_path / name, content), POINTS, err_msg=name)


@pytest.mark.parametrize(
    "head", ["OFF8 12 0", "OFF 8 12 0", "OFF\n# a cube\n8 12 0", "COFF\n8 12 0", "OFF\r\n8 12 0"]
)
def test_heads_of_off_files(tmp_path, head):
    box = trimesh.creation.box((1, 1, 1))
    body = [" ".join(map(str, row)) for row in box.vertices] + [f"3 {a} {b} {c}" for a, b, c in box.faces]
    points = read(tmp_path / "a.off", "\n".join([head, *body]).encode())
    np.testing.assert_allclose(np.abs(points).max(axis=1), 0.5, atol=1e-6)


def test_scenes_are_put_together_with_their_transforms(tmp_path):
    scene = trimesh.Scene()
    box = trimesh.creation.box((1, 1, 1))
    scene.add_geometry(box, transform=trimesh.transformations.translation_matrix([10, 0, 0]))
    turn = trimesh.transformations.rotation_matrix(np.pi / 2, [0, 0, 1])
    scene.add_geometry(trimesh.creation.box((4, 1, 1)), transform=turn)
    points = read(tmp_path / "a.glb", scene.export(file_type="glb"), mesh_points=6000)
    far = points[:, 0] > 5
    assert far.mean() == pytest.approx(6 / 24, abs=0.03)
    np.testing.assert_allclose(np.abs(points[far] - [10, 0, 0]).max(axis=1), 0.5, atol=1e-5)
    np.testing.assert_allclose(np.abs(points[~far]).max(axis=0), [0.5, 2, 0.5], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n", "1 faces promised, 0 found"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n", "3 vertices promised, 2 found"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n", "a corner that is none of the 3 vertices"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 -1\n", "a corner that is none of the 3 vertices"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", "1 triangles have no finite area"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\nnan 0 0\n2 0 0\n3 0 1 2\n", "1 triangles have no finite area"),
        ("a.off", b"OFF\n2 0 0\n0 0 0\nnan 0 0\n", "NaN or inf in 1 of 2 points, first in point 1"),
        ("a.off", b"OFF\n0 0 0\n", "holds no point"),
        ("a.off", b"4OFF\n1 0 0\n0 0 0 1\n", "expected OFF and the numbers"),
        ("a.obj", b"v 1 2\nv 3 4\nv 5 6\n", "2 numbers a vertex"),
        ("a.obj", b"v 1 2 3\nv 4 5\nv 6 7 8\n", "2 numbers a vertex"),
        ("a.obj", b"v 1 2 3\nv 4 5 6\nf 1 2\n", "a face with 2 corners"),
        ("a.obj", b"v 1 2 3\nv 4 5 6\nv 1 1 1\nf 1 2 4\n", "damaged"),
        ("a.obj", b"v 1 2 nan\n", "NaN or inf in 1 of 1 points"),
        ("a.obj", b"# nothing\n", "holds no point"),
        ("a.stl", b"solid a\nendsolid a\n", "holds no point"),
        ("a.stl", MESHES[".stl"][:-1], "truncated .*1 triangles promised, 0 found"),
        ("a.glb", MESHES[".glb"][:-4], r"\d+ bytes promised, \d+ found"),
        ("a.glb", b"glTF", "no header"),
    ],
)
def test_damaged_and_empty_files_are_refused(tmp_path, name, content, match):
    refused(tmp_path / name, content, match)


def with_tree(change):
    """Return a GLB file whose JSON tree was changed."""
    content = MESHES[".glb"]
    length = struct.unpack_from("<I", content, 12)[0]
    tree = json.loads(content[20 : 20 + length])
    change(tree)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    rest = content[20 + length :]
    head = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A)
    return head + text + rest


def test_glb_whose_coordinates_lie_elsewhere_is_refused(tmp_path):
    assert len(read(tmp_path / "a.glb", with_tree(lambda tree: None))) == 2048

    def outsource(tree):
        for accessor in tree["accessors"]:
            accessor.pop("bufferView")
            accessor["count"] = 10**12  # nor may the zeros be taken

    def thin(tree):
        tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]["sparse"] = {}

    refused(tmp_path / "a.glb", with_tree(outsource), r"compressed \(by an extension\)")
    refused(tmp_path / "a.glb", with_tree(thin), "stored sparsely")


def test_no_other_file_is_opened(tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(10**4))

    def elsewhere(tree):
        tree["buffers"][0]["uri"] = "secret.bin"

    refused(tmp_path / "a.glb", with_tree(elsewhere), "damaged")


def test_real_meshes(shared_data):
    for folder in sorted((shared_data / "meshes_cc0").iterdir()):
        clouds, names = read_cloud_set(folder, mesh_points=256)
        assert len(clouds) == len(list(folder.glob("*.glb")))
        for cloud, name in zip(clouds, names, strict=True):
            low, high = trimesh.load_scene(name).bounds
            assert cloud.shape == (256, 3)
            margin = 1e-5 * np.abs([low, high]).max()
            assert (cloud >= low - margin).all()
            assert (cloud <= high + margin).all()
            assert (np.ptp(cloud, axis=0) > 0.3 * (high - low)).all()
