"""Paired differences: closed forms, ties, what cannot be decided, and the formats of a comparison."""

import copy
import csv
import io
import json

import numpy as np
import pytest
from refusals import refused

from pcdiff.errors import InputError, UnknownName
from pcdiff.metrics import compare, evaluate, reconstruction_scores
from pcdiff.metrics.columns import all_columns
from pcdiff.metrics.paired import Terms, compared, difference_interval, terms_of
from pcdiff.metrics.tables import fitted, latex

COLUMN = {column.name: column for column in all_columns()}
NONE = np.zeros(0)


def draws(seed, count=200):
    return np.random.default_rng(seed).normal(size=count)


@pytest.mark.parametrize(("name", "sign"), [("MMD-CD", 1), ("COV-CD", -1)])
def test_a_constant_difference_is_certain_however_much_the_clouds_differ(name, sign):
    hard = 100 * draws(0)
    low, high = difference_interval(Terms(hard + 0.5, NONE), Terms(hard, NONE), COLUMN[name])
    # sums of 200 numbers of about 100 round to 1e-12
    assert (low, high) == pytest.approx((0.5 * sign, 0.5 * sign), abs=1e-9)


def test_the_width_is_that_of_the_differences_mean():
    """Of n = 400 normal differences of standard deviation s: 2 x 1.96 s / sqrt(n), to what 2,000 resamples tell."""
    hard, apart = 100 * draws(0, 400), draws(1, 400)
    low, high = difference_interval(Terms(hard + apart, NONE), Terms(hard, NONE), COLUMN["MMD-CD"], resamples=2000)
    assert high - low == pytest.approx(2 * 1.96 * apart.std() / 20, rel=0.1)
    assert (low + high) / 2 == pytest.approx(apart.mean(), abs=0.02)


def test_1_nna_counts_from_50_and_resamples_each_sets_votes():
    """Votes of 60 and 100 %: 10 and 50 from 50; the second has no spread, the first sqrt(0.24 / 400) = 2.4 %."""
    votes = 100.0 * (np.arange(200) % 5 < 3)
    near, far = Terms(votes, votes), Terms(np.full(200, 100.0), np.full(200, 100.0))
    low, high = difference_interval(far, near, COLUMN["1-NNA-CD"], resamples=2000)
    assert (low + high) / 2 == pytest.approx(40.0, abs=0.5)
    assert high - low == pytest.approx(2 * 1.96 * 100 * (0.24 / 400) ** 0.5, rel=0.1)


def test_medians_are_of_the_resampled_clouds():
    values = draws(3)
    low, high = difference_interval(
        Terms(values + 1, NONE, True), Terms(values, NONE, True), COLUMN["CD-median"], resamples=200
    )
    assert (low, high) == pytest.approx((1.0, 1.0))


@pytest.fixture(scope="module")
def results():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(40, 16, 3))

    def scored(samples):
        return json.loads(json.dumps(evaluate(samples=samples, reference=reference, emd=False, resamples=50)))

    # each nearer at every other cloud, by as much
    noise, turns = 0.05 * rng.normal(size=reference.shape), np.where(np.arange(40) % 2, 0.8, 1.2)[:, None, None]
    near, also = reference + turns * noise, reference + (2 - turns) * noise
    return {"near": scored(near), "also": scored(also), "far": scored(5 * rng.normal(size=(40, 16, 3)) ** 3)}


def test_terms_on_record_are_those_that_scores_are_means_of(results):
    for result in results.values():
        for name in ("MMD-CD", "COV-CD", "1-NNA-CD"):
            terms = terms_of(result, name)
            assert terms.score(terms.shared[None], terms.own[None])[0] == pytest.approx(result["scores"][name])
        assert terms_of(result, "JSD") is None


