"""The objectives against loops, closed-form optima and torch.distributions; the times by chi-square."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from pcdiff.diffusion import OBJECTIVES, Denoiser, EpsDenoiser, Process, discrete_process, draw_times, objective
from pcdiff.errors import InputError

STEPS = 20
# those that are a positive weight times the squared error of the noise; the others are in test_objectives.py
NOISE_ERRORS = ["dsm", "elbo", "likelihood", "regression", "simple"]


class Net(nn.Module):
    """Noise estimate `weight * x + bias`, elementwise."""

    def __init__(self, weight=0.3, bias=0.1):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float64))

    def forward(self, x, t, cond=None):
        return self.weight * x + self.bias


class Answer(nn.Module):
    """Noise estimate that is itself the parameter."""

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(answer.clone())

    def forward(self, x, t, cond=None):
        return self.answer


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def setting(dims, schedule="linear", batch=4):
    t = torch.tensor([1, 2, 11, STEPS])[:batch]
    return discrete_process(schedule, STEPS), draws(batch, *dims), t, draws(batch, *dims, seed=1)


def test_simple_is_the_loop_written_out(dims):
    process, x0, t, noise = setting(dims)
    net = Net()
    result = OBJECTIVES["simple"](EpsDenoiser(net, process), x0, t, noise)
    assert result.shape == (4,)
    for b in range(4):
        alpha_bar = math.prod(1 - float(process.betas[k]) for k in range(1, int(t[b]) + 1))
        total = 0.0
        for value, eps in zip(x0[b].flatten().tolist(), noise[b].flatten().tolist(), strict=True):
            x = math.sqrt(alpha_bar) * value + math.sqrt(1 - alpha_bar) * eps
            total += (net.weight.item() * x + net.bias.item() - eps) ** 2
        assert result[b].item() == pytest.approx(total / x0[b].numel(), rel=1e-10)


@pytest.mark.parametrize("name", NOISE_ERRORS)
def test_the_true_noise_is_the_minimum(name, dims):
    process, x0, t, noise = setting(dims)
    at_truth = Answer(noise)
    loss = OBJECTIVES[name](EpsDenoiser(at_truth, process), x0, t, noise)
    loss.sum().backward()
    assert not loss.any()
    assert not at_truth.answer.grad.any()
    beside = OBJECTIVES[name](EpsDenoiser(Answer(noise + 0.1), process), x0, t, noise)
    assert (beside > 0).all()


@pytest.mark.parametrize("name", NOISE_ERRORS)
@pytest.mark.parametrize("t", [1, 10, STEPS])
def test_the_closed_form_optimum_has_no_gradient(name, t, dims):
    """For data N(m, s^2) the best affine estimate is E[eps | x] = sigma (x - alpha m) / (alpha^2 s^2 + sigma^2)."""
    mean, std, batch = 0.7, 0.5, 6000
    process = discrete_process("linear", STEPS, 1e-2, 0.2)
    at = torch.full((batch,), t)
    x0, noise = mean + std * draws(batch, *dims), draws(batch, *dims, seed=1)
    alpha, sigma = process.alpha(at)[0].item(), process.sigma(at)[0].item()
    best = sigma / (alpha**2 * std**2 + sigma**2)

    def gradients(weight, bias):
        """Return gradient and its standard error for weight and bias."""
        net = Net(weight, bias)
        process_loss = OBJECTIVES[name](EpsDenoiser(net, process), x0, at, noise)
        parts = [
            torch.autograd.grad(part.sum(), list(net.parameters()), retain_graph=True)
            for part in process_loss.split(batch // 20)
        ]
        per_part = torch.tensor([[float(g) for g in part] for part in parts])
        return per_part.mean(dim=0), per_part.std(dim=0) / math.sqrt(len(parts))

    gradient, error = gradients(best, -best * alpha * mean)
    assert (gradient.abs() < 5 * error).all()
    gradient, error = gradients(best + 0.3, -best * alpha * mean + 0.3)
    assert (gradient > 20 * error).all()


def test_elbo_is_the_kl_of_each_reverse_step(dims):
    """T KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) by torch.distributions, for every t > 1."""
    process = discrete_process("linear", STEPS)
    t = torch.arange(2, STEPS + 1)
    x0, noise = draws(len(t), *dims), draws(len(t), *dims, seed=1)
    denoiser = EpsDenoiser(Net(), process)
    x = process.perturb(x0, t, noise)
    true_mean, variance, _ = process.posterior(x0, x, t, t - 1)
    mean, _, _ = process.posterior(denoiser(x, t), x, t, t - 1)
    std = variance.sqrt().view(-1, *[1] * len(dims)).expand_as(x)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(true_mean, std), normal(mean, std)).flatten(1).sum(dim=1)
    torch.testing.assert_close(OBJECTIVES["elbo"](denoiser, x0, t, noise), STEPS * kl, rtol=1e-6, atol=1e-9)


def test_elbo_at_the_first_step_is_the_decoders_likelihood(dims):
    """T (-log N(x_0; mean(x_1), beta_1)) up to the density's constant, which no parameter moves."""
    process = discrete_process("linear", STEPS)
    t = torch.ones(3, dtype=torch.long)
    x0, noise = draws(3, *dims), draws(3, *dims, seed=1)
    denoiser = EpsDenoiser(Net(), process)
    mean, _, variance = process.posterior(
        denoiser(process.perturb(x0, t, noise), t), process.perturb(x0, t, noise), t, t - 1
    )
    normal = torch.distributions.Normal(mean, variance.sqrt().view(-1, *[1] * len(dims)).expand_as(x0))
    nats = (normal.log_prob(normal.mean) - normal.log_prob(x0)).flatten(1).sum(dim=1)
    torch.testing.assert_close(OBJECTIVES["elbo"](denoiser, x0, t, noise), STEPS * nats, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("name", NOISE_ERRORS)
def test_losses_are_finite_on_the_whole_chain_and_keep_their_dtype(name, schedule, dims):
    process = discrete_process(schedule, 100)
    t = torch.arange(1, 101)
    x0, noise = draws(100, *dims).float(), draws(100, *dims, seed=1).float()
    loss = OBJECTIVES[name](EpsDenoiser(Net(), process).float(), x0, t, noise)
    assert loss.shape == (100,)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert (loss > 0).all()


@pytest.mark.parametrize("name", NOISE_ERRORS)
def test_objectives_hand_the_condition_to_the_net(name, dims):
    class Conditioned(nn.Module):
        def forward(self, x, t, cond):
            return x * 0 + cond.view(-1, *[1] * (x.dim() - 1))

    process, x0, t, noise = setting(dims)
    low, high = (
        OBJECTIVES[name](EpsDenoiser(Conditioned(), process), x0, t, noise, torch.full((4,), c)) for c in (0.0, 9.0)
    )
    assert (high > low).all()


def test_unknown_objective_lists_the_known_ones():
    with pytest.raises(InputError, match="'l1'") as caught:
        objective("l1")
    assert all(name in str(caught.value) for name in OBJECTIVES)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_objectives_by_name(name):
    assert objective(name) is OBJECTIVES[name]


def test_elbo_needs_a_chain(dims):
    with pytest.raises(InputError, match="'elbo' needs a discrete process with betas, got Process"):
        OBJECTIVES["elbo"](Denoiser(Process()), draws(1, *dims), torch.tensor([1]), draws(1, *dims))


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 50])
def test_times_are_uniform_on_the_chain(stratified, batch):
    """Chi-square on the first time of many batches: those are independent in both modes."""
    num_steps, repeats = 7, 3000
    process, draw = discrete_process("linear", num_steps), torch.Generator().manual_seed(0)
    first = [int(draw_times(process, batch, draw, stratified)[0]) for _ in range(repeats)]
    counts = torch.tensor(first).bincount(minlength=num_steps + 1)
    assert counts[0] == 0
    assert len(counts) == num_steps + 1
    assert stats.chisquare(counts[1:].numpy()).pvalue > 1e-3


