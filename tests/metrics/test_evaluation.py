"""The whole evaluation: the result's form, its rules and its table."""

import json

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.metrics import emd_seconds, evaluate, table
from pcdiff.ops import estimated_emd_seconds


def _sets(n=5, points=40):
    g = np.random.default_rng(0)
    return g.normal(size=(n, points, 3)), g.normal(size=(n, points, 3)) * [1, 2, 1]


def test_result_is_json_and_complete():
    samples, reference = _sets()
    result = json.loads(json.dumps(evaluate(samples=samples, reference=reference), allow_nan=False))
    assert list(result) == ["protocol", "counts", "scores", "details"]
    assert result["protocol"]["name"] == "dpm"
    assert result["counts"] == {"samples": 5, "reference": 5, "points": 40}
    names = {f"{score}-{distance}" for score in ("MMD", "COV", "1-NNA") for distance in ("CD", "EMD")}
    assert set(result["scores"]) == names | {"JSD"}
    assert result["details"]["EMD"]["method"] == "exact"
    assert result["details"]["scales_in_print"] == {"MMD-CD": 1000, "MMD-EMD": 10, "JSD": 1000}


def test_dpm_forgets_place_and_size_and_raw_does_not():
    samples, reference = _sets()
    moved = samples * 3 + 5
    a, b = (evaluate(samples=s, reference=reference, emd=False)["scores"] for s in (samples, moved))
    assert a["MMD-CD"] == pytest.approx(b["MMD-CD"], rel=1e-4)
    assert a["1-NNA-CD"] == b["1-NNA-CD"]
    raw = evaluate(samples=moved, reference=reference, emd=False, protocol="raw")["scores"]
    assert raw["MMD-CD"] > 10 * a["MMD-CD"]
    assert raw["1-NNA-CD"] == 100


def test_samples_and_reference_are_not_exchanged():
    samples, reference = _sets(n=6)
    samples[:] = samples[0] + 1e-3 * np.random.default_rng(1).normal(size=samples.shape)
    collapsed = evaluate(samples=samples, reference=reference, emd=False)["scores"]
    swapped = evaluate(samples=reference, reference=samples, emd=False)["scores"]
    assert collapsed["COV-CD"] == pytest.approx(100 / 6)
    # MMD averages over the references: spread references stay far from the blob, blob references are all served
    # by the one cloud nearest to it.
    assert swapped["MMD-CD"] < 0.95 * collapsed["MMD-CD"]


def test_num_points_takes_the_first_points_of_both_sets_before_normalising():
    samples, reference = _sets()
    cut = evaluate(samples=samples, reference=reference, num_points=16)
    assert cut["counts"]["points"] == 16
    assert cut["scores"] == evaluate(samples=samples[:, :16], reference=reference[:, :16])["scores"]
    for bad in (0, 41):
        with pytest.raises(InputError, match=rf"num_points must be in 1..40, the points of samples, got {bad}"):
            evaluate(samples=samples, reference=reference, num_points=bad)


def test_num_points_makes_unequal_sets_equal():
    samples, reference = _sets()
    result = evaluate(samples=samples, reference=reference[:, :30], num_points=30, emd=True)
    assert "MMD-EMD" in result["scores"]


def test_unequal_point_counts():
    samples, reference = _sets()
    result = evaluate(samples=samples, reference=reference[:, :30])
    assert result["counts"]["points"] == [40, 30]
    assert "MMD-EMD" not in result["scores"]
    assert result["details"]["EMD"]["left_out"] == "point counts differ (40 and 30)"
    assert "EMD left out: point counts differ" in table(result)
    with pytest.raises(InputError, match="emd needs equal point counts"):
        evaluate(samples=samples, reference=reference[:, :30], emd=True)


def test_emd_is_left_out_of_large_sets_with_the_reason(monkeypatch):
    samples, reference = _sets()
    monkeypatch.setattr("pcdiff.metrics.evaluation.EMD_LIMIT_SECONDS", 1e-9)
    result = evaluate(samples=samples, reference=reference)
    assert "MMD-EMD" not in result["scores"]
    assert "emd=True" in result["details"]["EMD"]["left_out"]
    assert "MMD-EMD" in evaluate(samples=samples, reference=reference, emd=True)["scores"]


def test_the_estimate_counts_the_pairs_of_three_matrices():
    assert emd_seconds(10, 2048) == pytest.approx(estimated_emd_seconds(100 + 90, 2048))
    assert emd_seconds(10, 1024) < emd_seconds(10, 2048)


def test_copies_and_ties_are_told():
    samples, _ = _sets()
    result = evaluate(samples=samples, reference=samples, emd=False)
    assert result["scores"]["1-NNA-CD"] == 0
    assert "5 samples are exact copies" in table(result)
    doubled = np.concatenate([samples, samples])
    result = evaluate(samples=doubled, reference=doubled, emd=False)
    assert result["scores"]["1-NNA-CD"] == 50
    assert "20 ties in 1-NNA-CD" in table(result)


def test_table_prints_the_papers_scales():
    result = {
        "protocol": {"name": "dpm"},
        "counts": {"samples": 100, "reference": 100, "points": 512},
        "scores": {
            "MMD-CD": 29.6e-3,
            "COV-CD": 31.0,
            "1-NNA-CD": 83.0,
            "MMD-EMD": 0.193,
            "COV-EMD": 34.0,
            "1-NNA-EMD": 86.0,
            "JSD": 0.0078,
        },
        "details": {"notes": []},
    }
    header, _, values, *rest = table(result).splitlines()
    cells = [cell.strip() for cell in values.strip("|").split("|")]
    assert cells == ["29.600", "31.00", "83.00", "1.930", "34.00", "86.00", "7.800"]
    assert "MMD-CD ×10³" in header
    assert "MMD-EMD ×10 " in header
    assert header.count("|") == values.count("|")
    assert "100 samples against 100 reference clouds, 512 points" in rest[-1]


def test_tensors_and_arrays_score_alike():
    samples, reference = _sets()
    tensors = evaluate(samples=torch.from_numpy(samples), reference=torch.from_numpy(reference), emd=False)
    assert tensors == evaluate(samples=samples, reference=reference, emd=False)


def test_errors_name_argument_and_index():
    samples, reference = _sets()
    with pytest.raises(InputError, match="got 5 and 4"):
        evaluate(samples=samples, reference=reference[:4])
    with pytest.raises(InputError, match="protocol must be one of"):
        evaluate(samples=samples, reference=reference, protocol="lion")
    samples[2, 0] = np.inf
    with pytest.raises(InputError, match=r"samples\[2\] holds NaN or inf"):
        evaluate(samples=samples, reference=reference)
    reference[1] = 4.0
    with pytest.raises(InputError, match=r"reference\[1\] has zero extent"):
        evaluate(samples=reference[2:], reference=reference[:3])
