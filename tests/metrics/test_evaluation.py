"""The whole evaluation: the result's form, its rules and its table."""

import json

import numpy as np
import pytest
import torch
from refusals import refused

from pcdiff.errors import InputError, UnknownName
from pcdiff.metrics import emd_seconds, evaluate, get_protocol, table
from pcdiff.metrics.evaluation import fingerprint
from pcdiff.ops import estimated_emd_seconds
from pcdiff.runtime.resumable import ResultCache, ResumableMap


def _sets(n=5, points=40):
    g = np.random.default_rng(0)
    return g.normal(size=(n, points, 3)), g.normal(size=(n, points, 3)) * [1, 2, 1]


def test_result_is_json_and_complete():
    samples, reference = _sets()
    result = json.loads(json.dumps(evaluate(samples=samples, reference=reference), allow_nan=False))
    expected = {"protocol", "dataset", "counts", "scores", "intervals", "nearest", "details", "seed", "terms"}
    assert set(result) == expected
    assert result["protocol"] == get_protocol("dpm").to_dict()
    assert result["counts"] == {"samples": 5, "reference": 5, "points": 40}
    names = {f"{score}-{distance}" for score in ("MMD", "COV", "1-NNA") for distance in ("CD", "EMD")}
    assert set(result["scores"]) == names | {"JSD", "JSD-normalized"}
    emd = result["details"]["EMD"]
    assert (emd["method"], emd["tolerance"], emd["pairs"]) == ("exact", 0, 45)
    assert emd["bounded"] + emd["stopped_early"] + emd["solved_to_the_end"] == 45
    intervals = result["intervals"]
    assert set(intervals) == set(result["scores"]) | {"resamples", "level", "seed"}
    for name, score in result["scores"].items():
        low, high = intervals[name]
        assert low <= score <= high
    assert result["details"]["scales_in_print"] == {
        "MMD-CD": 1000,
        "MMD-EMD": 10,
        "JSD": 1000,
        "JSD-normalized": 1000,
    }


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


def test_num_points_takes_the_first_points_of_both_sets_before_normalizing():
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


def test_the_estimate_grows_with_clouds_and_points_and_stays_below_the_whole_matrices():
    assert 0 < emd_seconds(10, 2048) < estimated_emd_seconds(100 + 90, 2048)
    assert emd_seconds(10, 1024) < emd_seconds(10, 2048) < emd_seconds(20, 2048) / 3


def _train(n=12, points=40):
    return np.random.default_rng(7).normal(size=(n, points, 3))


def test_training_clouds_give_a_floor_and_a_report_on_memorization():
    samples, reference = _sets()
    train = _train()
    train[3] = samples[2][::-1]  # one sample is a training cloud, its points in another order
    result = evaluate(samples=samples, reference=reference, train=train)
    assert result["counts"] == {"samples": 5, "reference": 5, "train": 12, "points": 40}
    assert result["floor"]["scores"].keys() == result["scores"].keys()
    assert result["floor"]["intervals"].keys() == result["intervals"].keys()
    report = result["memorization"]
    assert report["copies"] == 1
    assert report["train_index"][2] == 3
    assert report["distance"][2] == 0
    lines = table(result).splitlines()
    assert any(line.startswith("| *training clouds in the samples' place*") for line in lines)
    assert any("1 of 5 samples is a copy of a training cloud" in line for line in lines)
    alone = evaluate(samples=samples, reference=reference, train=train, floor=False)
    assert "floor" not in alone
    assert alone["scores"] == result["scores"]


def test_the_floor_is_the_score_of_training_clouds():
    samples, reference = _sets()
    result = evaluate(samples=samples, reference=reference, train=_train(n=5))
    direct = evaluate(samples=_train(n=5), reference=reference)
    assert result["floor"]["scores"] == direct["scores"]
    assert result["floor"]["intervals"] == direct["intervals"]


@pytest.mark.parametrize(
    ("train", "why"), [(_train(n=4), "fewer than the 5 needed"), (_train(points=9), "have 9 points")]
)
def test_a_floor_that_cannot_be_says_why(train, why):
    samples, reference = _sets()
    result = evaluate(samples=samples, reference=reference, train=train)
    assert "floor" not in result
    assert any(why in note for note in result["details"]["notes"])
    assert "memorization" in result


def test_intervals_can_be_left_out_and_follow_the_seed():
    samples, reference = _sets()
    without = evaluate(samples=samples, reference=reference, resamples=0)
    assert "intervals" not in without
    assert "[" not in table(without)
    a, b = (evaluate(samples=samples, reference=reference, seed=seed) for seed in (1, 2))
    assert a["scores"] == b["scores"]
    assert a["intervals"] != b["intervals"]


def test_pointflow_takes_the_references_points_from_10000_on():
    g = np.random.default_rng(5)
    samples, reference = g.normal(size=(3, 20, 3)), g.normal(size=(3, 10_040, 3))
    result = evaluate(samples=samples, reference=reference, protocol="pointflow", num_points=20, emd=True)
    cut = evaluate(samples=samples, reference=reference[:, 10_000:10_020], protocol="raw", emd=True)
    assert result["scores"] == cut["scores"]
    lion = evaluate(samples=samples, reference=reference, protocol="pointflow-lion", num_points=20, emd=True)
    assert (
        lion["scores"] == evaluate(samples=samples, reference=reference[:, :20], protocol="raw", emd=True)["scores"]
    )
    chosen = g.normal(size=(3, 2048, 3))
    notes = evaluate(samples=chosen, reference=chosen[::-1], protocol="pointflow", emd=False)["details"]["notes"]
    assert any("points from 10000 on already" in note for note in notes)


def test_finished_blocks_are_not_computed_again_and_change_nothing(tmp_path, monkeypatch):
    samples, reference = _sets()
    whole = evaluate(samples=samples, reference=reference, train=_train())
    with ResultCache(tmp_path / "journal", {}) as journal:
        assert (
            evaluate(samples=samples, reference=reference, train=_train(), map_blocks=ResumableMap(journal).map)
            == whole
        )
    monkeypatch.setattr("pcdiff.metrics.neighbors.pairwise", None)
    monkeypatch.setattr("pcdiff.metrics.emd_search.emd_pairs", None)
    with ResultCache(tmp_path / "journal", {}) as journal:
        assert (
            evaluate(samples=samples, reference=reference, train=_train(), map_blocks=ResumableMap(journal).map)
            == whole
        )


def test_fingerprints_tell_sets_apart():
    clouds = torch.from_numpy(_sets()[0]).float()
    assert fingerprint(clouds) == fingerprint(clouds.clone())
    assert fingerprint(clouds) != fingerprint(clouds.flip(0))
    assert fingerprint(clouds) != fingerprint(clouds.reshape(1, -1, 3))


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
    with refused(UnknownName, what="protocol"):
        evaluate(samples=samples, reference=reference, protocol="lion")
    samples[2, 0] = np.inf
    with pytest.raises(InputError, match=r"samples\[2\] holds NaN or inf"):
        evaluate(samples=samples, reference=reference)
    reference[1] = 4.0
    with pytest.raises(InputError, match=r"reference\[1\] has zero extent"):
        evaluate(samples=reference[2:], reference=reference[:3])
