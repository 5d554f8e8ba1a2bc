"""Pictures of clouds: what is drawn where, and that nothing else happens."""

import numpy as np
import pytest
import torch
from PIL import Image

from pcdiff.errors import InputError
from pcdiff.viz import render_cloud, render_grid, save_grid

RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)


def _sphere(n=2000, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _ink(image):
    """Pixels that belong to the (colored) cloud, also in its own shade, not to the gray shadow or white paper."""
    image = image.astype(int)
    return np.ptp(image, axis=2) > 0.3 * image.max(axis=2)


def test_the_same_cloud_gives_the_same_picture_whatever_its_units_and_container():
    cloud = _sphere(300)
    first = render_cloud(cloud, 64)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, render_cloud(cloud, 64))
    np.testing.assert_array_equal(first, render_cloud(torch.from_numpy(cloud), 64))
    moved = render_cloud(cloud * 1000 + 5, 64).astype(int)
    assert np.abs(moved - first).mean() < 0.1


def test_a_sphere_is_a_disc():
    ink = _ink(render_cloud(_sphere(6000), 128, color=RED))
    rows, columns = np.nonzero(ink)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height == pytest.approx(width, rel=0.06)
    assert height > 0.6 * 128
    assert ink.sum() == pytest.approx(np.pi / 4 * height * width, rel=0.08)


def test_one_point_is_one_lit_ball():
    image = render_cloud(np.zeros((1, 3)), 64, color=(0.6, 0.3, 0.3)).astype(int).sum(axis=2)
    ink = _ink(render_cloud(np.zeros((1, 3)), 64, color=RED))
    rows, columns = np.nonzero(ink)
    middle_row, middle_column = int(rows.mean()), int(columns.mean())
    reach = np.ptp(rows) // 4
    upper_left = image[middle_row - reach, middle_column - reach]
    assert upper_left > image[middle_row + reach, middle_column + reach] + 60


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_nearer_points_win(order):
    """Of two balls on the upright axis only the warm upper one shows from above, the cold lower one from below."""
    cloud = np.array([[0, 1.0, 0], [0, -1.0, 0]])[order]
    above = render_cloud(cloud, 64, elevation=90, radius=0.5).astype(int)[32, 32]
    below = render_cloud(cloud, 64, elevation=-90, radius=0.5).astype(int)[32, 32]
    assert above[0] > above[2] + 30
    assert below[2] > below[0] + 30


def test_a_camera_walk_by_azimuth_turns_the_cloud():
    """A rod along x is long from the front and a dot from its end."""
    rod = np.stack([np.linspace(-1, 1, 200), np.zeros(200), np.zeros(200)], axis=1)
    rod = np.vstack([rod, [[0, 0.5, 0], [0, -0.5, 0]]])
    spans = []
    for azimuth in (0.0, 90.0):
        _, columns = np.nonzero(_ink(render_cloud(rod, 96, azimuth=azimuth, elevation=0.0, color=RED)))
        spans.append(np.ptp(columns))
    assert spans[0] > 4 * spans[1]


def test_z_up_is_y_up_turned():
    cloud = _sphere(200) * [1, 2, 0.5]
    turned = cloud[:, [0, 2, 1]] * [1, -1, 1]  # (x, y, z) with y up is (x, -z, y) with z up
    np.testing.assert_allclose(render_cloud(cloud, 64).astype(int), render_cloud(turned, 64, up="z"), atol=2)


def test_high_points_are_high_on_the_picture_and_colored_by_height():
    cloud = np.array([[0, 1.0, 0], [0, -1.0, 0]])
    image = render_cloud(cloud, 96, azimuth=0, elevation=0).astype(int)
    warm = image[..., 0] - image[..., 2]
    rows_warm, _ = np.nonzero(warm > 40)
    rows_cold, _ = np.nonzero(warm < -40)
    assert rows_warm.mean() < 48 < rows_cold.mean()


def test_the_shadow_falls_on_a_floor_below_and_not_above():
    cloud = _sphere(1500)
    seen = render_cloud(cloud, 96, elevation=25, color=RED).astype(int)
    gray = (np.ptp(seen, axis=2) < 8) & (seen.sum(axis=2) < 3 * 235)
    rows, columns = np.nonzero(gray)
    assert len(rows) > 50
    assert rows.mean() > 48
    assert columns.mean() > 48  # the lamp is at the upper left
    below = render_cloud(cloud, 96, elevation=-25, color=RED).astype(int)
    assert ((np.ptp(below, axis=2) < 8) & (below.sum(axis=2) < 3 * 235)).sum() < len(rows) / 4


