"""Scores of images against the peers' own numbers, closed forms, and torchmetrics."""

import golden_files
import numpy as np
import pytest
import torch

from image_pipeline.metrics import (
    FeatureMoments,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    squared_mmd,
)
from image_pipeline.metrics.kernel import ESTIMATORS, random_subsets
from image_pipeline.metrics.manifold import radii
from pcdiff.errors import InputError


@pytest.fixture
def tables(golden):
    read = golden_files.tables(golden, "2d/metrics/metrics*.npz").values()
    return [{key: torch.from_numpy(np.asarray(value)) for key, value in table.items()} for table in read]


def moments_of(features):
    return FeatureMoments.empty(features.shape[1]).add(features)


def made(count, dims=5, seed=0, shift=0.0):
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


@pytest.mark.golden
def test_frechet_distance_against_the_peers(tables):
    for table in tables:
        cases = {key.split(".")[1] for key in table if key.startswith("fid.")}
        assert cases
        for case in cases:
            given = [table[f"fid.{case}.{name}"] for name in ("mu1", "sigma1", "mu2", "sigma2")]
            found = frechet_distance(*given)
            scale = float(given[1].trace() + given[3].trace())
            # of singular covariances their roots keep half of the digits; ours keep all, see the test on few images
            tolerance = 1e-12 if case != "singular" and given[0].dtype == torch.float64 else 2e-8
            for name in ("own_symmetric", "pytorch_fid", "torch_fidelity"):
                if f"fid.{case}.{name}" in table:
                    assert abs(found - float(table[f"fid.{case}.{name}"])) <= tolerance * scale, (case, name, found)


