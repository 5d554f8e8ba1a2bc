"""What the nearest training clouds say: simulated copiers, honest and poor generators, and ties."""

import json

import numpy as np
import pytest
from scipy.stats import norm

from pcdiff.errors import InputError
from pcdiff.metrics.memorization import data_copying_test, memorization

TRAIN, HELD_OUT, SAMPLES = 200, 120, 100


def _nearest(points, train):
    distance = np.linalg.norm(points[:, None] - train[None], axis=2)
    return distance.min(axis=1), distance.argmin(axis=1)


def _report(make, seed=0):
    """The report on points in the plane, for samples `make(train, draws)` of a generator."""
    draws = np.random.default_rng(seed)
    train, held_out = draws.normal(size=(TRAIN, 2)), draws.normal(size=(HELD_OUT, 2))
    distance, index = _nearest(make(train, draws), train)
    return memorization(
        sample_distance=distance, sample_index=index, reference_distance=_nearest(held_out, train)[0]
    )


def test_a_generator_that_jitters_training_clouds_is_caught():
    report = _report(lambda train, draws: train[:SAMPLES] + 0.02 * draws.normal(size=(SAMPLES, 2)))
    assert report["C_T"] < -6
    assert report["C_T_p_value"] < 1e-6
    assert report["ratio"] < 0.5
    assert report["closer_than_5_percent_of_references"] > 0.1
    assert report["copies"] == 0
    assert report["summary"].startswith("none of 100 samples are copies of a training cloud; ")
    assert "points to copying" in report["summary"]


def test_an_honest_generator_passes():
    reports = [_report(lambda train, draws: draws.normal(size=(SAMPLES, 2)), seed) for seed in range(20)]
    assert all(abs(report["C_T"]) < 3 for report in reports)
    assert all("about as far" in report["summary"] for report in reports)
    assert np.mean([report["closer_than_5_percent_of_references"] for report in reports]) == pytest.approx(
        0.05, abs=0.02
    )
    assert np.mean([report["ratio"] for report in reports]) == pytest.approx(1, abs=0.1)


def test_a_generator_of_shapes_unlike_the_data_is_told_apart_from_a_copier():
    report = _report(lambda train, draws: 4 * draws.normal(size=(SAMPLES, 2)))
    assert report["C_T"] > 3
    assert report["C_T_p_value"] > 0.99
    assert "unlike the data" in report["summary"]


def test_exact_copies_are_counted_and_head_the_list():
    def make(train, draws):
        samples = draws.normal(size=(SAMPLES, 2))
        samples[[70, 7, 31]] = train[[5, 60, 5]]
        return samples

    report = _report(make)
    assert report["copies"] == 3
    assert report["closest_samples"][:3] == [7, 31, 70]
    assert len(report["closest_samples"]) == 8
    assert [report["train_index"][i] for i in (7, 31, 70)] == [60, 5, 5]
    assert report["summary"].startswith("3 of 100 samples are copies of a training cloud; ")
    assert "\n" not in report["summary"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_c_t_is_the_standardized_count_of_pairs(levels):
    draws = np.random.default_rng(levels)
    ours, held_out = draws.integers(levels, size=60) / 7, draws.integers(levels, size=45) / 7
    wins = (ours[:, None] > held_out).sum() + 0.5 * (ours[:, None] == held_out).sum()
    z, p_value = data_copying_test(ours, held_out)
    # The spread of U under the hypothesis, by shuffling who is a sample.
    both = np.concatenate([ours, held_out])
    shuffled = []
    for _ in range(4000):
        draws.shuffle(both)
        a, b = both[:60], np.sort(both[60:])
        shuffled.append(0.5 * (np.searchsorted(b, a) + np.searchsorted(b, a, "right")).sum())
    sigma = (wins - 60 * 45 / 2) / z
    assert sigma == pytest.approx(np.std(shuffled), rel=0.05)
    assert p_value == pytest.approx(norm.cdf(z + 0.5 / sigma), rel=1e-6)  # continuity: half a pair


def test_equal_distances_say_nothing_and_warn_of_nothing():
    report = memorization(sample_distance=[0.0] * 4, sample_index=[0, 1, 2, 3], reference_distance=[0.0] * 5)
    assert (report["C_T"], report["C_T_p_value"], report["ratio"]) == (0.0, 1.0, None)
    assert (report["copies"], report["reference_copies"]) == (4, 5)
    assert "5 of the held-out clouds are in the training set too" in report["summary"]
    lone = memorization(sample_distance=[0.0], sample_index=[3], reference_distance=[1.0])
    assert lone["summary"].startswith("1 of 1 samples is a copy of a training cloud; ")
    assert lone["C_T"] == pytest.approx(-1.0)  # U = 0, mean 1/2, variance 1 * 1 * 3 / 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_distance": [0.1, np.nan]}, r"sample_distance\[1\] must be finite, got nan"),
        ({"reference_distance": [0.2, 0.1, -1.0]}, r"reference_distance\[2\] .* got -1.0"),
        ({"reference_distance": []}, r"reference_distance must be distances \(n,\) with n >= 1, got shape \(0,\)"),
        ({"sample_distance": [[0.1, 0.2]]}, r"sample_distance .* got shape \(1, 2\)"),
        ({"sample_distance": "near"}, r"sample_distance must be distances \(n,\), got str"),
        ({"sample_index": [1]}, r"sample_index must be \(2,\), one for each sample_distance, got shape \(1,\)"),
        ({"sample_index": [0.5, 1.0]}, "sample_index must hold indices"),
        ({"sample_index": [0, -1]}, "sample_index must hold indices"),
        ({"suspects": -1}, "suspects must not be negative, got -1"),
    ],
)
def test_errors(change, message):
    settings = {"sample_distance": [0.1, 0.2], "sample_index": [0, 1], "reference_distance": [0.3]} | change
    with pytest.raises(InputError, match=message):
        memorization(**settings)
