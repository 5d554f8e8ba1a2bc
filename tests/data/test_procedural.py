"""The built-in shapes: determinism, disjoint splits, variety, and sampling by area."""

import numpy as np
import pytest
import trimesh
from refusals import refused

from pcdiff.data import procedural
from pcdiff.data.categories import NAME_TO_SYNSET
from pcdiff.data.procedural import FAMILIES, shape_clouds, shape_generator, shape_mesh
from pcdiff.data.procedural.geometry import MicroBatches, beam, box, ellipsoid, loft, plate, revolve, tube, turn
from pcdiff.errors import InputError, UnknownName

CATEGORIES = sorted(FAMILIES)


def test_ten_or_more_shapenet_categories():
    assert len(FAMILIES) >= 10
    assert set(FAMILIES) <= set(NAME_TO_SYNSET)


@pytest.mark.parametrize("category", CATEGORIES)
def test_clouds_are_finite_centered_and_of_shapenet_scale(category):
    clouds = shape_clouds(category, "train", count=24)
    assert clouds.shape == (24, procedural.POINTS, 3)
    assert clouds.dtype == np.float32
    assert np.isfinite(clouds).all()
    low, high = clouds.min(axis=1), clouds.max(axis=1)
    diagonal = np.linalg.norm(high - low, axis=1)
    assert ((diagonal > 0.9) & (diagonal < 1 + 1e-5)).all()
    assert (np.abs(low + high) < 0.1).all()


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_small_set_is_the_prefix_of_a_large_one(category):
    large = shape_clouds(category, "val", count=5, num_points=128)
    assert np.array_equal(shape_clouds(category, "val", count=2, num_points=128), large[:2])


@pytest.mark.parametrize("category", CATEGORIES)
def test_splits_seeds_and_indices_give_different_shapes(category):
    boxes = []
    for split in ("train", "val", "test"):
        for seed in (1, 2):
            for index in range(6):
                mesh = shape_mesh(category, split, index, seed)
                boxes.append((*mesh.extents, mesh.area, len(mesh.faces)))
    assert len({tuple(np.round(entry, 9)) for entry in boxes}) == len(boxes)


@pytest.mark.parametrize("category", CATEGORIES)
def test_variety_of_proportions_and_parts(category):
    meshes = [shape_mesh(category, "train", index) for index in range(40)]
    extents = np.array([mesh.extents for mesh in meshes])
    ratio = np.sort(extents, axis=1)
    relative = (ratio[:, 0] / ratio[:, 2]).std() / (ratio[:, 0] / ratio[:, 2]).mean()
    assert relative > 0.04
    areas = np.array([mesh.area for mesh in meshes])
    assert areas.std() / areas.mean() > 0.05
    if category != "mug":  # a mug is always a cup and a handle
        assert len({len(mesh.faces) for mesh in meshes}) >= 3


def test_airplanes_are_aligned():
    # Wings along x and mirrored, the fin up and at the back: what makes them learnable, and airplanes.
    for index in range(30):
        vertices = shape_mesh("airplane", "train", index).vertices
        extent = np.ptp(vertices, axis=0)
        assert extent[1] < 0.6 * min(extent[0], extent[2])
        highest = vertices[vertices[:, 1].argmax()]
        assert highest[2] > 0 or extent[0] > extent[2]  # the tips of a glider's wings may top its fin
    clouds = shape_clouds("airplane", "train", count=30)
    left = (clouds[..., 0] < 0).mean(axis=1)
    assert (np.abs(left - 0.5) < 0.05).all()


def test_default_counts_per_split(monkeypatch):
    monkeypatch.setattr(procedural, "DEFAULT_COUNTS", {"train": 3, "val": 2, "test": 1})
    assert [len(shape_clouds("mug", split, num_points=8)) for split in ("train", "val", "test")] == [3, 2, 1]