def test_plain_times_of_one_batch_are_uniform():
    times = draw_times(discrete_process("linear", 10), 20_000, torch.Generator().manual_seed(0))
    assert stats.chisquare(times.bincount(minlength=11)[1:].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("batch", [4, 10, 25, 100])
def test_stratified_times_cover_every_stratum(batch):
    process = discrete_process("linear", 100)
    for seed in range(20):
        times = draw_times(process, batch, torch.Generator().manual_seed(seed), stratified=True)
        strata = (times - 1) * batch // 100
        assert strata.sort().values.tolist() == list(range(batch))


def test_stratified_times_of_a_large_batch_are_even():
    times = draw_times(discrete_process("linear", 10), 1000, torch.Generator().manual_seed(0), stratified=True)
    assert times.bincount(minlength=11).tolist() == [0] + [100] * 10


def test_stratified_times_come_in_random_order():
    process, draw = discrete_process("linear", 100), torch.Generator().manual_seed(0)
    orders = {tuple(draw_times(process, 5, draw, stratified=True).argsort().tolist()) for _ in range(40)}
    assert len(orders) > 10


@pytest.mark.parametrize("stratified", [False, True])
def test_times_take_every_draw_from_their_generator(stratified):
    process, before = discrete_process("linear", 1000), torch.get_rng_state()
    a, b, c = (draw_times(process, 8, torch.Generator().manual_seed(s), stratified) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.dtype == torch.long


@pytest.mark.parametrize("stratified", [False, True])
def test_times_of_a_chain_of_one_step(stratified):
    times = draw_times(discrete_process("linear", 1), 6, torch.Generator().manual_seed(0), stratified)
    assert times.tolist() == [1] * 6
