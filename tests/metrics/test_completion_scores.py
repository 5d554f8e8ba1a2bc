"""Scores of completions: shifted grids by hand, formulas written anew, and what does not fit."""

import json

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.metrics import (
    compare,
    completion_scores,
    completion_table,
    nearest_by_given,
    total_mutual_difference,
    unidirectional_hausdorff,
)
from pcdiff.metrics.result_schema import check_result


def grid():
    """Points one apart, longest side 3, `(1, 64, 3)`."""
    line = torch.arange(4.0, dtype=torch.float64)
    return torch.cartesian_prod(line, line, line)[None]


def moved(*steps):
    """The grid moved along x by each step, `(1, K, 64, 3)`; below a half, a point's nearest is itself, moved."""
    return torch.stack([grid()[0] + torch.tensor([s, 0, 0], dtype=torch.float64) for s in steps])[None]


def random(*shape, seed=0):
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_grid_that_is_moved_by_hand():
    steps = (0.02, -0.06, 0.1)
    found = completion_scores(completions=moved(*steps), reference=grid(), given=grid()[:, :5] - 0.0)
    scores = found["scores"]
    assert scores["CD-L1"] == pytest.approx(0.06)  # mean |s|
    assert scores["CD-L2"] == pytest.approx(2 * (0.0004 + 0.0036 + 0.01) / 3)
    assert scores["CD-L2-best"] == pytest.approx(2 * 0.0004)
    assert scores["EMD"] == pytest.approx(0.06)
    assert scores["F-score"] == pytest.approx(1 / 3)  # 1 % of the side 3 is 0.03
    # pairs are 0.08, 0.08 and 0.16 apart, CD-L2 twice the squares; each counts for two, over K - 1
    assert scores["TMD"] == pytest.approx(2 * 2 * (0.0064 + 0.0064 + 0.0256) / 2)
    assert scores["UHD"] == pytest.approx(0.06)
    assert found["counts"] == {"pairs": 1, "points": [64, 64], "completions": 3}


def test_the_threshold_is_a_share_of_the_longest_side_whatever_the_unit():
    for unit in (1e-3, 1.0, 50.0):
        both = {"completions": moved(0.02, 0.04) * unit, "reference": grid() * unit, "emd": False}
        assert completion_scores(**both)["scores"]["F-score"] == 0.5
        assert completion_scores(**both, threshold=0.02)["scores"]["F-score"] == 1
        assert completion_scores(**both, threshold=0.005)["scores"]["F-score"] == 0


def test_all_scores_against_their_formulas():
    completions, reference, given = random(3, 2, 20), random(3, 20, seed=1), random(3, 6, seed=2)
    found = completion_scores(completions=completions, reference=reference, given=given)

    def distances(a, b):
        return np.linalg.norm(a[:, None] - b[None], axis=2)

    for i in range(3):
        truth, first, second = (v.numpy() for v in (reference[i], completions[i, 0], completions[i, 1]))
        l1, l2, uhd, f = [], [], [], []
        for made in (first, second):
            there, back = distances(made, truth).min(axis=1), distances(truth, made).min(axis=1)
            l1.append((there.mean() + back.mean()) / 2)
            l2.append((there**2).mean() + (back**2).mean())
            limit = 0.2 * np.ptp(truth, axis=0).max()
            p, r = (there < limit).mean(), (back < limit).mean()
            f.append(2 * p * r / (p + r))
            uhd.append(distances(given[i].numpy(), made).min(axis=1).max())
        apart = distances(first, second)
        assert found["per_cloud"]["CD-L1"][i] == pytest.approx(np.mean(l1))
        assert found["per_cloud"]["CD-L2"][i] == pytest.approx(np.mean(l2))
        assert found["per_cloud"]["CD-L2-best"][i] == pytest.approx(min(l2))
        assert found["per_cloud"]["UHD"][i] == pytest.approx(np.mean(uhd))
        # of two, each one's mean difference to the other
        mutual = (apart.min(axis=1) ** 2).mean() + (apart.min(axis=0) ** 2).mean()
        assert found["per_cloud"]["TMD"][i] == pytest.approx(2 * mutual)
        wide = completion_scores(completions=completions, reference=reference, threshold=0.2, emd=False)
        assert wide["per_cloud"]["F-score"][i] == pytest.approx(np.mean(f))
    for score, values in found["per_cloud"].items():
        assert found["scores"][score] == pytest.approx(np.mean(values))


