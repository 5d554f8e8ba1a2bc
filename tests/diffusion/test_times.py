"""Training times in continuous time: their distribution, and weights that keep the mean."""

import math

import pytest
import torch
from scipy import stats

from pcdiff.diffusion import OBJECTIVES, TIME_DRAWS, VE, VP, NetDenoiser, build_process, draw_times, time_draw
from pcdiff.diffusion.losses.time_draws import (
    draw_importance_times,
    draw_log_normal_times,
    draw_log_uniform_times,
)
from pcdiff.errors import InputError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("stratified", [False, True])
def test_times_are_uniform_between_eps_and_the_end(process, stratified):
    if process.num_steps is not None:
        pytest.skip("chains are in test_objective.py")
    for eps in (None, 0.2 * process.T):
        first = process.train_eps if eps is None else eps
        t = torch.stack([draw_times(process, 4, seeded(s), stratified, eps)[0] for s in range(300)])
        assert t.dtype == torch.float32
        assert (t >= first).all()
        assert (t <= process.T).all()
        assert stats.kstest(t.numpy(), stats.uniform(first, process.T - first).cdf).pvalue > 1e-3


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_stratified_times_cover_every_stratum(batch):
    for seed in range(20):
        t = draw_times(build_process("rectified_flow"), batch, seeded(seed), stratified=True, eps=0.0)
        assert (t * batch).floor().clamp(max=batch - 1).sort().values.tolist() == list(range(batch))


