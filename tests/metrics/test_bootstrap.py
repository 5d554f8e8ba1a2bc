"""Confidence intervals: how often they hold the truth, and that they are repeatable."""

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.metrics import bootstrap as module
from pcdiff.metrics import jsd_legacy, jsd_normalized
from pcdiff.metrics.bootstrap import jsd_interval, mean_interval, pooled_interval
from pcdiff.metrics.jsd import divergence, sphere_grid

RESOLUTION = 8
TRIALS = 100


def _covered(intervals, truth):
    return np.mean([low <= truth <= high for low, high in intervals])


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_a_normal_mean_holds_it_as_often_as_it_says(level):
    terms = np.random.default_rng(1).normal(3, 2, size=(600, 80))
    intervals = [mean_interval(row, resamples=500, level=level, name=f"{i}") for i, row in enumerate(terms)]
    # Three standard errors of Monte Carlo, and the percentile interval of 80 terms is short by about 1 %.
    error = 3 * np.sqrt(level * (1 - level) / len(terms))
    assert level - 0.015 - error < _covered(intervals, 3) < level + error
    # z sigma / sqrt(n) on either side
    width = np.mean([high - low for low, high in intervals])
    z = {0.8: 1.2816, 0.95: 1.9600}[level]
    assert width == pytest.approx(2 * z * 2 / np.sqrt(80), rel=0.03)


def test_groups_are_resampled_apart():
    # Pooled into one list, the share of each group would vary too: sd 100 sqrt(0.1 * 0.9 / 1000) = 0.95.
    draws = np.random.default_rng(0)
    low, high = pooled_interval(draws.normal(0, 1, 900), draws.normal(100, 1, 100))
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(1000), rel=0.12)
    assert low < 10 < high


def test_one_group_is_the_mean():
    terms = np.random.default_rng(0).random(50)
    assert pooled_interval(terms, name="x") == mean_interval(terms, name="x")
    assert mean_interval(torch.from_numpy(terms), name="x") == mean_interval(list(terms), name="x")


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_equal_terms_give_no_width(value):
    low, high = mean_interval(np.full(37, value))
    assert low == high == pytest.approx(value, rel=1e-12)
    assert mean_interval([value]) == (value, value)


def test_draws_depend_on_seed_and_name_alone(monkeypatch):
    terms = np.random.default_rng(0).random(50)
    first = mean_interval(terms, seed=1, name="MMD-CD")
    assert mean_interval(terms, seed=1, name="MMD-CD") == first
    assert mean_interval(terms, seed=2, name="MMD-CD") != first
    assert mean_interval(terms, seed=1, name="MMD-EMD") != first
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", 60)  # one resample at a time
    assert mean_interval(terms, seed=1, name="MMD-CD") == first


KINDS = np.random.default_rng(9).dirichlet(np.full(len(sphere_grid(RESOLUTION)), 0.3), size=6)


def _set(shares, clouds, points, draws):
    """Clouds on the grid's own points, each of a kind drawn by `shares`."""
    grid = sphere_grid(RESOLUTION)
    kinds = draws.choice(len(KINDS), size=clouds, p=shares)
    return np.stack([grid[draws.choice(len(grid), size=points, p=KINDS[kind])] for kind in kinds])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((0.3, 0.3, 0.1, 0.1, 0.1, 0.1), (0.1, 0.1, 0.2, 0.2, 0.2, 0.2)),
        pytest.param((1 / 6,) * 6, (1 / 6,) * 6, marks=pytest.mark.slow),
    ],
)
def test_the_interval_of_the_jsd_holds_the_mean_score_of_sets_of_its_size(ours, theirs):
    draws, truth = np.random.default_rng(4), divergence(np.array(ours) @ KINDS, np.array(theirs) @ KINDS)
    intervals, scores = [], []
    for trial in range(TRIALS):
        pair = _set(ours, 60, 50, draws), _set(theirs, 60, 50, draws)
        scores.append(jsd_legacy(*pair, RESOLUTION))
        intervals.append(jsd_interval(*pair, resolution=RESOLUTION, resamples=200, seed=trial))
    assert np.mean(scores) > truth + 0.01  # what chance adds; percentiles would count it twice
    # Three standard errors of Monte Carlo.
    assert _covered(intervals, np.mean(scores)) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / TRIALS)
    assert all(low <= score <= high for (low, high), score in zip(intervals, scores, strict=True))
    assert np.mean([high - low for low, high in intervals]) < 0.1
    assert all(0 <= low <= high <= 1 for low, high in intervals)


def test_the_jsd_interval_is_that_of_sets_resampled_by_hand():
    draws = np.random.default_rng(2)
    ours, theirs = draws.uniform(-0.5, 0.4, (12, 60, 3)), draws.uniform(-0.2, 0.7, (9, 60, 3))
    for normalized, score in ((False, jsd_legacy), (True, jsd_normalized)):
        low, high = jsd_interval(ours, theirs, resolution=RESOLUTION, normalized=normalized, level=0.8)
        by_hand = [
            score(ours[draws.integers(12, size=12)], theirs[draws.integers(9, size=9)], RESOLUTION)
            for _ in range(300)
        ]
        expected = score(ours, theirs, RESOLUTION) - np.mean(by_hand) + np.quantile(by_hand, [0.1, 0.9])
        np.testing.assert_allclose([low, high], np.clip(expected, 0, 1), atol=0.15 * np.ptp(expected))


def test_the_jsd_interval_is_repeatable_and_bounded():
    draws = np.random.default_rng(3)
    ours, theirs = draws.uniform(-0.4, -0.1, (5, 40, 3)), draws.uniform(0.1, 0.4, (5, 40, 3))
    assert jsd_interval(ours, theirs) == pytest.approx((1, 1), rel=1e-12)  # no cell in common, whatever is drawn
    assert jsd_interval(ours, ours)[0] == 0.0
    near = theirs - 0.3
    assert jsd_interval(ours, near, resolution=6) == jsd_interval(ours, near, resolution=6)
    assert jsd_interval(ours, near, resolution=6) != jsd_interval(ours, near, resolution=6, seed=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), r"terms must be numbers \(n,\) with n >= 1, got shape \(0,\)"),
        (lambda: mean_interval([[1.0]]), r"terms .* got shape \(1, 1\)"),
        (lambda: mean_interval([1.0, np.inf]), r"terms\[1\] must be finite, got inf"),
        (lambda: mean_interval(["near"]), r"terms must be numbers \(n,\), got list"),
        (lambda: pooled_interval([1.0], [np.nan]), r"groups\[1\]\[0\] must be finite, got nan"),
        (lambda: pooled_interval(), "groups must hold at least one group of terms, got none"),
        (lambda: mean_interval([1.0], resamples=0), "resamples must be at least 1, got 0"),
        (lambda: mean_interval([1.0], level=95), r"level must be in \(0, 1\), got 95"),
        (lambda: jsd_interval(np.zeros((2, 4)), np.zeros((2, 4, 3))), r"samples must be \(n, P, 3\)"),
        (
            lambda: jsd_interval(np.random.default_rng(0).random((2, 4, 3)), np.zeros((2, 4, 3)), normalized=True),
            r"reference\[0\] has zero extent",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()
