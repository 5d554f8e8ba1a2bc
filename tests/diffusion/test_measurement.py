"""Guidance by a measurement's gradient against a Gaussian's own posterior."""

import math

import pytest
import torch
from exact_gaussian import ExactGaussian

from pcdiff.diffusion import GUIDANCE, MeasurementGuidance, build_process, guidance, log_likelihood, sample
from pcdiff.errors import InputError

STD, NOISE = 0.6, 0.3
KINDS = ["vp", "ve", "edm", "ddpm"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def isotropic(kind, dims):
    options = {"ddpm": {"schedule": "cosine", "num_steps": 100}, "ve": {"sigma_max": 15.0}}.get(kind, {})
    size = torch.Size(dims).numel()
    covariance = STD**2 * torch.eye(size, dtype=torch.float64)
    return ExactGaussian(build_process(kind, **options), 0.3 * normal(size, seed=9), covariance)


def posterior(model, matrix, y):
    """Return the exact denoiser of p(x_0 | y), y `(m,)` with error of deviation NOISE."""
    error = NOISE**2 * torch.eye(len(matrix), dtype=torch.float64)
    gain = model.covariance @ matrix.T @ torch.linalg.inv(matrix @ model.covariance @ matrix.T + error)
    covariance = model.covariance - gain @ matrix @ model.covariance
    mean = model.mean + gain @ (y - matrix @ model.mean)
    return ExactGaussian(model.process, mean, (covariance + covariance.T) / 2)


def some_times(process):
    if process.num_steps:
        return torch.tensor([1, process.num_steps // 2, process.num_steps])
    return process.T * torch.tensor([0.01, 0.5, 1.0]).double()


@pytest.mark.parametrize("kind", KINDS)
def test_by_the_estimate_it_is_the_posterior_of_a_gaussian(kind, dims):
    """At every time, for a matrix whose rows are neither orthogonal nor equally long."""
    model = isotropic(kind, dims)
    matrix, y = normal(3, len(model.mean), seed=2), normal(3, seed=3)
    guided = MeasurementGuidance(model, y[None], matrix, NOISE, data_std=STD)
    exact, x, t = posterior(model, matrix, y), normal(3, *dims), some_times(model.process)
    for name in ("forward", "eps", "score"):
        ours, theirs = (getattr(denoiser, name)(x, t) for denoiser in (guided, exact))
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


def test_samples_and_likelihood_are_the_posteriors(dims):
    model, count = isotropic("vp", dims), 400
    matrix, y = normal(2, len(model.mean), seed=2), normal(2, seed=3)
    guided, exact = MeasurementGuidance(model, y[None], matrix, NOISE, data_std=STD), posterior(model, matrix, y)
    x = sample(guided, (count, *dims), sampler="dpmpp", num_steps=20, generator=seeded()).double().flatten(1)
    spread = exact.covariance.diag().sqrt()
    assert ((x.mean(dim=0) - exact.mean) / spread).abs().max() < 5 / math.sqrt(count) + 0.02
    assert (x.std(dim=0) / spread - 1).abs().max() < 5 / math.sqrt(2 * count) + 0.03
    data = exact.mean.view(1, *dims) + 0.3 * normal(2, *dims)
    ours, theirs = (log_likelihood(v, data, trace="exact", rtol=1e-4, atol=1e-4) for v in (guided, exact))
    torch.testing.assert_close(ours.log_likelihood, theirs.log_likelihood, rtol=0, atol=0.05)


def test_a_map_is_its_matrix(dims):
    """Of means over the last dimension: orthogonal rows, equally long."""
    model = isotropic("vp", dims)
    last, size = dims[-1], len(model.mean)
    matrix = torch.kron(torch.eye(size // last), torch.ones(1, last)).double() / last
    y, x, t = normal(1, size // last, seed=3), normal(3, *dims), some_times(model.process)
    of_map = MeasurementGuidance(model, y.view(1, *dims[:-1]), lambda v: v.mean(dim=-1), NOISE, data_std=STD)
    of_matrix = MeasurementGuidance(model, y, matrix, NOISE, data_std=STD)
    torch.testing.assert_close(of_map.score(x, t), of_matrix.score(x, t), rtol=1e-9, atol=1e-9)


def test_equation_50_draws_the_measurements_noise(dims):
    """The gradient is A^T (y_t - A x_t) / (alpha noise_std)^2, y_t = alpha y + sigma A z."""
    model, t = isotropic("vp", dims), torch.full((4000,), 0.4, dtype=torch.float64)
    matrix, y, x = normal(2, len(model.mean), seed=2), normal(2, seed=3), normal(1, *dims)
    guided = MeasurementGuidance(model, y[None], matrix, NOISE, likelihood="noisy", generator=seeded(5))
    alpha, sigma = (float(v) for v in model.process.scales(t[:1]))
    gradients = guided.gradient(x.expand(4000, *dims), t).flatten(1)
    width = (alpha * NOISE) ** 2
    mean = matrix.T @ (alpha * y - matrix @ x.flatten()) / width
    covariance = (sigma / width) ** 2 * matrix.T @ matrix @ matrix.T @ matrix
    error = covariance.diag().sqrt() / math.sqrt(4000)
    assert ((gradients.mean(dim=0) - mean).abs() / error).max() < 5
    assert (gradients.var(dim=0) / covariance.diag() - 1).abs().max() < 5 * math.sqrt(2 / 4000)
    with torch.no_grad():
        z = torch.randn(4000, *dims, generator=seeded(5), dtype=torch.float64)
        drawn = alpha * y + sigma * z.flatten(1) @ matrix.T
        expected = (drawn - x.flatten() @ matrix.T) @ matrix / width
    torch.testing.assert_close(gradients, expected)


def test_equation_50_comes_near_the_posterior_where_the_steps_are_short(dims):
    """Half a deviation at most from a measurement as uncertain as the data, 300 steps even in log-SNR."""
    model, count = isotropic("vp", dims), 300
    matrix, y = torch.eye(len(model.mean), dtype=torch.float64)[:2], torch.tensor([1.5, -1.0]).double()
    guided = MeasurementGuidance(model, y[None], matrix, STD, likelihood="noisy", generator=seeded(5))
    times = model.process.t_of_log_snr(torch.linspace(0.0, 8.0, 301, dtype=torch.float64))
    t = times[:1].expand(count)
    start = model.process.perturb(
        model.mean.view(1, *dims) + STD * normal(count, *dims), t, normal(count, *dims, seed=4)
    )
    x = sample(guided, x_init=start, sampler="euler_maruyama", grid=times, generator=seeded()).flatten(1)
    middle = (y + model.mean[:2]) / 2  # of equal variances
    assert (x[:, :2].mean(dim=0) - middle).abs().max() < 0.5 * STD
    assert ((x[:, 2:].mean(dim=0) - model.mean[2:]).abs() / STD).max() < 5 / math.sqrt(count) + 0.05


def test_by_name_and_what_does_not_fit(dims):
    model = isotropic("vp", dims)
    size = len(model.mean)
    options = {"denoiser": model, "known": normal(1, 2), "operator": normal(2, size), "noise_std": 0.1}
    assert isinstance(guidance("measurement", **options), MeasurementGuidance)
    with pytest.raises(InputError, match="guidance must be one of") as caught:
        guidance("gradient", **options)
    assert all(name in str(caught.value) for name in GUIDANCE)
    for change, message in (
        ({"noise_std": 0.0}, "noise_std must be positive, got 0.0"),
        ({"data_std": -1.0}, "data_std must be positive, got -1.0"),
        ({"likelihood": "exact"}, r"likelihood must be one of estimate, noisy, got 'exact'"),
        ({"known": normal(1, 2) / 0}, "must be finite"),
        ({"operator": normal(3, size)}, r"operator and known must be \(m, d\) and \(B, m\), got \(3, "),
    ):
        with pytest.raises(InputError, match=message):
            guidance("measurement", **options | change)
    guided = guidance("measurement", **options | {"operator": lambda v: v})
    with pytest.raises(InputError, match=r"the operator must measure what is known, \(1, 2\), got \(3, "):
        guided(normal(3, *dims), torch.full((3,), 0.5).double())
