"""The bound in continuous time against a Gaussian's closed form and a mixture's density."""

import math

import pytest
import torch
from exact_mixture import ExactMixture, mixture

from pcdiff.diffusion import (
    ClassifierFreeGuidance,
    build_process,
    continuous_bound,
    discrete_process,
    nats_per_dim,
)
from pcdiff.errors import InputError

KINDS = {
    "vp": {},
    "subvp": {},
    "ve": {"sigma_min": 0.01, "sigma_max": 50.0},
    "edm": {},
    "rectified_flow": {},
}
MEAN, STD = 0.3, 0.4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(process, dims, mean=MEAN, std=STD):
    one = torch.ones(1, dtype=torch.float64)
    return ExactMixture(process, one, torch.full((1, *dims), mean, dtype=torch.float64), std * one)


def closed_form(process, x0, mean, std, eps):
    """Return prior, integral and decoder of one number x_0 in nats, for the exact score of N(mean, std^2).

    With r the SNR, E |eps_hat - eps|^2 = (r s^2 / (r s^2 + 1))^2 + r (x_0 - m)^2 / (r s^2 + 1)^2.
    """
    end = process.T - eps if float(process.alpha(torch.tensor([process.T]).double())) == 0 else process.T
    (alpha, last_alpha), (sigma, last_sigma) = (
        v.tolist() for v in process.scales(torch.tensor([eps, end], dtype=torch.float64))
    )

    def inner(r):
        grown = 1 + r * std**2
        return math.log(grown) + 1 / grown - (x0 - mean) ** 2 / std**2 / grown

    integral = (inner((alpha / sigma) ** 2) - inner((last_alpha / last_sigma) ** 2)) / 2
    # of the decoder: its mean is the estimate, whose error has a mean and a variance
    total = (alpha * std) ** 2 + sigma**2
    square = (sigma**2 / total * (mean - x0)) ** 2 + (alpha * std**2 / total * sigma) ** 2
    variance = (sigma / alpha) ** 2
    decoder = (math.log(2 * math.pi * variance) + square / variance) / 2
    ratio = (last_sigma / process.prior_std) ** 2
    prior = (ratio - 1 - math.log(ratio) + (last_alpha * x0 / process.prior_std) ** 2) / 2
    return prior, integral, decoder


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), (-0.5, 0.7)], ids=["exact", "another's score"])
def test_its_terms_are_the_closed_form(kind, mean, std, dims):
    """For any data and any Gaussian's score: within five standard errors of 200 samples of 40 times."""
    process, count, bits = build_process(kind, **KINDS[kind]), 200, math.log(2)
    size = torch.Size(dims).numel()
    for value in (-0.9, 0.3):
        x0 = torch.full((count, *dims), value, dtype=torch.float64)
        bound = continuous_bound(gaussian(process, dims, mean, std), x0, num_times=40, generator=seeded())
        prior, integral, decoder = closed_form(process, value, mean, std, process.train_eps)
        torch.testing.assert_close(bound.prior * bits, torch.full((count,), prior).double(), rtol=1e-6, atol=1e-9)
        for ours, theirs in ((bound.diffusion, integral), (bound.decoder, decoder)):
            error = ours.std() * bits / math.sqrt(count)
            assert abs(float(ours.mean()) * bits - theirs) < 5 * float(error) + 1e-6
        # the error that is told is that of one sample's draws, or more: the parts are drawn one by one
        assert float(bound.error.mean()) > 0.9 * float(bound.diffusion.std())
        torch.testing.assert_close(bound.total, bound.prior + bound.diffusion + bound.decoder)
        assert bound.total.shape == (count,)
        assert bound.diffusion.isfinite().all()
    assert size > 1


@pytest.mark.parametrize("kind", ["vp", "subvp", "rectified_flow"])
def test_it_is_tight_for_the_exact_score(kind):
    """-log p(x_0) to within the decoder's width, (C / v - 1 - log(C / v)) / 2, and the prior's distance."""
    process = build_process(kind)
    eps = process.train_eps
    for value in (-0.9, 0.3, 1.2):
        density = (math.log(2 * math.pi * STD**2) + ((value - MEAN) / STD) ** 2) / 2
        assert sum(closed_form(process, value, MEAN, STD, eps)) == pytest.approx(density, abs=2e-4)


