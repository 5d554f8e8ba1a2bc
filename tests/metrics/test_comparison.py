"""Results side by side: what goes into one table, and what does not."""

import copy
import json

import numpy as np
import pytest

from pcdiff.errors import InputError
from pcdiff.metrics import evaluate, reconstruction_scores
from pcdiff.metrics.comparison import compare, label_files, read_result

PROTOCOL = {
    "name": "dpm",
    "split": "test",
    "normalization": "shape_bbox",
    "points": 2048,
    "reference_points": None,
    "distances": ["cd", "emd"],
    "emd_method": "exact",
    "seed": 2020,
    "description": "one line",
}
RESULT = {
    "protocol": PROTOCOL,
    "dataset": {"reference": {"source": "chair", "sha256": "ab" * 32}, "samples": {"source": "s", "sha256": "cd"}},
    "counts": {"samples": 100, "reference": 100, "points": 512},
    "scores": {"MMD-CD": 0.0296, "COV-CD": 31.0, "1-NNA-CD": 83.0, "MMD-EMD": 0.0193, "JSD": 0.09},
    "intervals": {"level": 0.95, "resamples": 1000, "seed": 1, "method": "percentile", "MMD-CD": [0.028, 0.031]},
    "floor": {"what": "training clouds", "scores": {"MMD-CD": 0.027, "COV-CD": 54.0}, "intervals": None},
    "details": {"EMD": {"method": "exact"}, "notes": ["EMD is slow"]},
}


def _with(**changes):
    """RESULT with values set at dotted paths (`a__b=1`); `...` takes the key away."""
    result = copy.deepcopy(RESULT)
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = result
        for key in parents:
            part = part[key]
        if value is ...:
            del part[last]
        else:
            part[last] = value
    return result


def _scored(seed=0, n=5):
    samples, reference = (np.random.default_rng(s).normal(size=(n, 32, 3)) for s in (seed, 9))
    return json.loads(json.dumps(evaluate(samples=samples, reference=reference)))


def _reconstructed(emd=True, threshold=1e-3):
    clouds = np.random.default_rng(0).normal(size=(4, 32, 3))
    return reconstruction_scores(reconstructions=clouds + 0.01, reference=clouds, emd=emd, threshold=threshold)


