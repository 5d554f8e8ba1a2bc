"""The Jensen-Shannon divergence on cases whose answer is known."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from pcdiff.errors import InputError
from pcdiff.metrics import jsd_legacy, jsd_normalized
from pcdiff.metrics.jsd import cell_counts, divergence, divergences, outside_share, sphere_grid


def _clouds(low=-0.3, high=0.3, n=4, points=500, seed=0):
    return np.random.default_rng(seed).uniform(low, high, size=(n, points, 3)).astype(np.float32)


def test_identical_sets_do_not_diverge():
    assert jsd_legacy(_clouds(), _clouds()) == 0
    assert jsd_normalized(_clouds(), _clouds()) == 0


def test_disjoint_sets_diverge_by_one_bit():
    assert jsd_legacy(_clouds(-0.25, -0.1), _clouds(0.1, 0.25)) == pytest.approx(1)


def test_divergence_agrees_with_scipy_and_is_symmetric():
    g = np.random.default_rng(0)
    p, q = g.integers(0, 9, 50), g.integers(0, 9, 50)
    assert divergence(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2, rel=1e-10)
    assert divergence(p, q) == divergence(q, p)
    np.testing.assert_array_equal(divergences([p, q], [q, q]), [divergence(p, q), 0])


def test_each_point_counts_once_in_its_nearest_cell():
    grid = sphere_grid(8)
    points = np.random.default_rng(1).uniform(-1, 1, size=(2, 300, 3)).astype(np.float32)
    nearest = ((points.reshape(-1, 1, 3).astype(np.float64) - grid[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(cell_counts(points, 8), np.bincount(nearest, minlength=len(grid)))


def test_the_grid_fills_the_sphere_only():
    grid = sphere_grid()
    assert np.linalg.norm(grid, axis=1).max() <= 0.5
    assert len(grid) / 28**3 == pytest.approx(np.pi / 6, rel=0.15)  # a ball's share of its cube


def test_the_legacy_form_sees_size_and_the_normalized_one_does_not():
    clouds = _clouds()
    assert jsd_legacy(clouds, 0.5 * clouds) > 0.1
    assert jsd_normalized(clouds, 0.5 * clouds + 2) < 0.02


def test_order_of_clouds_and_points_does_not_matter():
    a, b = _clouds(), _clouds(seed=1)
    assert jsd_legacy(a[::-1, ::-1], b) == jsd_legacy(a, b)


def test_outside_share():
    clouds = np.zeros((1, 4, 3), dtype=np.float32)
    clouds[0, :, 0] = [0, 0.4, 0.6, -2]
    assert outside_share(clouds) == 0.5


def test_errors():
    flat = _clouds()
    flat[2] = 1.0
    with pytest.raises(InputError, match=r"reference\[2\] has zero extent"):
        jsd_normalized(_clouds(), flat)
    with pytest.raises(InputError, match="resolution must be at least 2, got 1"):
        jsd_legacy(_clouds(), _clouds(), resolution=1)
    with pytest.raises(InputError, match="histograms"):
        divergence(np.zeros(3), np.ones(3))