def test_scores_do_not_depend_on_blocks_and_progress_is_told(monkeypatch):
    monkeypatch.setattr("pcdiff.metrics.completion._CLOUDS_AT_ONCE", 4)
    sets = {"completions": random(5, 2, 16), "reference": random(5, 16, seed=1)}
    seen = []
    found = completion_scores(**sets, progress=lambda *done: seen.append(done))
    assert seen == [(4, 10), (8, 10), (10, 10)]
    monkeypatch.undo()
    assert completion_scores(**sets)["per_cloud"] == found["per_cloud"]


def test_one_completion_has_no_diversity_and_arrays_are_taken():
    found = completion_scores(completions=grid().numpy(), reference=grid().numpy(), emd=False)
    assert found["scores"] == {"CD-L1": 0, "CD-L2": 0, "F-score": 1}
    several = completion_scores(completions=moved(0, 0.1).numpy(), reference=grid().numpy(), emd=False)
    assert several["counts"]["completions"] == 2


def test_the_nearest_training_cloud_is_the_one_that_the_points_are_of():
    train = random(7, 30)
    given = train[[4, 1]][:, :9]
    found = nearest_by_given(given, train)
    assert found.index.tolist() == [4, 1]
    assert found.distance.tolist() == [0, 0]
    off = nearest_by_given(given + 1e-3, train)
    assert off.index.tolist() == [4, 1]
    assert off.distance.tolist() == pytest.approx([3e-6, 3e-6], rel=1e-6)


def test_a_table_a_result_file_and_a_comparison(tmp_path):
    found = completion_scores(completions=moved(0.02, 0.04), reference=grid(), given=grid()[:, :5])
    baseline = completion_scores(completions=moved(0.3), reference=grid())
    result = found | {"baseline": {"what": "nearest training cloud", "scores": baseline["scores"]}}
    text = completion_table(result)
    assert "completions, 64 points" in text.splitlines()[2]
    assert "nearest training cloud" in text.splitlines()[3]
    assert "30.000" in text.splitlines()[2]  # CD-L1 x 10^3
    again = json.loads(json.dumps(result))
    check_result(again, "a.json")
    side_by_side = compare([("ours", again), ("theirs", again)])
    assert "Completions of 1 clouds, 2 of each, 64 points each." in side_by_side
    assert "*nearest training cloud*" in side_by_side
    other = completion_scores(completions=moved(0.02), reference=grid())
    with pytest.raises(InputError, match="number of completions differs, 2 and 1"):
        compare([("ours", again), ("other", other)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": random(3, 64)}, "completions and reference must pair up, got 1 and 3 clouds"),
        ({"given": random(2, 4)}, "given and reference must pair up, got 2 and 1 clouds"),
        ({"reference": random(1, 8)}, "emd needs equal point counts, got completions with 64 and reference with 8"),
        ({"threshold": 0.0}, "threshold must be positive, a share of the longest side, got 0.0"),
        ({"completions": moved(float("nan"))}, r"completions\[0\] holds NaN or inf"),
        ({"completions": random(4)}, r"completions must be \(n, P, 3\), got \(4, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        completion_scores(**{"completions": moved(0.1), "reference": grid()} | options)


def test_diversity_of_one_is_refused():
    with pytest.raises(InputError, match="two or more of each cloud to differ, got 1"):
        total_mutual_difference(moved(0.1))
    assert unidirectional_hausdorff(grid()[:, :3], moved(0.1)).tolist() == pytest.approx([0.1])