def _row(table, label):
    [line] = [line for line in table.splitlines() if line.startswith(f"| {label} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_better_of_two_is_bold_and_the_floor_stands_once_below():
    better = _with(scores__JSD=0.01, protocol__description="said in other words", intervals__JSD=[0.009, 0.011])
    better["scores"]["1-NNA-CD"] = 45.0
    table = compare([("base", _with(intervals__JSD=[0.08, 0.1])), ("better", better)])
    assert _row(table, "base")[1] == "29.600 [28.000, 31.000]"  # both the same: none is better
    assert _row(table, "base")[3] == "83.00"
    assert _row(table, "better")[3] == "45.00"  # neither terms nor intervals on record
    assert _row(table, "better")[5] == "**10.000** [9.000, 11.000]"  # the intervals do not touch
    assert "Cannot be decided: 1-NNA-CD (base); " in table
    assert "Ties with the best score: MMD-CD (better), COV-CD (better), MMD-EMD (better)." in table
    assert table.count("*training clouds*") == 1
    assert _row(table, "*training clouds*")[1] == "*27.000*"
    assert "Protocol `dpm`: 100 samples against 100 reference clouds, 512 points each." in table
    assert "(95 %)" in table
    assert table.count("EMD is slow") == 1
    assert "taken to be as in the others" not in table
    assert "JSD's interval" not in table


def test_what_evaluate_writes_is_accepted():
    table = compare([("one", _scored()), ("two", _scored(n=5, seed=1))])
    assert "taken to be as in the others" not in table
    assert "Ties with the best score: " in table  # of five clouds each
    assert "MMD-CD" in compare([("alone", _scored())])


@pytest.mark.parametrize(
    "value", [None, True, -1, 1.5, 10**39, "text", [], [1], [{}, {}], {}, {"a": [1]}, [[]] * 2]
)
@pytest.mark.parametrize(
    "place",
    "protocol protocol__name split counts counts__points counts__reference counts__samples scores__JSD dataset "
    "dataset__reference dataset__reference__sha256 dataset__fingerprint intervals intervals__level intervals__JSD "
    "floor floor__what floor__scores floor__intervals floor__scores__JSD details details__notes details__EMD "
    "details__EMD__method details__F-score oracle".split(),
)
def test_values_of_another_kind_are_refused_or_harmless(place, value):
    refused = None
    try:
        text = compare([("a", _with(**{place: value})), ("b", _with(**{place: value}))])
    except InputError as error:
        refused = str(error)
    assert refused.startswith(("a: ", "a and b: ")) if refused is not None else "MMD-CD" in text


def test_results_on_record_compare_with_those_of_today():
    """Until 0.2.0 a protocol's normalization was spelled with an s."""
    old, new = _with(), _with()
    old["protocol"]["normalisation"] = old["protocol"].pop("normalization")
    assert "MMD-CD" in compare([("old", old), ("new", new)])
    old["protocol"]["normalisation"] = "none"
    with pytest.raises(InputError, match="protocol normalization differs, 'none' and 'shape_bbox'"):
        compare([("old", old), ("new", new)])


def test_a_table_escapes_what_results_say():
    hostile = _with(details__notes=["one\nwith \x1b[31m color"], floor__what="a\nb|c", protocol__name="dpm\x1b[2J")
    text = compare([("label\nwith | and \x07", hostile)])
    assert all(line.isprintable() for line in text.split("\n"))
    assert r"Note: one\nwith \x1b[31m color." in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol__name": "pointflow"}, "protocol name differs, 'dpm' and 'pointflow'; .* never belong in one"),
        ({"protocol__normalization": "none"}, "protocol normalization differs, 'shape_bbox' and 'none'"),
        ({"protocol__split": "val"}, "protocol split differs, 'test' and 'val'"),
        ({"protocol__reference_points": "first"}, "protocol reference_points differs, None and 'first'"),
        ({"protocol__distances": ["cd"]}, r"protocol distances differs, \['cd', 'emd'\] and \['cd'\]"),
        ({"protocol__seed": 1}, "protocol seed differs, 2020 and 1"),
        ({"split": "val"}, "split differs, 'test' and 'val'; .* two reference sets"),
        ({"counts__points": 2048}, "points differs, 512 and 2048; fewer points mean larger distances"),
        ({"counts__points": [512, 2048]}, r"points differs, 512 and \[512, 2048\]"),
        ({"counts__reference": 64}, "number of reference differs, 100 and 64"),
        ({"counts__samples": 50}, "number of samples differs, 100 and 50"),
        ({"details__EMD__method": "auction"}, "EMD method differs, 'exact' and 'auction'"),
        ({"dataset__reference__sha256": "ef"}, "reference set differs, 'abab.*' and 'ef'; .* two reference sets"),
    ],
)
def test_what_does_not_belong_in_one_table_is_refused(changes, message):
    with pytest.raises(InputError, match=f"^a and b: {message}") as caught:
        compare([("a", RESULT), ("b", _with(**changes))])
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"^middle and b: "):  # not only the first is asked
        compare([("middle", RESULT), ("a", RESULT), ("b", _with(**changes))])


def test_a_gap_in_the_first_result_does_not_hide_a_difference_of_the_others():
    with pytest.raises(InputError, match=r"^b and c: protocol seed differs"):
        compare([("a", _with(protocol__seed=...)), ("b", RESULT), ("c", _with(protocol__seed=1))])


def test_an_older_result_is_accepted_and_what_it_lacks_is_told():
    old = _with(
        protocol__seed=..., protocol__split=..., intervals=..., floor=..., details=..., counts__points=[512, 512]
    )
    old["dataset"] = {"samples": "a.npy", "reference": "b.npy"}
    table = compare([("new", RESULT), ("old", old)])
    assert (
        "Note (old): EMD method, protocol seed, protocol split, reference set, split not on record, "
        "taken to be as in the others." in table
    )
    assert _row(table, "old")[1] == "29.600"