@pytest.mark.golden
@pytest.mark.parametrize("batch", [7, 1000])
def test_moments_against_the_peers(tables, batch):
    for table in tables:
        for side in "12":
            moments = FeatureMoments.empty(table[f"features_{side}"].shape[1])
            for part in table[f"features_{side}"].split(batch):
                moments = moments.add(part)
            torch.testing.assert_close(moments.mean, table[f"fid.regular.mu{side}"], rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(
                moments.covariance(), table[f"fid.regular.sigma{side}"], rtol=1e-11, atol=1e-12
            )


@pytest.mark.golden
def test_kernel_distance_against_torch_fidelity(tables):
    for table in tables:
        x, y = table["features_1"], table["features_2"]
        first, second = table["kid.subset_idx_1"], table["kid.subset_idx_2"]
        seed = int(table["kid.rng_seed"])
        for mine, a, b in zip(random_subsets(len(x), len(y), *first.shape, seed), first, second, strict=True):
            assert np.array_equal(mine[0], a)
            assert np.array_equal(mine[1], b)
        for name in ESTIMATORS:
            found = [squared_mmd(x[a], y[b], name) for a, b in zip(first, second, strict=True)]
            np.testing.assert_allclose(found, table[f"kid.per_subset_{name}_recomputed"], rtol=1e-11)
        found = kernel_distance(x, y, *first.shape, seed)
        assert found.mean == pytest.approx(float(table["kid.mean"]), rel=1e-12)
        assert found.std == pytest.approx(float(table["kid.std_ddof0"]), rel=1e-12)
        count = int(table["kid.full_n"])
        assert squared_mmd(x[:count], y[:count]) == pytest.approx(
            float(table["kid.full_unbiased_first_n"]), rel=1e-12
        )


@pytest.mark.golden
def test_inception_score_against_torch_fidelity(tables):
    for table in tables:
        logits = table["is.logits"]
        for name, seed in (("in_order", None), ("shuffled", int(table["kid.rng_seed"]))):
            found = inception_score(logits, len(table[f"is.{name}.per_split"]), seed)
            assert found.mean == pytest.approx(float(table[f"is.{name}.mean"]), rel=1e-12)
            assert found.std == pytest.approx(float(table[f"is.{name}.std_ddof0"]), rel=1e-10)
        assert inception_score(logits, 1).mean == pytest.approx(float(table["is.one_split"]), rel=1e-12)


@pytest.mark.golden
@pytest.mark.parametrize("pairs", [100, 1 << 24])
def test_precision_and_recall_against_the_paper(tables, pairs, monkeypatch):
    monkeypatch.setattr("image_pipeline.metrics.manifold._BLOCK_PAIRS", pairs)
    for table in tables:
        generated, real = table["prc.generated"], table["prc.real"]
        neighbors = sorted(int(key.split(".")[1][1:]) for key in table if key.endswith(".precision"))
        assert neighbors
        for k in neighbors:
            found = precision_recall(generated, real, k)
            for name in ("precision", "recall"):
                assert getattr(found, name) == pytest.approx(float(table[f"prc.k{k}.{name}"]), rel=1e-14)
            # theirs is computed in float32
            assert found.f_score == pytest.approx(float(table[f"prc.k{k}.f_score"]), rel=2e-7)
            torch.testing.assert_close(radii(generated, k), table[f"prc.k{k}.radii_generated"], rtol=1e-12, atol=0)
            torch.testing.assert_close(radii(real, k), table[f"prc.k{k}.radii_real"], rtol=1e-12, atol=0)


def test_frechet_distance_in_closed_form():
    """Covariances that commute: |m - n|^2 + sum (sqrt a - sqrt b)^2 of their eigenvalues."""
    rotation = torch.linalg.qr(made(6, 6))[0]
    a, b = torch.tensor([[0.0, 1, 4, 9, 0.5, 2], [1.0, 0, 4, 1, 2.5, 3]], dtype=torch.float64)
    m, n = made(2, 6, seed=1)
    expected = float((m - n).square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    first, second = ((rotation * x) @ rotation.T for x in (a, b))
    assert frechet_distance(m, first, n, second) == pytest.approx(expected, rel=1e-13)
    assert frechet_distance(n, second, m, first) == pytest.approx(expected, rel=1e-13)
    one = torch.ones(1, 1)
    assert frechet_distance(torch.zeros(1), one, torch.tensor([3.0]), 4 * one) == pytest.approx(9 + 1)


@pytest.mark.parametrize(("count", "other"), [(12, 15), (3, 40), (2, 2)])
def test_frechet_distance_of_few_images(count, other):
    """Fewer images than features: from the rows themselves no covariance is needed, and no root."""
    a, b = made(count, 24, seed=1), made(other, 24, seed=2, shift=0.5) * 2
    rows = [(x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    apart = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    expected = apart + sum(x.square().sum() for x in rows) - 2 * torch.linalg.svdvals(rows[0] @ rows[1].T).sum()
    m, n = moments_of(a), moments_of(b)
    found = frechet_distance(m.mean, m.covariance(), n.mean, n.covariance())
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_moments_of_parts_far_from_zero():
    features = made(200, 4, shift=1e7)
    whole = moments_of(features)
    parts = [moments_of(part) for part in features.split([3, 90, 1, 106])]
    merged = FeatureMoments.empty(4)
    for part in parts:
        merged = merged.merge(part)
    assert merged.count == whole.count == 200
    expected = torch.from_numpy(np.cov((features - 1e7).numpy(), rowvar=False))
    for moments in (whole, merged):
        torch.testing.assert_close(moments.covariance(), expected, rtol=1e-6, atol=1e-8)
    assert FeatureMoments.empty(4).merge(FeatureMoments.empty(4)).count == 0
    assert whole.add(features[:0]) is whole


def test_squared_mmd_by_hand():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [0.0]])
    # kernels: x: (1 1; 1 8), y: (125 1; 1 1), across: (1 1; 27 1)
    assert squared_mmd(x, y, "biased") == pytest.approx(11 / 4 + 128 / 4 - 2 * 30 / 4)
    assert squared_mmd(x, y) == pytest.approx(1 + 1 - 2 * 30 / 4)
    assert squared_mmd(x, y, "u-statistic") == pytest.approx(1 + 1 - 2 * 28 / 2)


def test_inception_score_in_closed_form():
    sure = torch.eye(8).repeat(5, 1) * 1e4
    assert inception_score(sure, 1).mean == pytest.approx(8)
    assert inception_score(torch.full((40, 8), -torch.inf).masked_fill(sure > 0, 0.0), 1).mean == pytest.approx(8)
    assert inception_score(torch.zeros(40, 8), 4).mean == pytest.approx(1)
    assert inception_score(torch.zeros(40, 8), 4).std == pytest.approx(0, abs=1e-12)


def test_precision_and_recall_by_hand():
    real = torch.tensor([[0.0, 0], [1, 0], [2, 0], [10, 0]])
    generated = torch.tensor([[0.5, 0], [0.5, 0], [20, 0]])
    found = precision_recall(generated, real, 1)
    assert (found.precision, found.recall) == (2 / 3, 3 / 4)  # radii 1 1 1 8 and 0 0 19.5
    assert precision_recall(real, real.clone(), 1).f_score == 1
    far = precision_recall(generated + 1e4, real, 1)
    assert (far.precision, far.recall, far.f_score) == (0, 0, 0)


def test_duplicates_count():
    real = made(30, 3, seed=3, shift=100.0)
    assert precision_recall(torch.cat([real, real]), torch.cat([real, real]), 1).precision == 1
    assert not radii(torch.cat([real, real]), 1).any()


@pytest.mark.filterwarnings("ignore:Metric .* will save all extracted features:UserWarning")
def test_torchmetrics_gives_the_same():
    pytest.importorskip("torchmetrics")
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    net = torch.nn.Flatten()
    net.num_features = 5
    x, y = made(60, seed=1), made(40, seed=2, shift=0.3)
    fid = FrechetInceptionDistance(feature=net, normalize=True)
    fid.update(x, real=True)
    fid.update(y, real=False)
    a, b = moments_of(x), moments_of(y)
    mine = frechet_distance(a.mean, a.covariance(), b.mean, b.covariance())
    assert mine == pytest.approx(float(fid.compute()), rel=1e-6)
    kid = KernelInceptionDistance(feature=net, subsets=1, subset_size=40, normalize=True)
    kid.update(x[:40], real=True)
    kid.update(y, real=False)
    assert kernel_distance(y, x[:40], 1, 40).mean == pytest.approx(float(kid.compute()[0]), rel=1e-6)
    score = InceptionScore(feature=net, splits=1)
    score.update(x)
    with pytest.warns(UserWarning, match="degrees of freedom"):  # of its deviation over one split
        assert inception_score(x, 1).mean == pytest.approx(float(score.compute()[0]), rel=1e-6)


def test_errors():
    x = made(4)
    for call, message in (
        (lambda: moments_of(x[:1]).covariance(), "two images or more, got 1"),
        (lambda: moments_of(x).add(x[:, :2]), r"features must be \(B, 5\), got \(4, 2\)"),
        (lambda: moments_of(x * torch.nan), "features must be finite"),
        (lambda: frechet_distance(x[0], x, x[0], x), "must have one D"),
        (lambda: frechet_distance(x[0, :1] * torch.nan, x[:1, :1], x[0, :1], x[:1, :1]), "must be finite"),
        (lambda: squared_mmd(x, x, "best"), "unknown estimator 'best'; known are unbiased, biased, u-statistic"),
        (lambda: squared_mmd(x, x[:, :2]), r"got \(4, 5\), \(4, 2\)"),
        (lambda: squared_mmd(x, x[:3], "u-statistic"), "sets of one size, got 4 and 3"),
        (lambda: kernel_distance(x, x, 3, 5), r"subset_size must be in 2\.\.4"),
        (lambda: inception_score(x, 5), "at least num_splits 5"),
        (lambda: precision_recall(x, x[:, :2]), r"got \(4, 5\), \(4, 2\)"),
        (lambda: precision_recall(x, x, 4), r"neighbor must be in 1\.\.3"),
    ):
        with pytest.raises(InputError, match=message):
            call()
