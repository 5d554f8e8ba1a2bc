"""Every process: f and g against autograd of alpha and sigma, the prior, reversal and round trips in time."""

import math

import pytest
import torch

from pcdiff.diffusion import (
    PROCESSES,
    VE,
    VP,
    DiscreteProcess,
    NoiseLevels,
    Process,
    append_dims,
    build_process,
    cosine_betas,
    geometric_sigmas,
    linear_betas,
    spaced_times,
)
from pcdiff.diffusion.processes import registry as processes
from pcdiff.errors import InputError


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inner_times(process):
    """Return times inside (0, T), none of them an integer of a chain."""
    return process.T * torch.tensor([0.013, 0.11, 0.37, 0.52, 0.83, 0.971], dtype=torch.float64)


def grid_times(process):
    """Return times that a net may be asked at: whole ones of a chain."""
    if process.num_steps is None:
        return inner_times(process)
    return torch.tensor([1, max(1, process.num_steps // 2), process.num_steps])


def derivative(function, t):
    t = t.clone().requires_grad_()
    return torch.autograd.grad(function(t).sum(), t)[0] if function(t).requires_grad else torch.zeros_like(t)


def test_every_name_is_tested(processes):
    built = {type(make()) for make in processes.values()}
    assert {type(build_process(name)) for name in PROCESSES} <= built


def test_scales_are_of_float64(process):
    for t in (inner_times(process).float(), grid_times(process)):
        for form in (process.alpha, process.sigma, process.diffusion, process.drift_rate, process.sigma_dot):
            assert form(t).dtype == torch.float64
            assert form(t).shape == t.shape
        alpha, sigma = process.scales(t)
        assert torch.equal(alpha, process.alpha(t))
        assert torch.equal(sigma, process.sigma(t))


def test_drift_is_the_derivative_of_log_alpha(process):
    t = inner_times(process)
    expected = derivative(lambda t: process.alpha(t).log(), t)
    torch.testing.assert_close(process.drift_rate(t), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(process.alpha_dot(t), derivative(process.alpha, t), rtol=1e-9, atol=1e-12)


def test_diffusion_is_what_the_variance_gains_beyond_the_drift(process):
    t = inner_times(process)
    variance = process.sigma(t).square()
    gained = derivative(lambda t: process.sigma(t).square(), t) - 2 * process.drift_rate(t) * variance
    torch.testing.assert_close(process.diffusion(t).square(), gained, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(process.sigma_dot(t), derivative(process.sigma, t), rtol=1e-8, atol=1e-12)


def test_log_snr_falls_and_is_inverted(process):
    t = torch.linspace(0.01, 1, 60, dtype=torch.float64) * process.T
    log_snr = process.log_snr(t)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(log_snr, 2 * (process.alpha(t).log() - process.sigma(t).log()), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(process.t_of_log_snr(log_snr), t, rtol=1e-8, atol=1e-9)


def test_log_snr_far_out_stays_in_range(process):
    t = process.t_of_log_snr(torch.tensor([-600.0, 600.0]))
    assert (t >= 0).all()
    assert (t <= process.t_end).all()
    assert t[0] > t[1]


def test_whole_times_and_times_between_agree(process):
    t = grid_times(process)
    for form in (process.alpha, process.sigma, process.drift_rate, process.diffusion):
        torch.testing.assert_close(form(t), form(t.double()), rtol=1e-10, atol=1e-12)


def test_a_gaussian_flows_along_its_quantiles(process, dims):
    """For data N(m, s^2) the flow keeps (x - alpha m) / sqrt(alpha^2 s^2 + sigma^2), so its velocity is known."""
    mean, std = 0.7, 0.4
    t = inner_times(process)
    x = draws(len(t), *dims)
    spread = append_dims((process.alpha(t) * std).square() + process.sigma(t).square(), x)
    score = -(x - append_dims(process.alpha(t), x) * mean) / spread
    slope = derivative(lambda t: ((process.alpha(t) * std).square() + process.sigma(t).square()).log() / 2, t)
    expected = append_dims(process.alpha_dot(t), x) * mean - append_dims(slope, x) * spread * score
    drift, diffusion = process.reverse(x, t, score, flow=True)
    torch.testing.assert_close(drift, expected, rtol=1e-8, atol=1e-9)
    assert not diffusion.any()
    sigma, alpha = append_dims(process.sigma(t), x), append_dims(process.alpha(t), x)
    eps, x0 = -sigma * score, (x + sigma.square() * score) / alpha
    torch.testing.assert_close(process.velocity(x0, eps, t), expected, rtol=1e-8, atol=1e-9)
    drift, diffusion = process.reverse(x, t, score)
    torch.testing.assert_close(drift, 2 * expected - process.drift(x, t), rtol=1e-8, atol=1e-8)
    assert torch.equal(diffusion, process.diffusion(t))


def test_reverse_steps_take_the_scores_share_from_the_forward_ones(process, dims):
    t = grid_times(process)
    x, score = draws(len(t), *dims), draws(len(t), *dims, seed=1)
    f, g = process.discretize(x, t)
    for flow, share in ((False, 1.0), (True, 0.5)):
        back, noise = process.reverse_discretize(x, t, score, flow=flow)
        torch.testing.assert_close(back, f - share * append_dims(g, x).square() * score)
        torch.testing.assert_close(noise, g * (not flow))


@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "rectified_flow"])
def test_fine_discretizations_are_the_sde(name, dims, processes):
    process, num_steps = processes[name](), 1_000_000
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x = draws(3, *dims)
    f, g = process.discretize(x, t, num_steps)
    torch.testing.assert_close(f * num_steps, process.drift(x, t), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(g * math.sqrt(num_steps), process.diffusion(t), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["ncsn", "ddpm linear", "ddpm cosine", "respaced"])
def test_a_chains_step_is_its_forward_kernel(name, dims, processes):
    process = processes[name]()
    t = torch.arange(1, process.num_steps + 1)
    x = draws(len(t), *dims)
    f, g = process.discretize(x, t)
    scale = process.alpha(t) / process.alpha(t - 1)
    torch.testing.assert_close(x + f, append_dims(scale, x) * x)
    torch.testing.assert_close(g.square(), process.kernel(t, t - 1)[3])


def test_one_steps_squared_signal_scale(process):
    t = grid_times(process)
    if process.num_steps is not None:
        expected = (process.alpha(t) / process.alpha(t - 1)).square()
        torch.testing.assert_close(process.step_alpha(t), expected)
    else:
        fine = process.step_alpha(t, 1_000_000)
        expected = 1 + 2 * process.drift_rate(t) * process.T / 1_000_000
        torch.testing.assert_close(fine, expected, rtol=1e-7, atol=0)
    assert not process.exploding or (process.step_alpha(t) == 1).all()


def test_chaining_two_kernels_gives_the_third(process):
    if process.num_steps == 1:
        s, t = torch.tensor([0]), torch.tensor([1])
    else:
        times = grid_times(process)
        s, t = times[:-1], times[1:]
    x_weight, x0_weight, posterior, forward = process.kernel(t, s)
    scale = process.alpha(t) / process.alpha(s)
    torch.testing.assert_close((scale * process.sigma(s)).square() + forward, process.sigma(t).square())
    # mean and variance of x_s, put together over x_t given x_0
    torch.testing.assert_close(x_weight * process.alpha(t) + x0_weight, process.alpha(s))
    spread = posterior + (x_weight * process.sigma(t)).square()
    torch.testing.assert_close(spread, process.sigma(s).square(), rtol=1e-8, atol=1e-14)


def test_marginal_and_perturb_are_one(process, dims):
    t = grid_times(process)
    x0, noise = draws(len(t), *dims), draws(len(t), *dims, seed=1)
    mean, std = process.marginal(x0, t)
    torch.testing.assert_close(process.perturb(x0, t, noise), mean + append_dims(std, x0) * noise)


def test_prior(process, dims):
    before = torch.get_rng_state()
    x, again, other = (process.prior_sample((500, *dims), torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, again)
    assert not torch.equal(x, other)
    std = float(process.sigma(torch.tensor([process.T], dtype=torch.float64))) if process.exploding else 1.0
    assert process.prior_std == pytest.approx(std)
    assert x.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * x.numel()))
    expected = torch.distributions.Normal(0, std).log_prob(x.double()).flatten(1).sum(dim=1)
    torch.testing.assert_close(process.log_prior(x.double()), expected)
    assert process.log_prior(x).dtype == torch.float32


@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "ddpm cosine", "rectified_flow", "edm"])
def test_prior_is_near_the_last_marginal(name):
    process = build_process("ddpm", schedule="cosine") if name.startswith("ddpm") else build_process(name)
    last = torch.tensor([process.num_steps or process.T])
    assert process.sigma(last).item() == pytest.approx(process.prior_std, rel=1e-4)
    assert process.alpha(last).item() / process.prior_std < 0.02


@pytest.mark.parametrize("bad", [-1e-3, 1.001, math.nan, math.inf])
def test_times_out_of_range_are_named(process, bad, dims):
    if bad > 0 and process.t_end == math.inf:
        pytest.skip("any noise level is a time of this process")
    t, x = torch.tensor([0.5, bad]) * process.T, torch.zeros(2, *dims)
    expected = rf"t must be in \[0, {process.t_end:g}\] for {type(process).__name__}, got "
    for call in (process.alpha, process.sigma, process.diffusion, process.drift_rate, process.sigma_dot):
        with pytest.raises(InputError, match=expected):
            call(t)
    for call in (process.drift, process.discretize):
        with pytest.raises(InputError, match=expected):
            call(x, t)
    with pytest.raises(InputError, match=expected):
        process.perturb(x, t, x)


@pytest.mark.parametrize("t", [-1, 21])
def test_whole_times_out_of_range_do_not_wrap(t, processes):
    with pytest.raises(InputError, match=rf"t must be in \[0, 20\] for DiscreteProcess, got {t} to {t}"):
        processes["ddpm linear"]().alpha(torch.tensor([t]))


@pytest.mark.parametrize("size", [1, 64, 65, 1000])
@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_one_bad_time_in_a_batch_is_found(size, bad):
    t = torch.rand(size, generator=torch.Generator().manual_seed(0))
    VP().alpha(t)
    t[size // 2] = bad
    with pytest.raises(InputError, match=r"t must be in \[0, 1\] for VP"):
        VP().alpha(t)


def test_time_grid_falls_from_noise_to_data(process):
    for num_steps in (1, 3 if process.num_steps != 1 else 1, None):
        grid = process.time_grid(num_steps)
        assert len(grid) == (num_steps or process.num_scales) + 1
        assert grid[0] == process.T
        assert grid[-1] == pytest.approx(process.sample_eps)
        assert (grid.diff() < 0).all()
    with pytest.raises(InputError, match=r"num_steps must be .*got 0"):
        process.time_grid(0)


def test_no_schedule_is_trained_or_saved(process):
    assert not list(process.parameters())
    assert not process.state_dict()


def test_compiled_code_has_no_breaks(process, shape):
    def step(x, t):
        x0, _ = process.marginal(x, t)
        drift, diffusion = process.reverse(x, t, -x)
        return process.perturb(x0, t, drift), diffusion, process.log_snr(t)

    torch.compiler.reset()  # the graphs of the other processes count against a limit
    t = grid_times(process)
    x = draws(len(t), *shape)
    torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="eager")(x, t), step(x, t))


def test_rectified_flow_has_its_former_name_too():
    assert type(build_process("straight", num_scales=7)) is type(build_process("rectified_flow"))
    assert "straight" not in sorted(PROCESSES)


def test_unknown_process_lists_the_known_ones():
    with pytest.raises(InputError, match="'rectified'") as caught:
        build_process("rectified")
    assert all(name in str(caught.value) for name in PROCESSES)


def test_unknown_option_lists_the_known_ones():
    with pytest.raises(
        InputError, match=r"process 've' takes \['sigma_min', 'sigma_max', 'num_scales'\], got \['b"
    ):
        build_process("ve", beta_min=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vp", {"beta_min": 0.0}, "0 < beta_min <= beta_max < inf, got 0.0, 20.0"),
        ("vp", {"beta_max": math.inf}, "0 < beta_min <= beta_max < inf, got 0.1, inf"),
        ("subvp", {"beta_max": 0.01}, "0 < beta_min <= beta_max < inf, got 0.1, 0.01"),
        ("vp", {"num_scales": 0}, "num_steps must be at least 1, got 0"),
        ("ve", {"sigma_min": 60.0}, "0 < sigma_min < sigma_max < inf, got 60.0, 50.0"),
        ("ve", {"sigma_max": math.inf}, "0 < sigma_min < sigma_max < inf, got 0.01, inf"),
        ("edm", {"sigma_min": -1.0}, "0 < sigma_min < sigma_max < inf, got -1.0, 80.0"),
        ("ncsn", {"sigma_min": -1.0}, "first, last and num_levels must be positive, got -1.0, 50.0, 232"),
        ("ddpm", {"schedule": "x"}, "schedule must be one of"),
        ("rectified_flow", {"num_scales": -1}, "num_steps must be at least 1, got -1"),
    ],
)
def test_values_out_of_range_are_named(name, options, message):
    with pytest.raises(InputError) as caught:
        build_process(name, **options)
    assert message in str(caught.value)