def test_it_lies_above_the_likelihood_of_a_mixture(dims):
    model = mixture(build_process("vp"), dims)
    which = torch.multinomial(model.weights, 200, replacement=True, generator=seeded(1))
    noise = torch.randn(200, *dims, generator=seeded(2), dtype=torch.float64)
    x0 = model.means[which] + model.stds[which].view(-1, *[1] * len(dims)) * noise
    nats = nats_per_dim(model.log_density(x0, torch.zeros(200).double()), dims)
    exact = continuous_bound(model, x0, num_times=16, generator=seeded())
    gap = exact.total * math.log(2) - nats
    error = float(gap.std()) / math.sqrt(len(gap))
    assert -5 * error < float(gap.mean()) < 5 * error + 1e-3  # tight, as the score is exact
    off = mixture(build_process("vp"), dims)
    off.means = off.means + 0.3
    worse = continuous_bound(off, x0, num_times=16, generator=seeded()).total * math.log(2) - nats
    assert float((worse - gap).mean()) > 0.05


def test_it_is_a_loss_for_the_net_and_the_data(dims):
    """Its gradient in x_0 is that of -log p(x_0), for the exact score."""
    model, count = gaussian(build_process("vp"), dims), 300
    x0 = torch.full((count, *dims), 0.8, dtype=torch.float64, requires_grad=True)
    total = continuous_bound(model, x0, num_times=16, generator=seeded()).total * math.log(2) * x0[0].numel()
    (gradient,) = torch.autograd.grad(total.sum(), x0)
    expected, error = (0.8 - MEAN) / STD**2, gradient.std() / math.sqrt(gradient.numel())
    assert abs(float(gradient.mean()) - expected) < 5 * float(error) + 1e-3
    with torch.no_grad():
        assert not continuous_bound(model, x0, num_times=2, generator=seeded()).total.requires_grad


def test_images_of_whole_numbers_and_guided_models():
    model = gaussian(build_process("vp"), (1, 4, 4), mean=0.0, std=0.3)
    images = (torch.randint(60, 200, (8, 1, 4, 4), generator=seeded()) / 127.5 - 1).double()
    guided = ClassifierFreeGuidance(model, None, 1.0)
    options = {"decoder": "discretized", "num_times": 8}
    a, b = (continuous_bound(v, images, generator=seeded(1), **options) for v in (model, guided))
    torch.testing.assert_close(a.total, b.total)
    # P(k) = p(x) 2 / 255, as smooth a density as this
    density = (math.log(2 * math.pi * 0.09) + (images / 0.3).square()).flatten(1).mean(dim=1) / 2 / math.log(2)
    expected = density - math.log2(2 / 255)
    spread = 5 * float(a.error.mean()) / math.sqrt(8) + 0.05
    assert abs(float((a.total - expected).mean())) < spread


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_times": 0}, "num_times must be at least 1, got 0"),
        ({"eps": 1.0}, r"eps must be in \(0, 1\) for a bound, got 1"),
        ({"decoder": "bernoulli"}, r"decoder must be one of discretized, gaussian"),
    ],
)
def test_options_out_of_range(options, message, dims):
    with pytest.raises(InputError, match=message):
        continuous_bound(gaussian(build_process("vp"), dims), torch.zeros(2, *dims), **options)


def test_what_has_no_such_bound_is_refused(dims):
    with pytest.raises(InputError, match="is a chain, which has chain_bound"):
        continuous_bound(gaussian(discrete_process("linear", 10), dims), torch.zeros(2, *dims))
    with pytest.raises(InputError, match=r"x0 must be \(B, \*dims\) real numbers"):
        continuous_bound(gaussian(build_process("vp"), dims), torch.zeros(2, *dims).long())
