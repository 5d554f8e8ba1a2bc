"""The sampler with exact scores: the moments and weights of known targets, on clouds and on images."""

import itertools
import math

import pytest
import torch

from pcdiff.diffusion import (
    PREDICTORS,
    Denoiser,
    DiscreteProcess,
    EpsDenoiser,
    Trajectory,
    append_dims,
    cosine_betas,
    discrete_process,
    linear_betas,
    predictor,
    sample,
)
from pcdiff.errors import InputError

MEAN, STD = 0.8, 0.4
FLEXIBILITIES = [0.0, 0.5, 1.0]


class Gaussian(Denoiser):
    """Exact denoiser of data N(MEAN, STD^2) in every coordinate."""

    def forward(self, x, t, cond=None):
        alpha, sigma = append_dims(self.process.alpha(t), x), append_dims(self.process.sigma(t), x)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)


class MixtureNoise(torch.nn.Module):
    """Exact noise estimate of a mixture of isotropic Gaussians about the constants `centers`."""

    def __init__(self, process, weights, centers, std):
        super().__init__()
        self.process, self.weights, self.centers, self.std = process, weights, centers, std

    def forward(self, x, t, cond=None):
        t = t.long()  # the index comes as a float
        alpha, sigma = append_dims(self.process.alpha(t), x), append_dims(self.process.sigma(t), x)
        variance = alpha**2 * self.std**2 + sigma**2
        offsets = torch.stack([x - alpha * center for center in self.centers])  # (K, B, *dims)
        log_p = -(offsets.square() / (2 * variance)).flatten(2).sum(dim=2)  # (K, B), the scale is common
        share = (log_p + torch.tensor(self.weights).log()[:, None]).softmax(dim=0)
        return sigma / variance * (share.view(*share.shape, *[1] * (x.dim() - 1)) * offsets).sum(dim=0)


def chain_moments(betas, num_steps, flexibility):
    """Return mean and standard deviation that the chain ends with: every step is affine, so they follow exactly."""
    alpha_bars = [1.0, *itertools.accumulate((1 - b for b in betas.tolist()), lambda a, b: a * b)]
    total = len(betas)
    times = [round(total - k * total / num_steps) for k in range(num_steps + 1)]
    mean, variance = 0.0, 1.0
    for t, s in itertools.pairwise(times):
        now, before = alpha_bars[t], alpha_bars[s]
        kernel = now / before  # squared scale of q(x_t | x_s)
        forward = 1 - kernel
        x_weight = math.sqrt(kernel) * (1 - before) / (1 - now)
        x0_weight = math.sqrt(before) * forward / (1 - now)
        gain = math.sqrt(now) * STD**2 / (now * STD**2 + 1 - now)
        slope = x_weight + x0_weight * gain
        mean = slope * mean + x0_weight * MEAN * (1 - gain * math.sqrt(now))
        noise = (1 - flexibility) * math.sqrt(forward * (1 - before) / (1 - now)) + flexibility * math.sqrt(forward)
        variance = slope**2 * variance + (noise**2 if s > 0 else 0.0)
    return mean, math.sqrt(variance)


def check_moments(x, mean, std):
    x = x.double()
    assert x.isfinite().all()
    assert abs(x.mean() - mean) < 5 * std / math.sqrt(x.numel())
    assert abs(x.std() / std - 1) < 5 / math.sqrt(2 * x.numel())


@pytest.mark.parametrize("flexibility", FLEXIBILITIES)
@pytest.mark.parametrize("num_steps", [50, 10, 3, 1])
def test_moments_of_a_gaussian_target(flexibility, num_steps, dims):
    """Coarse chains miss the target by a known amount: the samples must miss it by just that."""
    betas = linear_betas(50, 1e-3, 0.2)
    mean, std = chain_moments(betas, num_steps, flexibility)
    x = sample(
        Gaussian(DiscreteProcess(betas)),
        (3000, *dims),
        sampler=predictor("ancestral", flexibility=flexibility),
        num_steps=num_steps,
        generator=torch.Generator().manual_seed(0),
    )
    assert x.shape == (3000, *dims)
    check_moments(x, mean, std)