@pytest.mark.parametrize("stratified", [False, True])
def test_important_times_are_uniform_in_log_snr(process, stratified):
    if process.num_steps is not None:
        pytest.skip("a chain's times are counted below")
    t, _ = draw_importance_times(process, 2000, seeded(), stratified)
    end = process.T - process.train_eps if float(process.alpha(torch.tensor([process.T]))) == 0 else process.T
    high, low = process.log_snr(torch.tensor([process.train_eps, end], dtype=torch.float64)).tolist()
    log_snr = process.log_snr(t.double()).numpy()
    assert stats.kstest(log_snr, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_important_times_of_a_chain_follow_their_density(process):
    if process.num_steps is None:
        pytest.skip("times in continuous time are above")
    steps = torch.arange(1, process.num_steps + 1)
    density = (process.diffusion(steps) / process.sigma(steps)).square()
    density = density / density.sum()
    t, weight = draw_importance_times(process, 20_000, seeded())
    counts = t.bincount(minlength=process.num_steps + 1)[1:]
    expected = density * len(t)
    if process.num_steps > 1:
        assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3
    torch.testing.assert_close(weight, (1 / (process.num_steps * density))[t - 1].float())


def test_weights_undo_the_importance(process):
    """The weighted mean of a function over these times is its mean over uniform times."""
    t, weight = draw_importance_times(process, 40_000, seeded(), stratified=True)
    assert t.shape == weight.shape == (40_000,)
    assert weight.dtype == torch.float32
    value = weight.double() * (1 + t.double() / process.T) ** 2
    if process.num_steps is None:
        expected = 7 / 3  # the integral of (1 + u)^2 over [0, 1]; the ends that are left out are 1e-5 wide
    else:
        expected = (1 + torch.arange(1, process.num_steps + 1).double() / process.T).square().mean().item()
    # EDM's weights are wild: nearly all times are small, nearly all uniform times are not
    assert abs(value.mean().item() - expected) < max(0.02 * expected, 5 * value.std().item() / math.sqrt(len(t)))


@pytest.mark.parametrize("kind", ["vp", "subvp"])
def test_importance_takes_the_variance_out_of_the_likelihood(kind, dims):
    """Data N(0, 0.25), the exact denoiser: the same mean, far less spread."""
    process = build_process(kind)
    batch, draw = 20_000, seeded(1)
    x0 = 0.5 * torch.randn(batch, *dims, generator=draw, dtype=torch.float64)
    noise = torch.randn(batch, *dims, generator=draw, dtype=torch.float64)

    class Net(torch.nn.Module):
        def forward(self, x, t, cond=None):
            alpha, sigma = process.alpha(t), process.sigma(t)
            gain = sigma / (alpha.square() / 4 + sigma.square())
            return gain.view(-1, *[1] * (x.dim() - 1)) * x

    denoiser = NetDenoiser(Net(), process, time_input="t")
    results = {}
    for name in ("uniform", "importance"):
        t, weight = time_draw(name)(process, batch, draw)
        results[name] = weight * OBJECTIVES["likelihood"](denoiser, x0, t, noise)
    (a, b), size = results.values(), math.sqrt(batch)
    assert abs(a.mean() - b.mean()) < 5 * (a.std() + b.std()) / size
    assert b.std() < a.std() / 4


def test_importance_of_exploding_times_is_even():
    """Their log-SNR is linear in t: uniform times are the best already."""
    torch.testing.assert_close(draw_importance_times(VE(), 50, seeded()).weight, torch.ones(50))


@pytest.mark.parametrize("kind", ["edm", "ve", "vp", "rectified_flow"])
def test_log_normal_times_are_log_normal(kind):
    process = build_process(kind)
    t, weight = draw_log_normal_times(process, 3000, seeded(), mean=-0.5, std=0.7)
    log_sigma = (process.sigma(t.double()) / process.alpha(t.double())).log()
    assert stats.kstest(log_sigma.numpy(), stats.norm(-0.5, 0.7).cdf).pvalue > 1e-3
    assert (weight == 1).all()


@pytest.mark.parametrize("kind", ["edm", "vp", "ddpm"])
def test_log_uniform_times_cover_the_log_snr_evenly(kind):
    """Stratified, one of n draws lies in each n-th of the range; a chain's whole times are the nearest to them."""
    process = build_process(kind)
    chain, n = process.num_steps is not None, 200
    t, weight = draw_log_uniform_times(process, n, seeded(), stratified=True)
    ends = torch.tensor([1, process.num_steps] if chain else [process.train_eps, process.T], dtype=torch.float64)
    high, low = process.log_snr(ends)
    assert (weight == 1).all()
    if chain:
        assert t.dtype == torch.long
        assert t.min() == 1
        assert t.max() > process.num_steps - 10  # a 200th of the range of about 19 is 5 steps of beta_T = 0.02
        return
    share = ((high - process.log_snr(t.double())) / (high - low)).sort().values
    # t in float32 is off by 2^-24 of itself, its log-SNR by that times its slope in log t
    slack = float(2 * 2**-24 * 20 / (high - low))
    assert (share >= torch.arange(n) / n - slack).all()
    assert (share <= (1 + torch.arange(n)) / n + slack).all()


def test_log_normal_times_of_a_chain_are_its_own():
    process = build_process("ddpm")
    t, _ = draw_log_normal_times(process, 500, seeded(), mean=0.0, std=5.0)
    assert t.dtype == torch.long
    assert t.min() >= 1
    assert t.max() <= 1000
    assert len(t.unique()) > 100


def test_edms_draw_is_its_default():
    process = build_process("edm")
    draw = torch.randn(8, generator=seeded(4))
    torch.testing.assert_close(draw_log_normal_times(process, 8, seeded(4)).t, (1.2 * draw - 1.2).exp())


@pytest.mark.parametrize("name", sorted(TIME_DRAWS))
def test_draws_take_everything_from_their_generator(name, process):
    before = torch.get_rng_state()
    a, b, c = (time_draw(name)(process, 16, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.t, b.t)
    assert torch.equal(a.weight, b.weight)
    assert process.num_steps == 1 or not torch.equal(a.t, c.t)
    assert (a.t > 0).all()
    assert (a.t <= process.t_end).all()


def test_options_are_bound():
    t = time_draw("uniform", stratified=True, eps=0.5)(VP(), 100, seeded()).t
    assert t.min() >= 0.5
    assert t.sort().values.diff().max() < 0.011


def test_unknown_draw_lists_the_known_ones():
    with pytest.raises(InputError, match="'sobol'") as caught:
        time_draw("sobol")
    assert all(name in str(caught.value) for name in TIME_DRAWS)


@pytest.mark.parametrize("eps", [-0.1, 1.0, math.nan])
def test_smallest_times_out_of_range(eps):
    for draw in (draw_times, draw_importance_times):
        with pytest.raises(InputError, match=rf"eps must be in \[0, 1\), got {eps}"):
            draw(VP(), 2, seeded(), eps=eps)


def test_smallest_times_that_do_not_fit():
    for draw in (draw_times, draw_importance_times):
        with pytest.raises(
            InputError, match=r"eps must be left out for a chain, whose times are integers, got 0\.1"
        ):
            draw(build_process("ddpm"), 2, seeded(), eps=0.1)
    for draw in (draw_importance_times, draw_log_uniform_times):
        with pytest.raises(InputError, match="eps must be positive to draw times by their SNR"):
            draw(VE(), 2, seeded(), eps=0.0)
    with pytest.raises(InputError, match="std must be at least 0, got -1"):
        draw_log_normal_times(VE(), 2, seeded(), std=-1)