def test_data_sets_of_older_results_are_told_apart_unless_the_reference_is_known():
    one, other = ({"name": "x", "fingerprint": f, "stand_in": True} for f in ("11", "22"))
    with pytest.raises(InputError, match="data set differs, '11' and '22'"):
        compare([("a", _with(dataset=one)), ("b", _with(dataset=other))])
    table = compare([("a", _with(dataset=one)), ("b", _with(dataset=one))])
    assert table.count("Note: scores on built-in STAND-IN shapes") == 1
    known = [_with(dataset=dataset | {"reference": {"sha256": "ab"}}) for dataset in (one, other)]
    assert _row(compare([("a", known[0]), ("b", known[1])]), "b")[1].startswith("29.600")


def test_different_floors_both_stand():
    other = _with(floor__scores={"MMD-CD": 0.02, "COV-CD": 50.0})
    assert compare([("a", RESULT), ("b", other), ("c", other)]).count("*training clouds*") == 2


def test_reconstructions_compare_among_themselves_only():
    one, other = _reconstructed(), _reconstructed(emd=False)
    one["oracle"] = {"what": "a resampled cloud", "scores": {"CD": 0.0}}
    table = compare([("one", one), ("other", other)])
    assert [cell.strip() for cell in table.splitlines()[0].split("|")[2:-1]] == [
        "CD ×10⁴ ↓",
        "CD median ×10⁴ ↓",
        "EMD ×10² ↓",
        "EMD median ×10² ↓",
        "F-score ↑",
        "F-score median ↑",
    ]
    assert _row(table, "other")[3] == "–"
    assert "*a resampled cloud*" in table
    assert "Reconstructions of 4 clouds, 32 points each." in table
    with pytest.raises(InputError, match=r"^one and new: reconstruction and generation scores; the two kinds"):
        compare([("one", one), ("new", RESULT)])
    with pytest.raises(InputError, match=r"F-score threshold differs, 0.001 and 0.01; score both with one thr"):
        compare([("one", one), ("b", _reconstructed(threshold=1e-2))])


def test_results_are_read_as_written(tmp_path):
    path = tmp_path / "ours.json"
    path.write_text(json.dumps(RESULT), encoding="utf-8")
    assert read_result(path) == RESULT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "got list"),
        ('{"scores": {"JSD": 1.0}}', "got one without 'counts'"),
        ('{"training": {}}', "got one without 'scores'"),
        (json.dumps(_with(scores={"loss": 1})), r"got no known score among \['loss'\]"),
        (json.dumps(_with(scores__JSD=float("nan"))), "got nan as JSD"),
        (json.dumps(_with(scores__JSD="low")), "got 'low' as JSD"),
        (json.dumps(_with(protocol="dpm")), "got str as 'protocol'"),
        (json.dumps(_with(protocol__name=...)), "got 'protocol' without 'name'"),
        (json.dumps(_with(counts__points=...)), "got 'counts' without 'points'"),
        (json.dumps(_with(protocol=...)), "got 'counts' without 'pairs'"),
        (json.dumps(_with(intervals={"JSD": [0, 1]})), "got 'intervals' without a 'level'"),
        (json.dumps(_with(intervals__JSD=[0.1])), r"got \[0.1\] as the interval of JSD"),
        (json.dumps(_with() | {"classes": {"chair": 3}}), r"got {'chair': 3} as classes"),
        (json.dumps(_with() | {"classes": {"chair": {"scores": {"JSD": "low"}}}}), "got 'low' as JSD"),
    ],
)
def test_what_is_no_result_is_refused(content, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(
        InputError, match=rf"x\.json: expected the JSON that evaluate.py writes, {message}"
    ) as caught:
        read_result(path)
    assert "\n" not in str(caught.value)


def test_missing_files_and_no_results(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: cannot be read \(No such file or directory\)"):
        read_result(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\); name the results.json"):
        read_result(tmp_path)
    with pytest.raises(InputError, match="results must hold at least one result, got none"):
        compare([])
    with pytest.raises(InputError, match=r"^x: expected the JSON"):
        compare([("x", {"scores": {}})])


def test_labels_tell_files_apart():
    assert label_files(["a/ours.json", "b/theirs.json"]) == ["ours", "theirs"]
    assert label_files(["runs/a/results.json", "runs/b/./results.json"]) == ["a/results", "b/results"]
    assert label_files(["one.json", "one.json"]) == ["one", "one"]
    assert label_files(["results.json", "a/results.json"]) == ["results", "a/results"]
    assert label_files([]) == []
