"""Reconstruction scores, cloud by cloud."""

import numpy as np
import pytest

from pcdiff.errors import InputError
from pcdiff.metrics import f_score, reconstruction_scores


def _clouds(n=3, points=50, seed=0):
    return np.random.default_rng(seed).normal(size=(n, points, 3)).astype(np.float32)


def test_perfect_reconstruction():
    result = reconstruction_scores(reconstructions=_clouds(), reference=_clouds())
    assert result["scores"]["CD"] == 0
    assert result["scores"]["EMD"] == pytest.approx(0, abs=1e-7)
    assert result["scores"]["F-score"] == 1


def test_a_small_shift_by_hand():
    """Far-apart points moved by s: CD is 2 s^2, EMD is s, and the F-score jumps where s^2 passes the threshold."""
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(1, -1, 3)
    moved = grid + np.array([0.1, 0, 0])
    result = reconstruction_scores(reconstructions=moved, reference=grid, threshold=0.02)
    assert result["scores"]["CD"] == pytest.approx(0.02, rel=1e-5)
    assert result["scores"]["EMD"] == pytest.approx(0.1, rel=1e-5)
    assert result["scores"]["F-score"] == 1
    assert reconstruction_scores(reconstructions=moved, reference=grid)["scores"]["F-score"] == 0


def test_threshold_is_strict():
    assert f_score([1e-3], [1e-3], 1e-3) == (0.0, 0.0, 0.0)
    assert f_score([1e-3, 0], [0, 0, 0, 1], 1e-3) == (pytest.approx(0.6), 0.5, 0.75)


def test_mean_and_median_are_over_clouds():
    a = _clouds()
    b = a + np.array([0, 0.01, 1.0], dtype=np.float32)[:, None, None]
    result = reconstruction_scores(reconstructions=a, reference=b, emd=False)
    values = result["per_cloud"]["CD"]
    assert len(values) == 3
    assert result["scores"]["CD"] == pytest.approx(sum(values) / 3)
    assert result["scores"]["CD-median"] == values[1]
    assert "EMD" not in result["scores"]


def test_progress_and_unequal_points(monkeypatch):
    monkeypatch.setattr("pcdiff.metrics.reconstruction._CLOUDS_AT_ONCE", 2)
    seen = []
    result = reconstruction_scores(
        reconstructions=_clouds(),
        reference=_clouds(points=20),
        emd=False,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 3), (3, 3)]
    assert result["counts"] == {"pairs": 3, "points": [50, 20]}


def test_errors():
    with pytest.raises(InputError, match="pair up, got 3 and 2"):
        reconstruction_scores(reconstructions=_clouds(), reference=_clouds(n=2))
    with pytest.raises(InputError, match="pass emd=False"):
        reconstruction_scores(reconstructions=_clouds(), reference=_clouds(points=20))
    with pytest.raises(InputError, match="threshold must be positive"):
        reconstruction_scores(reconstructions=_clouds(), reference=_clouds(), threshold=0.0, emd=False)
