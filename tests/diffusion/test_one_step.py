"""Chains of one and two steps, of one number a sample: bounds, likelihoods and samplers against closed forms."""

import math

import numpy as np
import pytest
import torch
from exact_gaussian import gaussian

from pcdiff.diffusion import (
    PREDICTORS,
    DiscreteProcess,
    NoiseLevels,
    SamplingReport,
    chain_bound,
    log_likelihood,
    predictor,
    sample,
)
from pcdiff.errors import InputError

SHORT = {
    "ddpm, 1": lambda: DiscreteProcess(torch.tensor([0.9])),
    "ddpm, 2": lambda: DiscreteProcess(torch.tensor([0.4, 0.7])),
    "ncsn, 1": lambda: NoiseLevels(torch.tensor([3.0])),
    "ncsn, 2": lambda: NoiseLevels(torch.tensor([0.5, 3.0])),
}
# what goes from the last noise to the data in one step: to the estimate of x_0
TO_THE_ESTIMATE = (
    "ancestral",
    "kernel",
    "ddim",
    "heun",
    "edm",
    "dpmpp",
    "unipc",
    "ode",
    "srk",
    "adaptive_sde",
    "euler_maruyama",
    "none",
)


@pytest.fixture(params=sorted(SHORT))
def short(request):
    return SHORT[request.param]()


@pytest.fixture(params=[(1, 1), (1, 1, 1)], ids=["cloud of one number", "image of one pixel"])
def one(request):
    return request.param


def normal(x, mean, variance):
    """Return log N(x; mean, variance)."""
    return -((x - mean) ** 2 / variance + math.log(2 * math.pi * variance)) / 2


def divergence(mean, variance, other_mean, other_variance):
    """Return KL(N(mean, variance) || N(other_mean, other_variance))."""
    ratio = variance / other_variance
    return (ratio - 1 - math.log(ratio) + (mean - other_mean) ** 2 / other_variance) / 2


def scales(process, t):
    return (float(v) for v in process.scales(torch.tensor([t])))


def reverse(model, t):
    """Return slope, offset and variance of p(x_{t-1} | x_t), `slope x_t + offset`, of a model of one number."""
    process, now = model.process, torch.tensor([t])
    mean, spread = float(model.mean), float(model.covariance)
    alpha, sigma = scales(process, t)
    gain = alpha * spread / (alpha**2 * spread + sigma**2)
    x_weight, x0_weight = (float(v) for v in process.kernel(now, now - 1)[:2])
    variance = float(process.positive_posterior_variance(now, now - 1))
    return x_weight + x0_weight * gain, x0_weight * mean * (1 - gain * alpha), variance


def exact_bound(model, x0):
    """Return the bound of data x_0 in nats, the mean over all noise."""
    process, total = model.process, 0.0
    for t in range(1, process.num_steps + 1):
        slope, offset, variance = reverse(model, t)
        (alpha, sigma), now = scales(process, t), torch.tensor([t])
        x_weight, x0_weight, true_variance, _ = (float(v) for v in process.kernel(now, now - 1))
        # mean and variance, over x_t, of how far the model's mean lies from the true one
        lead = (slope - x_weight) * alpha * x0 + offset - x0_weight * x0
        square = lead**2 + ((slope - x_weight) * sigma) ** 2
        if t == 1:
            total -= normal(0, 0, variance) - square / (2 * variance)
        else:
            total += divergence(0, true_variance, 0, variance) + square / (2 * variance)
    alpha, sigma = scales(process, process.num_steps)
    return total + divergence(alpha * x0, sigma**2, 0, process.prior_std**2)


def exact_density(model, x0):
    """Return log p(x_0) of the model's own chain, prior and all: a Gaussian."""
    mean, variance = 0.0, model.process.prior_std**2
    for t in range(model.process.num_steps, 0, -1):
        slope, offset, added = reverse(model, t)
        mean, variance = slope * mean + offset, slope**2 * variance + added
    return normal(x0, mean, variance)


def test_the_bound_is_the_closed_form_and_no_less_than_the_density(short, one):
    """Every term is quadratic in its noise, so three nodes of Gauss and Hermite make its mean exact."""
    model = gaussian(short, one)
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(3))
    for value in (-1.3, 0.2, 2.0):
        x0 = torch.full((3, *one), value, dtype=torch.float64)
        bound = chain_bound(model, x0, noise=lambda x: nodes.view(-1, *[1] * len(one)))
        nats = float((bound.total * weights).sum() / weights.sum()) * math.log(2)
        assert nats == pytest.approx(exact_bound(model, value), rel=1e-10)
        assert nats > -exact_density(model, value)


