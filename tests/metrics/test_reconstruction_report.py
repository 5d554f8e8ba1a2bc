"""The report of a reconstruction: the oracle's row at one number of points, and the table."""

import json

import numpy as np
import pytest

from pcdiff.errors import InputError
from pcdiff.metrics import (
    oracle_scores,
    reconstruction_report,
    reconstruction_scores,
    reconstruction_table,
    split_samplings,
)


def _clouds(points, seed=0, n=3):
    return np.random.default_rng(seed).normal(size=(n, points, 3)).astype(np.float32)


def _rows(table):
    """Return the table's rows, each as a dict by header, and the lines below it."""
    above, below = table.split("\n\n")
    header, rule, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in above.splitlines())
    assert all(set(cell) <= {"-", ":"} for cell in rule)
    assert all(len(row) == len(header) == len(rule) == len(set(header)) for row in rows)
    return [dict(zip(header, row, strict=True)) for row in rows], below


def test_without_a_second_sampling_both_rows_stand_at_half_the_points():
    made, reference = _clouds(40), _clouds(40, seed=1)
    report = reconstruction_report(reconstructions=made, reference=reference, thresholds=(0.1,))
    oracle = report.pop("oracle")
    assert report == reconstruction_scores(reconstructions=made, reference=reference, thresholds=(0.1,))
    assert oracle["points"] == 20
    assert oracle["samplings"] == "points 0 to 19 and 20 to 39 of the reference"
    floor = oracle_scores(*split_samplings(reference, 20), thresholds=(0.1,))
    cut = reconstruction_scores(reconstructions=made[:, :20], reference=reference[:, :20], thresholds=(0.1,))
    assert (oracle["scores"], oracle["details"]["oracle"]) == (floor["scores"], floor["details"])
    assert (oracle["reconstructions"], oracle["details"]["reconstructions"]) == (cut["scores"], cut["details"])


@pytest.mark.parametrize(
    ("made", "reference", "points"),
    [(16, 40, 16), (20, 40, 20), (30, 40, 20), (30, 41, 20), (40, 30, 15), (2, 2, 1)],
)
def test_the_points_of_the_oracle_without_a_second_sampling(made, reference, points):
    sets = {"reconstructions": _clouds(made), "reference": _clouds(reference, seed=1)}
    oracle = reconstruction_report(**sets, emd=False)["oracle"]
    cut = {name: clouds[:, :points] for name, clouds in sets.items()}
    assert oracle["points"] == points
    assert oracle["reconstructions"] == reconstruction_scores(**cut, emd=False)["scores"]
    floor = oracle_scores(*split_samplings(sets["reference"], points), emd=False)
    assert oracle["scores"] == floor["scores"]


def test_with_a_second_sampling_all_points_are_compared():
    made, reference, second = _clouds(40), _clouds(40, seed=1), _clouds(50, seed=2)
    report = reconstruction_report(reconstructions=made, reference=reference, second=second)
    oracle = report["oracle"]
    assert (oracle["points"], oracle["samplings"]) == (40, "reference and second")
    assert oracle["reconstructions"] == report["scores"]
    assert oracle["scores"] == oracle_scores(reference, second[:, :40])["scores"]


def test_reconstructions_that_are_a_fresh_sampling_meet_the_oracle():
    """Three samplings of a sphere: the reconstructions stand on the floor, blurred ones above it."""
    gauss = (_clouds(256, seed=seed, n=20) for seed in range(3))
    reference, made, second = (g / np.linalg.norm(g, axis=2, keepdims=True) for g in gauss)
    blurred = made + 0.2 * _clouds(256, seed=3, n=20)
    sets = {"reference": reference, "second": second, "emd": False}
    fresh, worse = (reconstruction_report(reconstructions=r, **sets)["oracle"] for r in (made, blurred))
    assert fresh["reconstructions"]["CD"] == pytest.approx(fresh["scores"]["CD"], rel=0.05)
    assert worse["reconstructions"]["CD"] > 2 * worse["scores"]["CD"]