def test_a_chain_of_variances_cannot_be_coarse():
    with pytest.raises(InputError, match="num_steps must be above beta_max 20 for this chain, got 20"):
        VP().discretize(torch.zeros(1, 2, 3), torch.tensor([0.5]), 20)
    with pytest.raises(InputError, match="num_steps must be above beta_max 20 for this chain, got 20"):
        build_process("subvp").step_alpha(torch.tensor([0.5]), 20)


@pytest.mark.parametrize("name", ["ncsn", "ddpm linear"])
def test_a_chain_is_cut_only_into_its_own_steps(name, processes):
    process = processes[name]()
    with pytest.raises(InputError, match=f"num_steps must be the chain's own {process.num_steps} here, got 7"):
        process.discretize(torch.zeros(1, 2, 3), torch.tensor([1]), 7)


def test_levels_rise_whichever_way_they_are_given():
    falling = geometric_sigmas(1.0, 0.01, 5)
    for sigmas in (falling, falling.flip(0)):
        process = NoiseLevels(sigmas)
        assert process.sigma(torch.tensor([0])).item() == 0
        torch.testing.assert_close(process.sigma(torch.arange(1, 6)), falling.flip(0))


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        (torch.zeros(0), r"sigmas must be \(L,\), got shape \(0,\)"),
        (torch.ones(2, 2), r"sigmas must be \(L,\), got shape \(2, 2\)"),
        (torch.tensor([1.0, 1.0]), "without repeats"),
        (torch.tensor([1.0, 3.0, 2.0]), "all rise or all fall"),
        (torch.tensor([1.0, 0.0]), "must be positive"),
        (torch.tensor([1.0, math.inf]), "must be positive"),
    ],
)
def test_levels_that_are_none(sigmas, message):
    with pytest.raises(InputError, match=message):
        NoiseLevels(sigmas)