def test_the_bound_is_met_where_the_model_knows_the_way_back(one):
    """Data N(0, 1) stay N(0, 1), and p(x_0 | x_1) is exact once its variance is: then the bound is the density."""

    class Knowing(type(gaussian(SHORT["ddpm, 1"](), one))):
        def reverse_kernel(self, x, t, s, cond=None, clip=None):
            kernel = super().reverse_kernel(x, t, s, cond, clip)
            variance = torch.full_like(kernel.log_variance, float(self.process.sigma(t[:1]) ** 2))
            return kernel._replace(log_variance=variance.log())

    model = Knowing(SHORT["ddpm, 1"](), torch.zeros(1).double(), torch.ones(1, 1).double())
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(3))
    x0 = torch.full((3, *one), 0.7, dtype=torch.float64)
    bound = chain_bound(model, x0, noise=lambda x: nodes.view(-1, *[1] * len(one)))
    nats = float((bound.total * weights).sum() / weights.sum()) * math.log(2)
    assert nats == pytest.approx(-normal(0.7, 0, 1), rel=1e-10)


def test_the_flow_of_two_steps_keeps_the_density(one):
    """From t = 1 to 2 the density changes as the noisy data's does."""
    for name in ("ddpm, 2", "ncsn, 2"):
        model = gaussian(SHORT[name](), one)
        x = torch.tensor([-0.8, 1.5], dtype=torch.float64).view(2, *one)
        result = log_likelihood(model, x, trace="exact", rtol=1e-9, atol=1e-9)
        change = result.log_likelihood - model.process.log_prior(result.z)
        for row in range(2):
            start, end = (
                normal(float(value), alpha * float(model.mean), alpha**2 * float(model.covariance) + sigma**2)
                for value, (alpha, sigma) in (
                    (x[row], scales(model.process, 1)),
                    (result.z[row], scales(model.process, 2)),
                )
            )
            assert float(change[row]) == pytest.approx(start - end, abs=1e-6)


def test_a_likelihood_within_the_only_step(one):
    """Between the data and the one step there is a flow, and N(0, 1) keeps its density along it."""
    model = gaussian(SHORT["ddpm, 1"](), one)
    model = type(model)(model.process, torch.zeros(1).double(), torch.ones(1, 1).double())
    x = torch.tensor([-0.8, 1.5], dtype=torch.float64).view(2, *one)
    result = log_likelihood(model, x, trace="exact", eps=0.25)
    for row, value in enumerate((-0.8, 1.5)):
        assert float(result.log_likelihood[row]) == pytest.approx(normal(value, 0, 1), abs=1e-5)
    with pytest.raises(InputError, match="a chain of one step has no flow"):
        log_likelihood(model, x)


@pytest.mark.parametrize("name", sorted(PREDICTORS))
def test_samplers_of_one_step(name, one):
    for kind in ("ddpm, 1", "ncsn, 1"):
        model, report = gaussian(SHORT[kind](), one), SamplingReport()
        start = torch.tensor([-0.8, 1.5, 3.0], dtype=torch.float64).view(3, *one)
        if name == "score_ancestral":
            with pytest.raises(InputError, match="of a chain take 'ancestral'"):
                sample(model, x_init=start, sampler=name)
            continue
        x, t = sample(model, x_init=start, sampler=name, report=report), torch.ones(3, dtype=torch.long)
        assert report.num_steps == 1
        if name in TO_THE_ESTIMATE:
            torch.testing.assert_close(x, model(start, t))
        else:
            f, _ = model.process.reverse_discretize(start, t, model.score(start, t))
            torch.testing.assert_close(x, start - f)


@pytest.mark.parametrize("name", sorted(set(PREDICTORS) - {"score_ancestral", "none"}))
def test_samplers_of_two_steps_stay_near_the_target(name, one):
    """Crude, the linear rules most of all, but of the right size: no step divides by what is 0 near the data."""
    for kind in ("ddpm, 2", "ncsn, 2"):
        model = gaussian(SHORT[kind](), one)
        generator = torch.Generator().manual_seed(0)
        start = model.process.prior_sample((4000, *one), generator, torch.float64)
        step = predictor(name, **({"rtol": 0.1, "atol": 0.1} if name == "adaptive_sde" else {}))
        x = sample(model, x_init=start, sampler=step, generator=generator)
        spread = float(model.covariance) ** 0.5
        assert abs(float(x.mean() - model.mean)) < 1.0 * spread
        assert 0.2 * spread < float(x.std()) < 2.5 * spread
