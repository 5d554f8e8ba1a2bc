"""The variational bound: its terms are divergences, its sum the likelihood, and what learns from it."""

import math

import pytest
import torch
from small_nets import Heads
from torch import nn

from pcdiff.diffusion import (
    OBJECTIVES,
    Denoiser,
    NetDenoiser,
    append_dims,
    discrete_process,
    discretized_log_likelihood,
    normal_kl,
    prior_bits,
    vlb_term,
)
from pcdiff.diffusion.losses.variational_bound import normal_cdf


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Affine(nn.Module):
    """Noise estimate 0.3 x^2 + 0.1, elementwise."""

    def forward(self, x, t, cond=None):
        return 0.3 * x.square() + 0.1


def test_hybrids_mean_learns_from_the_error_and_its_variance_from_the_bound(dims):
    process = discrete_process("linear", 20)
    denoiser = NetDenoiser(Heads(), process, variance="learned_range")
    x0, noise, t = draws(3, *dims), draws(3, *dims, seed=1), torch.tensor([1, 2, 20])
    parameters = list(denoiser.parameters())

    def gradients(name, **options):
        loss = OBJECTIVES[name](denoiser, x0, t, noise, **options).sum()
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    hybrid, error, bound = gradients("hybrid", vlb_weight=0.01), gradients("simple"), gradients("vlb")
    torch.testing.assert_close(hybrid[0], error[0])
    torch.testing.assert_close(hybrid[1], 0.01 * bound[1])
    value = OBJECTIVES["regression"](denoiser, x0, t, noise) + 0.01 * OBJECTIVES["vlb"](denoiser, x0, t, noise)
    torch.testing.assert_close(OBJECTIVES["hybrid"](denoiser, x0, t, noise, vlb_weight=0.01), value)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_bound_bounds_the_likelihood(schedule, dims):
    """Gaussian data, the exact reverse kernel: the terms add up to the entropy, in bits a dimension."""
    mean, std, steps, repeats = 0.7, 0.4, 100, 100

    class Fixed(Denoiser):
        def forward(self, x, t, cond=None):
            alpha, sigma = append_dims(self.process.alpha(t), x), append_dims(self.process.sigma(t), x)
            return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)

    class Exact(Fixed):
        def reverse_kernel(self, x, t, s, cond=None, clip=None):
            kernel = super().reverse_kernel(x, t, s, cond, clip)
            _, x0_weight, posterior, _ = self.process.kernel(t, s)
            alpha, sigma = self.process.alpha(t), self.process.sigma(t)
            unknown = (std * sigma).square() / ((alpha * std).square() + sigma.square())
            return kernel._replace(log_variance=append_dims((posterior + x0_weight**2 * unknown).log(), x))

    process = discrete_process(schedule, steps, 1e-3, 0.2)
    t = torch.arange(1, steps + 1).repeat(repeats)
    x0, noise = mean + std * draws(len(t), *dims), draws(len(t), *dims, seed=1)
    tight, loose = (
        OBJECTIVES["vlb"](model(process), x0, t, noise).view(repeats, steps).mean(dim=1)
        + prior_bits(process, x0).mean()
        for model in (Exact, Fixed)
    )
    entropy, error = math.log2(std * math.sqrt(2 * math.pi * math.e)), tight.std() / math.sqrt(repeats)
    assert abs(tight.mean() - entropy) < 5 * error
    assert error < 0.06
    assert loose.mean() > entropy + 5 * loose.std() / math.sqrt(repeats)  # the posterior's variance is too small


def test_the_bounds_terms_are_kl_divergences(dims):
    process = discrete_process("linear", 20)
    t = torch.arange(2, 21)
    x0, noise = draws(len(t), *dims), draws(len(t), *dims, seed=1)
    denoiser, x = NetDenoiser(Affine(), process, variance="large"), process.perturb(x0, t, noise)
    kernel = denoiser.reverse_kernel(x, t, t - 1)
    mean, variance, _ = process.posterior(x0, x, t, t - 1)
    normal = torch.distributions.Normal
    truth = normal(mean, append_dims(variance.sqrt(), x).expand_as(x))
    kl = torch.distributions.kl_divergence(truth, normal(kernel.mean, (kernel.log_variance / 2).exp().expand_as(x)))
    expected = kl.flatten(1).mean(dim=1) / math.log(2)
    torch.testing.assert_close(vlb_term(process, kernel, x0, x, t), expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(OBJECTIVES["vlb"](denoiser, x0, t, noise), 20 * expected, rtol=1e-8, atol=1e-12)


def test_the_first_step_is_the_decoders_density(dims):
    process, t = discrete_process("linear", 20), torch.ones(2, dtype=torch.long)
    x0, noise = draws(2, *dims), draws(2, *dims, seed=1)
    denoiser, x = NetDenoiser(Affine(), process), process.perturb(x0, t, noise)
    mean, log_variance, _ = denoiser.reverse_kernel(x, t, t - 1)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp().expand_as(x))
    expected = -normal.log_prob(x0).flatten(1).mean(dim=1) / math.log(2)
    torch.testing.assert_close(OBJECTIVES["vlb"](denoiser, x0, t, noise) / 20, expected)


def test_prior_bits_are_a_kl_divergence(dims, process):
    x0 = draws(3, *dims)
    mean, std = process.marginal(x0, torch.full((3,), process.num_steps or process.T))
    normal, prior = torch.distributions.Normal, process.prior_std
    kl = torch.distributions.kl_divergence(normal(mean, append_dims(std, x0).expand_as(x0)), normal(0.0, prior))
    expected = kl.flatten(1).mean(dim=1) / math.log(2)
    torch.testing.assert_close(prior_bits(process, x0), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("std", [1e-3, 0.02, 0.5, 3.0])
def test_the_256_values_share_all_probability(std):
    x = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean in (-1.4, 0.123, 1.0):
        log_p = discretized_log_likelihood(x, torch.tensor(mean), torch.tensor(math.log(std), dtype=torch.float64))
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_the_approximate_distribution_function_is_near():
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    error = (normal_cdf(x) - torch.special.ndtr(x)).abs().max()
    assert 1e-4 < error < 3e-4


def test_normal_kl_of_equals_is_zero():
    mean, log_variance = draws(5), draws(5, seed=1)
    assert not normal_kl(mean, log_variance, mean, log_variance).any()