def test_the_variance_exploding_chain_is_levels():
    """The continuous process, cut into N, takes the steps of N geometric levels."""
    levels, process = NoiseLevels(geometric_sigmas(0.02, 12.0, 30)), VE(0.02, 12.0)
    steps = torch.arange(1, 31)
    x = draws(30, 2, 3)
    t = ((steps - 1).double() / 29 + 1e-9).clamp(max=1)
    torch.testing.assert_close(levels.discretize(x, steps)[1], process.discretize(x, t, 30)[1])


@pytest.mark.parametrize("betas", [linear_betas(50), cosine_betas(50)], ids=["linear", "cosine"])
@pytest.mark.parametrize("spacing", ["ddim10", "10", "5,5,3", "50", "1"])
def test_a_shorter_chain_keeps_the_marginals(betas, spacing, dims):
    parent, times = DiscreteProcess(betas), spaced_times(50, spacing)
    process = parent.respaced(times)
    steps = torch.arange(1, len(times) + 1)
    torch.testing.assert_close(process.alpha(steps), parent.alpha(times))
    trained, at = process.trained_at(steps)
    assert trained is parent
    assert torch.equal(at, times)
    between = process.trained_at(torch.tensor([0.5], dtype=torch.float64))[1]
    assert between.item() == times[0] / 2
    x0, x = draws(len(times), *dims), draws(len(times), *dims, seed=1)
    before = torch.cat([times.new_zeros(1), times[:-1]])
    torch.testing.assert_close(process.posterior(x0, x, steps, steps - 1), parent.posterior(x0, x, times, before))