@pytest.mark.parametrize(
    "cloud", [np.zeros((1, 3)), np.ones((5, 3)), np.eye(3), [[0, 0, 0], [0, 0, 1]], _sphere(3000) * [1, 0, 1]]
)
@pytest.mark.parametrize("elevation", [-90, 0, 20, 90])
def test_degenerate_clouds_render(cloud, elevation):
    image = render_cloud(cloud, 48, elevation=elevation, color=BLUE)
    assert np.ptp(image, axis=2).max() > 20  # colored, so drawn: paper and shadow are gray
    assert (image == 255).all(axis=2).any()


@pytest.mark.parametrize(
    ("points", "settings", "message"),
    [
        (np.zeros((2, 4, 3)), {}, r"points must be \(N, 3\) with N >= 1, got \(2, 4, 3\)"),
        (np.zeros((0, 3)), {}, "N >= 1"),
        (np.array([[0, np.nan, 0]]), {}, "NaN or inf in 1 of 1 points"),
        (np.zeros((2, 3), dtype=complex), {}, "real numbers"),
        (np.eye(3), {"up": "x"}, 'up must be "y" or "z"'),
        (np.eye(3), {"size": 2}, "size must be at least 8"),
        (np.eye(3), {"elevation": 120}, "elevation"),
        (np.eye(3), {"radius": 0.0}, "radius"),
        (np.eye(3), {"supersample": 0}, "supersample"),
        (np.eye(3), {"color": (255, 0, 0)}, r"color must be three numbers in \[0, 1\]"),
        (np.eye(3), {"background": "white"}, r"background must be three numbers"),
    ],
)
def test_errors(points, settings, message):
    with pytest.raises(InputError, match=message):
        render_cloud(points, **settings)


def test_grid_places_each_cloud_in_its_cell():
    clouds = [_sphere(100), np.eye(3), _sphere(50) * [1, 2, 1]]
    grid = render_grid(clouds, columns=2, size=48)
    assert grid.shape == (96, 96, 3)
    np.testing.assert_array_equal(grid[:48, 48:], render_cloud(clouds[1], 48))
    np.testing.assert_array_equal(grid[48:, :48], render_cloud(clouds[2], 48))
    assert (grid[48:, 48:] == 255).all()


def test_labels_and_titles_are_drawn_outside_the_cells():
    clouds = [np.eye(3)] * 4
    plain = render_grid(clouds, size=48)
    full = render_grid(clouds, size=48, labels=list("abcd"), title="Chairs", row_titles=["ours", "data"])
    assert full.shape[1] == plain.shape[1]
    assert full.shape[0] > plain.shape[0]
    assert (full[:20] < 128).any()
    label_rows = full[-15:]
    assert (label_rows < 160).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["a"]}, "labels must be one for each of the 3 clouds, got 1"),
        ({"row_titles": ["a"]}, "row_titles must be one for each of the 2 rows, got 1"),
        ({"columns": 0}, "columns must be at least 1, got 0"),
    ],
)
def test_grid_errors(settings, message):
    with pytest.raises(InputError, match=message):
        render_grid([np.eye(3)] * 3, size=16, **settings)


def test_grid_names_the_bad_cloud():
    with pytest.raises(InputError, match=r"clouds\[1\]: points must be finite"):
        render_grid([np.eye(3), np.full((2, 3), np.nan)], size=16)
    with pytest.raises(InputError, match="at least one cloud"):
        render_grid([])


def test_saved_grid_is_the_rendered_one_and_the_only_file(tmp_path):
    clouds = torch.from_numpy(np.stack([_sphere(40), _sphere(40, seed=1)]))
    path = save_grid(tmp_path / "figures" / "grid.png", clouds, size=32, title="Two")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), render_grid(clouds, size=32, title="Two"))
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]


def test_saving_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.png"):
        save_grid(tmp_path / "grid.jpg", [np.eye(3)])
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write"):
        save_grid(tmp_path / "file" / "grid.png", [np.eye(3)], size=16)