def test_mesh_and_cloud_agree():
    for category in CATEGORIES:
        cloud = shape_clouds(category, "test", count=1, num_points=200)[0]
        mesh = shape_mesh(category, "test", 0)
        triangles = mesh.triangles[mesh.area_faces > 1e-12]
        nearest = np.full(len(cloud), np.inf)
        for start in range(0, len(triangles), 200):
            block = triangles[start : start + 200]
            spread = np.repeat(cloud.astype(float), len(block), axis=0)
            points = trimesh.triangles.closest_point(np.tile(block, (len(cloud), 1, 1)), spread)
            gap = np.linalg.norm(points - spread, axis=1).reshape(len(cloud), -1).min(axis=1)
            nearest = np.minimum(nearest, gap)
        assert nearest.max() < 1e-5


def test_hidden_boxes_get_no_points_and_their_borders_do():
    parts = MicroBatches()
    parts.add(tube(np.array([(0, -2, 0), (0, 2, 0)]), [0.2, 0.2]))
    parts.add_solid_box((2, 2, 2), (0, 0, 0))
    points = parts.sample(6000, np.random.default_rng(1)).astype(float)
    assert points.shape == (6000, 3)
    _, diagonal = parts._frame()
    points *= diagonal  # centered already
    inner = (np.abs(points) < 1 - 1e-4).all(axis=1)
    assert not inner.any()
    assert np.isclose(np.abs(points).max(axis=1), 1, atol=1e-4).mean() > 0.7
    assert (np.abs(points[:, 1]) > 1.01).mean() > 0.03


@pytest.mark.parametrize(
    ("surface", "volume"),
    [
        (box((1, 2, 3), (5, 5, 5)), 6.0),
        (revolve([(1, 0), (1, 2)], columns=400), 2 * np.pi),
        (ellipsoid((1, 2, 3), (0, 1, 0), rows=90, columns=180), 8 * np.pi),
        (tube(np.array([(0, 0, 0), (0, 0, 3)]), [0.5, 0.5], columns=4), 3.0),
        (beam((0, 0, 0), (2, 0, 0), 0.2, 0.1), 0.04),
        (plate(np.array([(0, 0), (2, 0), (0, 2)]), 0, 1), 2.0),
        (plate(np.array([(0, 0), (2, 0), (0, 2)]), 0, 1, axis="x"), 2.0),
        (turn(box((1, 2, 3), (1, 0, 0)), "z", 0.7), 6.0),
    ],
)
def test_solids_are_closed_and_have_their_volume(surface, volume):
    mesh = trimesh.Trimesh(*surface, process=True)
    mesh.merge_vertices()
    assert mesh.is_watertight
    assert abs(mesh.volume) == pytest.approx(volume, rel=2e-3)


def test_open_loft_has_no_caps():
    rings = np.array([[(x, y, z) for x, z in ((0, 0), (1, 0), (1, 1), (0, 1))] for y in (0, 1)], dtype=float)
    assert trimesh.Trimesh(*loft(rings, cap_start=False, cap_end=False)).area == pytest.approx(4.0)
    assert trimesh.Trimesh(*loft(rings, cap_start=True, cap_end=False)).area == pytest.approx(5.0)


def test_mirrored_parts():
    parts = MicroBatches()
    parts.add_mirrored(box((1, 1, 1), (2, 0, 0)))
    vertices, _ = parts.surface()
    np.testing.assert_allclose(sorted(vertices[:, 0]), sorted(-vertices[:, 0]), atol=1e-12)


def test_errors():
    with pytest.raises(InputError, match=r"no built-in shapes for category 'washer'.*there are: airplane"):
        shape_clouds("washer", "train")
    with pytest.raises(InputError, match="no built-in shapes for category 'washer'"):
        shape_mesh("washer", "train", 0)
    with refused(UnknownName, what="split", name="all"):
        shape_clouds("chair", "all")
    with pytest.raises(InputError, match="must be at least 1, got 0 and 2048"):
        shape_clouds("chair", "train", count=0)
    with pytest.raises(InputError, match="must not be negative, got 0 and -1"):
        shape_clouds("chair", "train", seed=-1)
    with pytest.raises(InputError, match="must not be negative, got -1"):
        shape_generator("chair", "train", -1)