def test_other_processes_are_trained_at_their_own_times(process):
    if not hasattr(process, "parent"):
        t = grid_times(process)
        assert process.trained_at(t)[0] is process
        assert process.trained_at(t)[1] is t


@pytest.mark.parametrize(("count", "middle"), [(35, 500), (45, 500), (31, 501)])
def test_a_spacing_adds_its_stride_up(count, middle):
    """999 / (count - 1) goes into 499.5 a whole number of times: its sum, in doubles, decides for a side."""
    times, at = spaced_times(1000, str(count)).tolist(), 0.0
    for time in times:
        assert time == 1 + round(at)
        at += 999 / (count - 1)
    assert times[(count - 1) // 2] == middle


@pytest.mark.parametrize("count", [2, 163, 667, 999, 1000])
def test_a_spacing_reaches_both_ends_and_repeats_no_time(count):
    times = spaced_times(1000, str(count))
    assert (times[0], times[-1]) == (1, 1000)
    assert (times.diff() >= 1).all()


@pytest.mark.parametrize(
    ("spacing", "message"),
    [
        ("ddim49", "has no whole stride over 50 steps"),
        ("51", "asks for 51 of the 50 steps in part 1"),
        ("5,0", "asks for 0 of the 25 steps in part 2"),
        ("ten", "must be like 'ddim25', '25' or '10,10,5', got 'ten'"),
        ("5,,5", "must be like"),
        ("", "must be like"),
    ],
)
def test_spacings_that_are_none(spacing, message):
    with pytest.raises(InputError, match=message):
        spaced_times(50, spacing)


@pytest.mark.parametrize("times", [[0, 1], [3, 51], [3, 3], [5, 4], [0.5], []])
def test_times_of_a_shorter_chain_lie_in_the_longer(times):
    with pytest.raises(InputError, match=r"times must be integers in 1\.\.50, strictly rising, got \["):
        DiscreteProcess(linear_betas(50)).respaced(torch.tensor(times))


def test_a_bare_process_asks_for_its_parts():
    for form in ("alpha", "sigma", "drift_rate", "diffusion", "t_of_log_snr"):
        with pytest.raises(NotImplementedError):
            getattr(Process(), form)(torch.tensor([0.5]))


def test_a_chain_that_does_not_end_in_noise_is_told_once(caplog, monkeypatch):
    """DDPM's rates in a tenth of its steps: alpha(T)^2 is the product of 1 - beta, alpha 0.60 by hand."""
    monkeypatch.setattr(processes, "_WARNED", set())
    by_hand = math.sqrt(math.prod(1 - (1e-4 + k / 99 * (0.02 - 1e-4)) for k in range(100)))
    assert round(by_hand, 2) == 0.60
    for _ in range(2):
        build_process("ddpm", num_steps=100)
    (said,) = caplog.messages
    assert "process 'ddpm' ends with alpha(T) = 0.60 of the signal left" in said
    assert "\n" not in said
    caplog.clear()
    for name in PROCESSES:
        build_process(name)  # by default all end in noise
    assert not caplog.messages
