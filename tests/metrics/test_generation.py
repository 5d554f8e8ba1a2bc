"""MMD, coverage and 1-NNA on cases whose answer is known."""

import numpy as np
import pytest

from pcdiff.errors import InputError
from pcdiff.metrics import coverage, generation_scores, mmd, one_nna


def _matrices(samples, reference):
    """Distance matrices of points on a line."""
    s, r = np.asarray(samples, float), np.asarray(reference, float)
    return tuple(np.abs(a[:, None] - b[None]) for a, b in ((s, r), (r, r), (s, s)))


def _clusters(offset, n=6, points=32, seed=0):
    return (np.random.default_rng(seed).normal(size=(n, points, 3)) + offset).astype(np.float32)


def test_mmd_is_a_mean_over_references_not_samples():
    across = np.array([[1.0, 5.0, 9.0], [4.0, 2.0, 8.0]])  # 2 samples, 3 references
    assert mmd(across) == pytest.approx((1 + 2 + 8) / 3)


def test_coverage_counts_references_and_not_samples():
    across = np.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.5, 0.5, 0.5], [0.9, 0.9, 0.9, 0.2]])
    assert coverage(across) == (0.5, 0)


def test_mode_collapse_covers_one_reference():
    across, *_ = _matrices([1.01] * 5, [0, 1, 2, 3, 4])
    assert coverage(across).share == pytest.approx(1 / 5)


def test_coverage_reports_ties():
    assert coverage(np.array([[1.0, 1.0, 2.0], [3.0, 1.0, 2.0]])) == (2 / 3, 1)


def test_disjoint_clusters_are_told_apart():
    result = one_nna(*_matrices([0, 1, 2, 3], [100, 101, 102, 103]))
    assert (result.accuracy, result.samples, result.reference) == (100, 100, 100)
    assert (result.ties, result.copies) == (0, 0)


def test_one_nna_by_hand():
    # samples 0 and 10, references 1 and 4: 0 -> 1 wrong, 10 -> 4 wrong, 1 -> 0 wrong, 4 -> 1 right.
    result = one_nna(*_matrices([0, 10], [1, 4]))
    assert result == (25.0, 0.0, 50.0, 0, 0)


def test_copies_of_the_references_score_zero_and_are_counted():
    result = one_nna(*_matrices([0, 1, 3, 7], [0, 1, 3, 7]))
    assert (result.accuracy, result.ties, result.copies) == (0, 0, 4)


@pytest.mark.parametrize("repeats", [2, 3])
def test_duplicates_in_both_sets_tie_and_score_fifty(repeats):
    result = one_nna(*_matrices([0, 1, 3] * repeats, [0, 1, 3] * repeats))
    assert (result.accuracy, result.ties) == (50, 6 * repeats)


def test_a_tie_counts_one_half_whatever_the_order_of_the_sets():
    # 1 lies midway between sample 0 and reference 2, as a sample or as a reference.
    as_sample = one_nna(*_matrices([0, 1], [2, 30]))
    as_reference = one_nna(*_matrices([2, 30], [0, 1]))
    assert as_sample.ties == as_reference.ties == 1
    assert as_sample.accuracy == as_reference.accuracy
    assert as_sample.samples == as_reference.reference == 75


def test_rounding_does_not_hide_a_tie_and_a_small_gap_is_none():
    across, rr, ss = _matrices([0, 1], [2, 30])
    assert one_nna(across * (1 + 1e-7), rr, ss).ties == 1
    assert one_nna(across * (1 + 1e-4), rr, ss).ties == 0


def test_the_diagonal_is_not_read():
    across, rr, ss = _matrices([0, 1, 5], [2, 9, 4.5])
    np.fill_diagonal(rr, np.inf)
    np.fill_diagonal(ss, 123.0)
    assert one_nna(across, rr, ss) == one_nna(*_matrices([0, 1, 5], [2, 9, 4.5]))


def test_order_of_clouds_does_not_matter():
    g = np.random.default_rng(3)
    s, r = g.normal(size=20), g.normal(size=20)
    shuffled = _matrices(g.permutation(s), g.permutation(r))
    original = _matrices(s, r)
    assert one_nna(*shuffled) == one_nna(*original)
    assert coverage(shuffled[0]) == coverage(original[0])
    assert mmd(shuffled[0]) == pytest.approx(mmd(original[0]), rel=1e-12)


