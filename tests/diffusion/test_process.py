"""The forward chain against closed forms derived here from the betas alone."""

import math

import numpy as np
import pytest
import torch

from pcdiff.diffusion import (
    SCHEDULES,
    DiscreteProcess,
    append_dims,
    cosine_betas,
    discrete_process,
    linear_betas,
    time_grid,
)
from pcdiff.errors import InputError

STEPS = 40
every_schedule = pytest.mark.parametrize("schedule", sorted(SCHEDULES))


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(process, s, t):
    """Return scale and variance of q(x_t | x_s), multiplied up from single steps."""
    scale, variance = 1.0, 0.0
    for k in range(s + 1, t + 1):
        beta = float(process.betas[k])
        scale, variance = scale * math.sqrt(1 - beta), (1 - beta) * variance + beta
    return scale, variance


@every_schedule
def test_tables(schedule):
    process = discrete_process(schedule, STEPS)
    betas = SCHEDULES[schedule](STEPS, 1e-4, 0.02).tolist()
    assert process.num_steps == STEPS
    assert process.betas.tolist() == [0.0, *betas]
    assert process.alpha_bars.dtype == torch.float64
    for t in range(STEPS + 1):
        expected = math.prod(1 - beta for beta in betas[:t])
        at = torch.tensor([t])
        assert process.alpha_bars[t].item() == pytest.approx(expected, rel=1e-12)
        assert process.beta(at).item() == ([0.0, *betas])[t]
        assert process.alpha(at).item() == pytest.approx(math.sqrt(expected), rel=1e-12)
        assert process.sigma(at).item() == pytest.approx(math.sqrt(1 - expected), rel=1e-9)