@pytest.mark.parametrize("flexibility", FLEXIBILITIES)
def test_a_fine_chain_reaches_the_target(flexibility, dims):
    betas = cosine_betas(400)
    mean, std = chain_moments(betas, 400, flexibility)
    assert mean == pytest.approx(MEAN, rel=2e-3)
    assert std == pytest.approx(STD, rel=2e-2)
    x = sample(
        Gaussian(DiscreteProcess(betas)),
        (400, *dims),
        sampler=predictor("ancestral", flexibility=flexibility),
        generator=torch.Generator().manual_seed(0),
    )
    check_moments(x, mean, std)


@pytest.mark.parametrize("flexibility", FLEXIBILITIES)
def test_coordinates_and_samples_are_independent(flexibility, dims):
    """A chain that drew one number where it should draw many would pass the moments."""
    x = sample(
        Gaussian(DiscreteProcess(cosine_betas(20))),
        (4000, *dims),
        sampler=predictor("ancestral", flexibility=flexibility),
        generator=torch.Generator().manual_seed(0),
    )
    correlation = torch.corrcoef(x.flatten(1).T)
    off_diagonal = correlation - torch.eye(len(correlation))
    assert off_diagonal.abs().max() < 5 / math.sqrt(4000)


@pytest.mark.parametrize("flexibility", FLEXIBILITIES)
@pytest.mark.parametrize("num_steps", [pytest.param(200, marks=pytest.mark.slow), 100])
def test_weights_and_moments_of_a_mixture(flexibility, num_steps, dims):
    weights, centers, std, count = (0.3, 0.7), (-0.5, 0.75), 0.2, 2500
    process = DiscreteProcess(cosine_betas(200))
    x = sample(
        EpsDenoiser(MixtureNoise(process, weights, centers, std), process, time_input="index"),
        (count, *dims),
        sampler=predictor("ancestral", flexibility=flexibility),
        num_steps=num_steps,
        generator=torch.Generator().manual_seed(1),
    )
    midpoint = sum(centers) / 2
    means = x.flatten(1).mean(dim=1)
    for weight, center, members in zip(weights, centers, (means < midpoint, means >= midpoint), strict=True):
        share = members.float().mean().item()
        assert abs(share - weight) < 5 * math.sqrt(weight * (1 - weight) / count)
        values = x[members].double()
        assert abs(values.mean() - center) < 0.01
        assert values.std().item() == pytest.approx(std, rel=0.09)


@pytest.mark.parametrize("num_steps", [None, 7, 1])
def test_trajectory_has_every_state_and_both_ends(num_steps, dims):
    process, trajectory = discrete_process("linear", 20), Trajectory()
    start = torch.randn(2, *dims, generator=torch.Generator().manual_seed(0))
    kept = start.clone()
    x = sample(
        Gaussian(process),
        x_init=start,
        num_steps=num_steps,
        generator=torch.Generator().manual_seed(1),
        callback=trajectory,
    )
    assert trajectory.states.shape == ((num_steps or 20) + 1, 2, *dims)
    assert torch.equal(trajectory.states[0], kept)
    assert torch.equal(trajectory.states[-1], x)
    assert torch.equal(start, kept)
    assert trajectory.times == process.time_grid(num_steps).tolist()
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(trajectory.states))