def test_the_best_and_its_ties_are_bold_and_told(results):
    table = compare(list(results.items()))
    mmd = {line.split("|")[1].strip(): line.split("|")[2] for line in table.splitlines() if line.startswith("| ")}
    assert [name for name in results if "**" in mmd[name]] == ["near", "also"]
    assert "Bold: the best score and its ties, where a paired bootstrap (95 %) shows" in table
    assert "Ties with the best score: MMD-CD (" in table


def test_a_result_without_terms_is_told_by_intervals_or_not_at_all(results):
    old = {name: {key: part for key, part in result.items() if key != "terms"} for name, result in results.items()}
    column = COLUMN["MMD-CD"]
    assert compared(old["far"], old["near"], column, True) == "worse"  # intervals far apart
    assert compared(old["also"], old["near"], column, True) == "undecided"
    assert compared(results["also"], results["near"], column, True) == "tie"
    assert compared(results["also"], results["near"], column, False) == "undecided"  # perhaps other clouds
    table = compare([("near", old["near"]), ("also", old["also"])])
    assert "**" not in table
    assert "Cannot be decided: MMD-CD (" in table


def test_reconstructions_are_compared_cloud_by_cloud():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(30, 16, 3))
    noise = rng.normal(size=reference.shape)
    good, bad = (
        reconstruction_scores(reconstructions=reference + s * noise, reference=reference, emd=False)
        for s in (0.1, 0.11)
    )
    for result in (good, bad):
        result["dataset"] = {"reference": {"sha256": "ab"}}
    assert compared(bad, good, COLUMN["CD"], True) == "worse"
    line = next(line for line in compare([("bad", bad), ("good", good)]).splitlines() if line.startswith("| good"))
    assert line.count("**") >= 2


def test_damaged_terms_are_refused(results):
    short = {key: [1] for key in results["near"]["terms"]["CD"]}
    for value in (3, {"CD": 3}, {"CD": {"covered": []}}, {"CD": short}):
        damaged = copy.deepcopy(results["near"]) | {"terms": value}
        with pytest.raises(InputError, match=r"^a: expected the JSON that evaluate\.py writes, got"):
            compare([("a", damaged)])


def test_csv_holds_the_scores_as_they_are(results):
    rows = list(csv.DictReader(io.StringIO(compare([*results.items()], "csv"))))
    found = {(row["row"], row["score"]): row for row in rows}
    for name, result in results.items():
        for score, value in result["scores"].items():
            assert float(found[name, score]["value"]) == value
            assert [float(found[name, score][end]) for end in ("low", "high")] == result["intervals"][score]
    assert {found[name, "MMD-CD"]["verdict"] for name in ("near", "also")} == {"best", "tie"}
    assert found["far", "MMD-CD"]["verdict"] == "worse"


def test_latex_escapes_and_balances(results):
    text = compare([("a_b & 5 %", results["near"]), ("far\\out", results["far"])], "latex")
    assert r"a\_b \& 5 \%" in text
    assert r"far\textbackslash{}out" in text
    assert r"\textbf{" in text
    assert r"MMD-CD $\times 10^3$ $\downarrow$" in text
    assert text.count("{") == text.count("}")
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in lines if "5 " not in line} == {5}
    assert all(line.startswith("%") for line in text.split(r"\begin")[0].splitlines())
    assert latex([("x", {"JSD": 0.5}, None)], bold={}).count(r"\midrule") == 1


def test_an_unknown_format_is_refused(results):
    with refused(UnknownName, what="format", name="html"):
        compare([("a", results["near"])], "html")


@pytest.mark.parametrize("width", [60, 80, 120, 1000])
def test_a_table_fits_the_terminal_and_loses_nothing(results, width):
    text = compare([("near", results["near"]), (r"b|c", results["far"])])
    narrow = fitted(text, width)
    tables = [line for line in narrow.splitlines() if line.startswith("|")]
    assert max(map(len, tables)) <= width
    assert narrow == text if width == 1000 else narrow != text
    for line in text.splitlines():
        for cell in line.split(" | ") if line.startswith("|") else [line]:
            assert cell.strip("| ") in narrow
    assert fitted(text, None) == text