def test_two_draws_of_one_distribution_score_near_fifty():
    g = np.random.default_rng(0)
    assert abs(one_nna(*_matrices(g.normal(size=500), g.normal(size=500))).accuracy - 50) < 8


def test_scores_of_disjoint_sets_of_clouds():
    scores = generation_scores(samples=_clusters(0), reference=_clusters(50, seed=1))
    for name in ("CD", "EMD"):
        assert scores[f"1-NNA-{name}"] == 100
        assert scores["details"][name]["|1-NNA-50|"] == 50
    # Between clusters at offset (50, 50, 50): the distance of the means, up to the clouds' own spread.
    assert scores["MMD-EMD"] == pytest.approx(50 * 3**0.5, rel=0.02)
    assert scores["MMD-CD"] == pytest.approx(2 * 3 * 50**2, rel=0.1)


def test_scores_of_identical_sets():
    clouds = _clusters(0)
    scores = generation_scores(samples=clouds, reference=clouds.copy())
    for name in ("CD", "EMD"):
        assert scores[f"MMD-{name}"] == pytest.approx(0, abs=1e-7)
        assert scores[f"COV-{name}"] == 100
        assert scores[f"1-NNA-{name}"] == 0
        assert scores["details"][name]["copies"] == 6


def test_the_order_of_points_does_not_matter():
    g = np.random.default_rng(1)
    a, b = _clusters(0), _clusters(0.2, seed=5)
    shuffled = np.stack([cloud[g.permutation(len(cloud))] for cloud in a])
    first, second = generation_scores(samples=a, reference=b), generation_scores(samples=shuffled, reference=b)
    for name in ("CD", "EMD"):
        assert second[f"MMD-{name}"] == pytest.approx(first[f"MMD-{name}"], rel=1e-5)
        assert second[f"1-NNA-{name}"] == first[f"1-NNA-{name}"]


def test_progress_ends_at_the_total_and_never_falls():
    seen = []
    generation_scores(samples=_clusters(0), reference=_clusters(1), progress=lambda *step: seen.append(step))
    assert seen == sorted(seen)
    assert seen[-1] == (2 * (36 + 15 + 15),) * 2


def test_unequal_sets_are_refused_with_the_reason():
    with pytest.raises(InputError, match=r"equally many clouds, got 6 and 5: coverage and 1-NNA"):
        generation_scores(samples=_clusters(0), reference=_clusters(0, n=5), distances=["cd"])


def test_unequal_point_counts_serve_cd_but_not_emd():
    a, b = _clusters(0, points=32), _clusters(0, points=20, seed=2)
    assert generation_scores(samples=a, reference=b, distances=["cd"])["MMD-CD"] > 0
    with pytest.raises(InputError, match="equal point counts, got samples with 32 and reference with 20"):
        generation_scores(samples=a, reference=b)


def test_unknown_distance_lists_the_known():
    with pytest.raises(InputError, match=r"\['cd', 'emd'\], got \['l2'\]"):
        generation_scores(samples=_clusters(0), reference=_clusters(1), distances=["l2"])


def test_one_cloud_cannot_be_left_out():
    with pytest.raises(InputError, match="at least 2"):
        generation_scores(samples=_clusters(0, n=1), reference=_clusters(1, n=1), distances=["cd"])
    with pytest.raises(InputError, match="at least 2"):
        one_nna(np.ones((1, 3)), np.ones((3, 3)), np.zeros((1, 1)))


def test_matrices_must_fit_and_hold_numbers():
    with pytest.raises(InputError, match=r"reference_reference must be \(3, 3\)"):
        one_nna(np.ones((2, 3)), np.ones((2, 2)), np.ones((2, 2)))
    with pytest.raises(InputError, match=r"sample_reference\[0, 1\] is NaN"):
        mmd(np.array([[1.0, np.nan]]))
    with pytest.raises(InputError, match="must be a matrix"):
        coverage(np.ones(3))


def test_a_bad_cloud_is_named():
    clouds = _clusters(0)
    clouds[4, 2, 1] = np.nan
    with pytest.raises(InputError, match=r"reference\[4\] holds NaN or inf \(1 of 6"):
        generation_scores(samples=_clusters(1), reference=clouds)