def test_seeds_repeat_and_no_other_randomness_is_used(dims):
    process, before = discrete_process("linear", 20), torch.get_rng_state()
    a, b, c = (
        sample(Gaussian(process), (3, *dims), generator=torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, b)
    assert not torch.isclose(a, c).any()


def test_draws_come_in_the_documented_order(dims):
    """The start first, then one draw a step but the last; given by hand they make the same samples."""
    process, by_generator = discrete_process("linear", 6), torch.Generator().manual_seed(3)
    x = sample(Gaussian(process), (2, *dims), generator=by_generator)
    by_hand = torch.Generator().manual_seed(3)
    given = [torch.randn(2, *dims, generator=by_hand) for _ in range(6)]
    assert torch.equal(by_hand.get_state(), by_generator.get_state())
    steps = iter(given[1:])
    assert torch.equal(x, sample(Gaussian(process), x_init=given[0], noise=lambda _: next(steps)))
    assert next(steps, None) is None


def test_the_last_step_is_the_denoised_mean(dims):
    process, trajectory = discrete_process("linear", 6), Trajectory()
    x = sample(Gaussian(process), (2, *dims), generator=torch.Generator().manual_seed(0), callback=trajectory)
    torch.testing.assert_close(x, Gaussian(process)(trajectory.states[-2], torch.ones(2, dtype=torch.long)))


@pytest.mark.parametrize("flexibility", [0.0, 0.3, 1.0])
def test_one_ancestral_step_written_out(flexibility, dims):
    process, draw = discrete_process("linear", 20, 1e-3, 0.2), torch.Generator().manual_seed(0)
    x, noise = (torch.randn(3, *dims, generator=draw, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([2, 9, 20])
    denoiser = Gaussian(process)
    x_s = predictor("ancestral", flexibility=flexibility)(denoiser, x, t, t - 1, None, lambda _: noise)
    for i, k in enumerate(t.tolist()):
        beta, now, before = (float(v) for v in (process.betas[k], process.alpha_bars[k], process.alpha_bars[k - 1]))
        eps = denoiser.eps(x[i : i + 1], t[i : i + 1])[0]
        mean = (x[i] - beta / math.sqrt(1 - now) * eps) / math.sqrt(1 - beta)  # Ho et al. (2020), eq. 11
        gamma = beta * (1 - before) / (1 - now)
        std = flexibility * math.sqrt(beta) + (1 - flexibility) * math.sqrt(gamma)
        torch.testing.assert_close(x_s[i], mean + std * noise[i])


def test_the_condition_reaches_the_net(dims):
    class Constant(Denoiser):
        def forward(self, x, t, cond=None):
            return append_dims(cond, x).expand_as(x)

    cond = torch.tensor([-1.0, 2.0])
    x = sample(
        Constant(discrete_process("linear", 5)), (2, *dims), cond=cond, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(x, append_dims(cond, x).expand_as(x))


def test_sampling_records_no_gradients(dims):
    process = discrete_process("linear", 3)
    weight = torch.ones((), requires_grad=True)

    class Scaled(Denoiser):
        def forward(self, x, t, cond=None):
            return weight * x

    assert not sample(Scaled(process), (1, *dims), generator=torch.Generator().manual_seed(0)).requires_grad


def test_double_precision_starts_stay_double(dims):
    x = sample(Gaussian(discrete_process("linear", 4)), x_init=torch.zeros(2, *dims, dtype=torch.float64))
    assert x.dtype == torch.float64


@pytest.mark.parametrize("options", [{}, {"shape": (1, 2, 3), "x_init": torch.zeros(1, 2, 3)}])
def test_exactly_one_of_shape_and_start(options):
    with pytest.raises(InputError, match="exactly one of shape and x_init"):
        sample(Gaussian(discrete_process("linear", 4)), **options)


@pytest.mark.parametrize("num_steps", [0, -1, 5])
def test_num_steps_out_of_range(num_steps):
    with pytest.raises(InputError, match=rf"num_steps must be in 1\.\.4 .*got {num_steps}"):
        sample(Gaussian(discrete_process("linear", 4)), (1, 2, 3), num_steps=num_steps)


def test_unknown_predictor_lists_the_known_ones():
    with pytest.raises(InputError, match="'euler'") as caught:
        predictor("euler")
    assert all(name in str(caught.value) for name in PREDICTORS)


@pytest.mark.parametrize("flexibility", [-0.01, 1.01, math.nan])
def test_flexibility_out_of_range(flexibility):
    with pytest.raises(InputError, match=rf"flexibility must be in \[0, 1\], got {flexibility}"):
        predictor("ancestral", flexibility=flexibility)
