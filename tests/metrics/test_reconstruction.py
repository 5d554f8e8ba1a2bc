"""Reconstruction scores, cloud by cloud."""

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.metrics import f_score, oracle_scores, reconstruction_scores, split_samplings


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
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match=f"threshold must be positive .a squared distance., got {bad}"):
            reconstruction_scores(reconstructions=_clouds(), reference=_clouds(), thresholds=(1.0, bad))
    with pytest.raises(InputError, match=r"thresholds must be a sequence, got 0.1"):
        reconstruction_scores(reconstructions=_clouds(), reference=_clouds(), thresholds=0.1)
    with pytest.raises(InputError, match="threshold must be positive"):
        reconstruction_scores(reconstructions=_clouds(), reference=_clouds(), threshold=0.0, emd=False)


def test_further_thresholds_are_the_scores_at_each(monkeypatch):
    monkeypatch.setattr("pcdiff.metrics.reconstruction._CLOUDS_AT_ONCE", 2)
    sets = {"reconstructions": _clouds(), "reference": _clouds(seed=1), "emd": False}
    result = reconstruction_scores(**sets, thresholds=(1e-2, 0.3, 0.01))
    at = result["details"]["F-score"].pop("at")
    assert list(at) == ["0.01", "0.3"]
    for threshold, values in at.items():
        alone = reconstruction_scores(**sets, threshold=float(threshold))["scores"]
        assert values == {"mean": alone["F-score"], "median": alone["F-score-median"]}
    assert result == reconstruction_scores(**sets)  # the score in the table stays at its own threshold


def _spheres(n, points, seed=0):
    clouds = np.random.default_rng(seed).normal(size=(n, points, 3))
    return torch.from_numpy(clouds / np.linalg.norm(clouds, axis=2, keepdims=True)).float()


def test_the_oracle_of_identical_samplings_is_perfect():
    clouds = _spheres(3, 64)
    scores = oracle_scores(clouds, clouds.flip(1))["scores"]
    assert scores["CD"] == scores["CD-median"] == 0
    assert scores["EMD"] == pytest.approx(0, abs=1e-7)
    assert scores["F-score"] == 1


def test_the_oracle_shrinks_with_the_points():
    """On a surface the mean squared distance to the nearest of P points falls as 1 / P: 1 / (pi density)."""
    clouds, scores = _spheres(4, 2048), {}
    for points in (64, 256, 1024):
        scores[points] = oracle_scores(*split_samplings(clouds, points), emd=points < 1024)["scores"]
        assert scores[points]["CD"] == pytest.approx(2 * 4 / points, rel=0.2)
    assert scores[64]["EMD"] > 1.3 * scores[256]["EMD"]
    assert scores[64]["F-score"] < scores[256]["F-score"] < scores[1024]["F-score"]


def test_the_oracle_does_not_care_which_sampling_comes_first():
    first, second = split_samplings(_spheres(3, 100), 50)
    there, back = oracle_scores(first, second)["scores"], oracle_scores(second, first)["scores"]
    assert there == pytest.approx(back, rel=1e-12)
    assert there == reconstruction_scores(reconstructions=first, reference=second)["scores"]


def test_samplings_are_disjoint_and_in_order():
    clouds = torch.arange(11.0)[None, :, None].expand(2, 11, 3)
    first, second = split_samplings(clouds, 5)
    assert torch.equal(first, clouds[:, 0:5])
    assert torch.equal(second, clouds[:, 5:10])
    first, second = split_samplings(clouds, 2)
    assert torch.equal(second, clouds[:, 2:4])
    for bad in (0, 6):
        with pytest.raises(InputError, match=rf"num_points must be in 1\.\.5, so that clouds of 11 .*, got {bad}$"):
            split_samplings(clouds, bad)


def test_errors_of_the_oracle_name_its_arguments():
    with pytest.raises(InputError, match="first and second must pair up, got 3 and 2"):
        oracle_scores(_clouds(), _clouds(n=2))
    with pytest.raises(InputError, match="got first with 50 and second with 20 points; pass emd=False"):
        oracle_scores(_clouds(), _clouds(points=20))
    with pytest.raises(InputError, match=r"second must be \(n, P, 3\), got \(2, 3\)"):
        oracle_scores(_clouds(), np.zeros((2, 3)))