@pytest.mark.parametrize("second", [None, _clouds(40, seed=2)])
def test_progress_counts_over_all_comparisons(monkeypatch, second):
    monkeypatch.setattr("pcdiff.metrics.reconstruction._CLOUDS_AT_ONCE", 2)
    seen, parts = [], 3 if second is None else 2
    reconstruction_report(
        reconstructions=_clouds(40),
        reference=_clouds(40, seed=1),
        second=second,
        emd=False,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(3 * part + done, 3 * parts) for part in range(parts) for done in (2, 3)]


def test_the_table_holds_both_rows_at_one_number_of_points():
    sets = {"reconstructions": _clouds(40), "reference": _clouds(40, seed=1)}
    report = json.loads(json.dumps(reconstruction_report(**sets, thresholds=(0.1,)), allow_nan=False))
    (whole, cut, oracle), notes = _rows(reconstruction_table(report))
    assert [row[""] for row in (whole, cut)] == ["reconstructions, 40 points", "reconstructions, 20 points"]
    assert oracle[""] == "oracle (two samplings of one shape), 20 points"
    for row, scores in zip(
        (whole, cut, oracle),
        (report["scores"], report["oracle"]["reconstructions"], report["oracle"]["scores"]),
        strict=True,
    ):
        assert row["CD ×10⁴ ↓"] == f"{1e4 * scores['CD']:.3f}"
        assert row["CD median ×10⁴ ↓"] == f"{1e4 * scores['CD-median']:.3f}"
        assert row["EMD ×10² ↓"] == f"{1e2 * scores['EMD']:.3f}"
        assert row["EMD median ×10² ↓"] == f"{1e2 * scores['EMD-median']:.3f}"
        assert row["F-score ↑"] == f"{scores['F-score']:.3f}"
        assert row["F-score median ↑"] == f"{scores['F-score-median']:.3f}"
    further = report["details"]["F-score"]["at"]["0.1"]["mean"]
    assert f"F-score at 0.1: mean {further:.3f}, median" in notes
    assert "3 pairs" in notes
    assert "nearer than 0.001, a squared distance" in notes
    assert "points 0 to 19 and 20 to 39 of the reference" in notes
    assert "compare the oracle with the row of 20 points" in notes


def test_the_table_leaves_out_what_is_not_there():
    sets = {"reconstructions": _clouds(40), "reference": _clouds(40, seed=1), "emd": False}
    rows, notes = _rows(reconstruction_table(reconstruction_report(**sets, second=_clouds(40, seed=2))))
    expected = ["reconstructions, 40 points", "oracle (two samplings of one shape), 40 points"]
    assert [row[""] for row in rows] == expected
    assert not any("EMD" in header for header in rows[0])
    assert "Note" not in notes
    (row,), notes = _rows(reconstruction_table(reconstruction_scores(**sets | {"reference": _clouds(30)})))
    assert row[""] == "reconstructions, 40 against 30 points"
    assert "racle" not in notes


def test_errors_come_before_the_work(monkeypatch):
    monkeypatch.setattr("pcdiff.metrics.reconstruction.nearest", None)
    sets = {"reconstructions": _clouds(40), "reference": _clouds(40, seed=1)}
    with pytest.raises(InputError, match="reference and second must pair up, got 3 and 2 clouds"):
        reconstruction_report(**sets, second=_clouds(40, n=2))
    with pytest.raises(InputError, match="second must have at least 40 points a cloud, got 39"):
        reconstruction_report(**sets, second=_clouds(39))
    with pytest.raises(InputError, match=r"second must be \(n, P, 3\)"):
        reconstruction_report(**sets, second=_clouds(40)[0])
    with pytest.raises(InputError, match="got reconstructions with 40 and reference with 30 points; pass"):
        reconstruction_report(reconstructions=_clouds(40), reference=_clouds(30))
    with pytest.raises(InputError, match=r"reference must have at least 2 points .* got 1; or give second"):
        reconstruction_report(reconstructions=_clouds(1), reference=_clouds(1))