def test_linear_betas_rise_evenly_between_their_ends():
    betas = linear_betas(5, 0.1, 0.5)
    torch.testing.assert_close(betas, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("num_steps", [4, 100, 1000])
def test_cosine_alpha_bar_is_the_squared_cosine(num_steps):
    """Nichol & Dhariwal (2021), eq. 17; only the last step meets the cap on beta."""
    process = DiscreteProcess(cosine_betas(num_steps))
    for t in range(num_steps):
        f = [math.cos((u / num_steps + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (t, 0)]
        assert process.alpha_bars[t].item() == pytest.approx(f[0] / f[1], rel=1e-9)
    assert process.betas[-1] == 0.999


def test_no_schedule_moves_with_training_or_enters_the_weights():
    process = discrete_process("linear", STEPS)
    assert not list(process.parameters())
    assert not process.state_dict()


@every_schedule
def test_one_step_at_a_time_is_the_same_as_all_at_once(schedule):
    process = discrete_process(schedule, STEPS)
    for t in (1, 2, STEPS // 2, STEPS):
        scale, variance = kernel(process, 0, t)
        assert process.alpha(torch.tensor([t])).item() == pytest.approx(scale, rel=1e-10)
        assert process.sigma(torch.tensor([t])).item() ** 2 == pytest.approx(variance, rel=1e-9)


@every_schedule
@pytest.mark.parametrize(("s", "t"), [(0, 1), (0, STEPS), (1, 2), (7, 8), (3, 30), (STEPS - 1, STEPS)])
def test_chaining_two_kernels_gives_the_third(schedule, s, t):
    """q(x_s | x_0) followed by q(x_t | x_s) is q(x_t | x_0), with the forward variance `posterior` reports."""
    process = discrete_process(schedule, STEPS)
    at_s, at_t, x = torch.tensor([s]), torch.tensor([t]), draws(1, 2, 3)
    forward_variance = process.posterior(x, x, at_t, at_s)[2].item()
    scale, variance = kernel(process, s, t)
    assert forward_variance == pytest.approx(variance, rel=1e-9)
    assert process.alpha(at_s).item() * scale == pytest.approx(process.alpha(at_t).item(), rel=1e-10)
    chained = (scale * process.sigma(at_s).item()) ** 2 + forward_variance
    assert chained == pytest.approx(process.sigma(at_t).item() ** 2, rel=1e-10)


@every_schedule
@pytest.mark.parametrize(("s", "t"), [(1, 2), (7, 8), (3, 30), (STEPS - 1, STEPS)])
def test_posterior_is_bayes_rule(schedule, s, t, dims):
    """q(x_s | x_t, x_0) from the product of two Gaussians: precisions add, means weigh by precision."""
    process = discrete_process(schedule, STEPS)
    x0, x = draws(3, *dims), draws(3, *dims, seed=1)
    at_s, at_t = torch.full((3,), s), torch.full((3,), t)
    mean, variance, _ = process.posterior(x0, x, at_t, at_s)
    (prior_scale, prior_variance), (scale, noise) = kernel(process, 0, s), kernel(process, s, t)
    precision = 1 / prior_variance + scale**2 / noise
    expected = (prior_scale * x0 / prior_variance + scale * x / noise) / precision
    torch.testing.assert_close(mean, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(variance, torch.full((3,), 1 / precision, dtype=torch.float64), rtol=1e-8, atol=0)


@every_schedule
def test_neighboring_posterior_is_ddpms_formula(schedule, dims):
    """Ho et al. (2020), eq. 6-7, a different time for every sample."""
    process = discrete_process(schedule, STEPS)
    t = torch.tensor([1, 2, 17, STEPS])
    x0, x = draws(4, *dims), draws(4, *dims, seed=1)
    mean, variance, forward = process.posterior(x0, x, t, t - 1)
    for i, k in enumerate(t.tolist()):
        beta, now, before = (float(v) for v in (process.betas[k], process.alpha_bars[k], process.alpha_bars[k - 1]))
        expected = math.sqrt(before) * beta / (1 - now) * x0[i]
        expected = expected + math.sqrt(1 - beta) * (1 - before) / (1 - now) * x[i]
        torch.testing.assert_close(mean[i], expected)
        assert variance[i].item() == pytest.approx(beta * (1 - before) / (1 - now), rel=1e-9)
        assert forward[i].item() == pytest.approx(beta, rel=1e-9)


@every_schedule
@pytest.mark.parametrize("t", [1, 5, STEPS])
def test_a_posterior_at_time_zero_is_the_data(schedule, t, dims):
    process = discrete_process(schedule, STEPS)
    x0, x = draws(2, *dims), draws(2, *dims, seed=1)
    mean, variance, _ = process.posterior(x0, x, torch.full((2,), t), torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(mean, x0)
    assert not variance.any()


def test_perturb_scales_data_and_noise_by_each_samples_own_time(dims):
    process = discrete_process("linear", STEPS)
    x0, noise, t = draws(3, *dims), draws(3, *dims, seed=1), torch.tensor([0, 11, STEPS])
    x = process.perturb(x0, t, noise)
    for i in range(3):
        scale, variance = kernel(process, 0, int(t[i]))
        torch.testing.assert_close(x[i], scale * x0[i] + math.sqrt(variance) * noise[i])
    assert torch.equal(x[0], x0[0])


def test_perturb_keeps_the_datas_dtype(dims):
    process = discrete_process("linear", STEPS)
    x0 = draws(2, *dims).float()
    assert process.perturb(x0, torch.tensor([3, 4]), x0).dtype == torch.float32


def check_moments(process, x0, t):
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5), dtype=x0.dtype)
    x = process.perturb(x0, torch.full((len(x0),), t), noise)
    scale, variance = kernel(process, 0, t)
    residual = (x - scale * x0).double()
    assert abs(residual.mean()) < 5 * math.sqrt(variance / residual.numel())
    assert abs(residual.var() / variance - 1) < 5 * math.sqrt(2 / residual.numel())
    correlation = (residual * (x0 - x0.mean())).mean() / (residual.std() * x0.std())
    assert abs(correlation) < 5 / math.sqrt(residual.numel())


@pytest.mark.parametrize("t", [1, STEPS // 2, STEPS])
def test_moments_of_perturbed_data(t, dims):
    check_moments(discrete_process("linear", STEPS), draws(4000, *dims), t)


@pytest.mark.parametrize("t", [1, STEPS // 2, STEPS])
def test_moments_of_perturbed_real_images(t, shared_data):
    files = sorted((shared_data / "cifar-10-batches-bin").glob("*_batch*.bin"))
    if not files:
        pytest.skip(f"PCDIFF_SHARED_DATA: no CIFAR-10 batches under {shared_data}/cifar-10-batches-bin")
    records = np.fromfile(files[0], dtype=np.uint8, count=64 * 3073).reshape(-1, 3073)
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32)).float() / 127.5 - 1
    check_moments(discrete_process("cosine", STEPS), images, t)


def test_append_dims_lines_up_with_the_batch(dims):
    like = torch.zeros(2, *dims, dtype=torch.float32)
    v = append_dims(torch.tensor([2.0, 3.0], dtype=torch.float64), like)
    assert v.dtype == torch.float32
    assert v.dim() == like.dim()
    product = v * (like + 1)
    assert (product[0] == 2).all()
    assert (product[1] == 3).all()


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, STEPS - 1, STEPS, None])
def test_time_grid_falls_strictly_from_the_last_step_to_the_data(num_steps):
    grid = discrete_process("linear", STEPS).time_grid(num_steps)
    assert len(grid) == (num_steps or STEPS) + 1
    assert (grid[0], grid[-1]) == (STEPS, 0)
    assert (grid.diff() < 0).all()
    gaps = -grid.diff()
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(("total", "num_steps"), [(4000, 3999), (5000, 4999), (5000, 4998), (8192, 8191)])
def test_time_grids_of_long_chains_repeat_no_time(total, num_steps):
    """Neighbors of a float32 linspace are off by T 2^-24 each: enough to meet at a half and round to one time."""
    process = discrete_process("linear", total, 1e-5, 1e-3)
    exact = [(total * (num_steps - k), num_steps) for k in range(num_steps + 1)]  # t as a fraction
    for grid in (process.time_grid(num_steps), time_grid(process, num_steps, t_start=total)):
        assert (grid.diff() < 0).all()
        off = [2 * abs(t * below - above) - below for t, (above, below) in zip(grid.tolist(), exact, strict=True)]
        assert max(off) <= 0


@pytest.mark.parametrize("num_steps", [0, -1, STEPS + 1])
def test_time_grid_out_of_range(num_steps):
    with pytest.raises(InputError, match=rf"num_steps must be in 1\.\.{STEPS} .*got {num_steps}"):
        discrete_process("linear", STEPS).time_grid(num_steps)


def test_unknown_schedule_lists_the_known_ones():
    with pytest.raises(InputError, match="'squared'") as caught:
        discrete_process("squared", STEPS)
    assert all(name in str(caught.value) for name in SCHEDULES)


@every_schedule
@pytest.mark.parametrize("num_steps", [0, -3])
def test_a_chain_needs_a_step(schedule, num_steps):
    with pytest.raises(InputError, match=f"num_steps must be at least 1, got {num_steps}"):
        discrete_process(schedule, num_steps)


@pytest.mark.parametrize(
    ("beta_1", "beta_T", "got"),
    [(0.0, 0.02, "0 to 0.02"), (-0.1, 0.02, "-0.1 to"), (1e-4, 1.0, "to 1"), (1e-4, math.nan, "nan")],
)
def test_variances_outside_their_range_are_named(beta_1, beta_T, got):
    with pytest.raises(InputError, match=rf"betas must be in \(0, 1\), got .*{got}"):
        discrete_process("linear", STEPS, beta_1, beta_T)


@pytest.mark.parametrize("betas", [torch.zeros(0), torch.full((2, 2), 0.1), torch.tensor(0.1)])
def test_betas_are_one_dimensional(betas):
    with pytest.raises(InputError, match=r"betas must be \(T,\)") as caught:
        DiscreteProcess(betas)
    assert str(tuple(betas.shape)) in str(caught.value)


def test_a_chain_of_one_step():
    process = discrete_process("linear", 1, 0.3, 0.9)
    assert process.time_grid().tolist() == [1, 0]
    assert process.alpha_bars[1].item() == pytest.approx(0.7)
