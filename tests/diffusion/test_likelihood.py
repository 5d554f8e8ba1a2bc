"""The probability flow's log-likelihood against closed forms, on clouds and on images."""

import math

import pytest
import torch
from exact_mixture import ExactMixture, mixture

from pcdiff.diffusion import (
    OBJECTIVES,
    Denoiser,
    EpsDenoiser,
    append_dims,
    bits_per_dim,
    build_process,
    chain_bound,
    discrete_process,
    log_likelihood,
    nats_per_dim,
    prior_bits,
)
from pcdiff.errors import InputError
from pcdiff.nets import PointwiseNet

# whose prior is the data's end to within 1e-3 nats a dimension
FINE = {
    "vp": {"beta_max": 30.0},
    "subvp": {"beta_max": 30.0},
    "ve": {"sigma_max": 1000.0},
    "ncsn": {"sigma_max": 1000.0},
    "ddpm": {"num_steps": 1000, "beta_T": 0.03},
    "rectified_flow": {},
    "edm": {"sigma_max": 1000.0},
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def data(model, count=4, seed=1):
    """Draw from the mixture itself."""
    which = torch.multinomial(model.weights, count, replacement=True, generator=seeded(seed))
    noise = draws(count, *model.means.shape[1:], seed=seed)
    return model.means[which] + append_dims(model.stds[which], noise) * noise


def full(x, t):
    return torch.full((len(x),), float(t), dtype=torch.float64)


def first_time(process):
    return process.train_eps if process.num_steps is None else 1


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 3], ids=["Gaussian", "mixture"])
@pytest.mark.parametrize("name", sorted(FINE))
def test_the_density_of_the_data(name, count, shape):
    model = mixture(build_process(name, **FINE[name]), shape, count)
    x = data(model)
    result = log_likelihood(model, x, trace="exact")
    error = nats_per_dim(result.log_likelihood - model.log_density(x, full(x, first_time(model.process))), shape)
    assert error.abs().max() < 1e-3
    assert result.log_likelihood.shape == (4,)
    assert result.z.shape == x.shape
    assert result.evaluations < 250


def test_every_process_keeps_the_flows_account(process, shape):
    """Whatever the prior says of z, the rest is the change of density from data to noise."""
    if process.num_steps == 1:
        with pytest.raises(InputError, match=r"a chain of one step has no flow .* take chain_bound"):
            log_likelihood(mixture(process, shape), draws(2, *shape))
        return
    model = mixture(process, shape)
    x = data(model, 2)
    result = log_likelihood(model, x, trace="exact")
    change = result.log_likelihood - process.log_prior(result.z)
    expected = model.log_density(x, full(x, first_time(process))) - model.log_density(result.z, full(x, process.T))
    assert nats_per_dim(change - expected, shape).abs().max() < 1e-4


@pytest.mark.parametrize("trace", ["gaussian", "rademacher"])
def test_estimates_average_to_the_exact_value(trace, dims):
    model = mixture(build_process("vp"), dims)
    x = data(model, 1)
    exact = log_likelihood(model, x, trace="exact").log_likelihood
    single = log_likelihood(model, x.repeat_interleave(200, dim=0), trace=trace, generator=seeded())
    spread, error = single.log_likelihood.std(), single.log_likelihood.mean() - exact
    assert spread > 0.1
    assert abs(error) < 5 * spread / math.sqrt(200)
    many = log_likelihood(model, x, trace=trace, num_probes=300, generator=seeded()).log_likelihood
    assert abs(many - exact) < 5 * spread / math.sqrt(300)


def test_one_sign_probe_is_exact_for_a_diagonal_jacobian(dims):
    model = mixture(build_process("vp"), dims, count=1)
    x = data(model)
    drawn, exact = (log_likelihood(model, x, trace=trace).log_likelihood for trace in ("rademacher", "exact"))
    torch.testing.assert_close(drawn, exact, rtol=1e-9, atol=0)


def test_draws_repeat_and_use_no_other_randomness(dims):
    model, before = mixture(build_process("vp"), dims), torch.get_rng_state()
    x = data(model, 2)
    a, b, c = (log_likelihood(model, x, generator=seeded(seed)).log_likelihood for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_samples_result_owes_its_batch_the_step_alone(dims):
    model, probes = mixture(build_process("vp"), dims), draws(5, *dims).sign()
    x = data(model, 5)
    x[0] *= 30  # far out: alone, the others would take larger steps
    together = log_likelihood(model, x, probes=probes).log_likelihood[1:]
    for k in range(1, 5):
        alone = log_likelihood(model, x[k : k + 1], probes=probes[k : k + 1]).log_likelihood
        assert nats_per_dim(together[k - 1] - alone, dims).abs() < 1e-4


def test_float32_data_is_seen_in_float32_and_summed_in_float64(dims):
    class Watched(ExactMixture):
        def forward(self, x, t, cond=None):
            seen.add(x.dtype)
            return super().forward(x, t, cond)

    process, seen = build_process("subvp"), set()
    model = mixture(process, dims, dtype=torch.float32)
    model = Watched(process, model.weights, model.means, model.stds)
    x = data(mixture(process, dims), 2)
    single = log_likelihood(model, x.float(), trace="exact")
    double = log_likelihood(mixture(process, dims), x, trace="exact")
    assert seen == {torch.float32}
    assert single.log_likelihood.dtype == single.z.dtype == torch.float64
    assert nats_per_dim(single.log_likelihood - double.log_likelihood, dims).abs().max() < 1e-3


def test_evaluations_are_counted_and_tolerances_decide_them(dims):
    class Counted(ExactMixture):
        calls = 0

        def forward(self, x, t, cond=None):
            self.calls += 1
            return super().forward(x, t, cond)

    model = mixture(build_process("vp"), dims)
    counted = Counted(model.process, model.weights, model.means, model.stds)
    x = data(model, 2)
    truth = log_likelihood(model, x, trace="exact", rtol=1e-8, atol=1e-8).log_likelihood
    errors, evaluations = [], []
    for tolerance in (1e-3, 1e-5):
        counted.calls = 0
        result = log_likelihood(counted, x, trace="exact", rtol=tolerance, atol=tolerance)
        assert result.evaluations == counted.calls
        evaluations.append(result.evaluations)
        errors.append(float((result.log_likelihood - truth).abs().max()))
    assert evaluations[0] < evaluations[1]
    assert errors[1] < errors[0] / 10


@pytest.mark.parametrize("num_points", [1, 9])
def test_the_pointwise_trace_of_a_net_under_a_latent(num_points):
    torch.manual_seed(0)
    net = PointwiseNet(4, widths=(8, 8), residual=True).double()
    denoiser = EpsDenoiser(net, discrete_process("linear", 100), "beta")
    x, z = 0.5 * draws(2, num_points, 3), draws(2, 4, seed=1)
    exact, pointwise = (log_likelihood(denoiser, x, z, trace=trace) for trace in ("exact", "pointwise"))
    torch.testing.assert_close(pointwise.log_likelihood, exact.log_likelihood, rtol=1e-10, atol=0)
    assert pointwise.evaluations == exact.evaluations + 1
    other = log_likelihood(denoiser, x, z + 1, trace="pointwise").log_likelihood
    assert not torch.isclose(other, pointwise.log_likelihood).any()
    assert all(p.grad is None for p in net.parameters())


def test_nats_and_bits():
    log_p = torch.tensor([-12.0, 6.0], dtype=torch.float64)
    assert nats_per_dim(log_p, (4, 3)).tolist() == [1.0, -0.5]
    bits = bits_per_dim(log_p, (3, 2, 2))
    torch.testing.assert_close(bits, torch.tensor([1.0, -0.5], dtype=torch.float64) / math.log(2) + 7)
    torch.testing.assert_close(bits_per_dim(log_p, (3, 2, 2), (0, 1)), bits + 1)


def test_uniform_8_bit_data_takes_8_bits():
    """The density of uniform values in any range, in bits: one of 256 cells, equally likely."""
    for low, high in ((-1, 1), (0, 1), (0, 256)):
        log_p = torch.tensor([-12 * math.log(high - low)])
        assert bits_per_dim(log_p, (3, 2, 2), (low, high)).item() == pytest.approx(8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trace": "hutchinson"}, r"trace must be one of .*rademacher.*got 'hutchinson'"),
        ({"num_probes": 0}, "num_probes must be at least 1, got 0"),
        ({"eps": 0.0}, r"eps must be in \(0, 1\) for a likelihood, got 0"),
        ({"eps": 1.0}, r"eps must be in \(0, 1\) for a likelihood, got 1"),
        ({"rtol": 0.0}, "rtol and atol must be positive, got 0.0 and 1e-05"),
        ({"probes": torch.zeros(2, 2), "trace": "exact"}, "probes go with an estimated trace.*got 'exact'"),
        ({"probes": torch.zeros(2, 2)}, r"probes must be like x .*got \(2, 2\)"),
    ],
)
def test_options_out_of_range(options, message, dims):
    with pytest.raises(InputError, match=message):
        log_likelihood(mixture(build_process("vp"), dims), draws(2, *dims), **options)


def test_data_and_models_that_have_no_likelihood_are_named():
    model = mixture(build_process("vp"), (5, 3))
    for x in (draws(5), torch.zeros(2, 5, 3, dtype=torch.long), draws(2, 5, 3) / 0, draws(0, 5, 3)):
        with pytest.raises(InputError, match=r"x must be \(B, \*dims\) finite real numbers"):
            log_likelihood(model, x)
    with pytest.raises(InputError, match="at most 4096 dimensions"):
        log_likelihood(model, draws(1, 2048, 3), trace="exact")
    with pytest.raises(InputError, match="needs a net that moves every point by itself"):
        log_likelihood(model, draws(2, 5, 3), trace="pointwise")

    class Broken(Denoiser):
        def forward(self, x, t, cond=None):
            return x * math.nan

    with pytest.raises(InputError, match="Broken must give finite values, got others at t = 1e-05"):
        log_likelihood(Broken(build_process("vp")), draws(2, 5, 3), trace="exact")

    class Rough(Denoiser):
        calls = 0

        def forward(self, x, t, cond=None):
            self.calls += 1
            return x * (self.calls % 2)

    with pytest.raises(InputError, match="the probability flow of Rough is too rough for rtol 1e-05"):
        log_likelihood(Rough(build_process("vp")), draws(2, 5, 3), trace="exact", max_steps=50)


def test_the_chains_bound_adds_up_its_terms(dims):
    process = discrete_process("linear", 12, 1e-3, 0.3)
    model = mixture(process, dims)
    x, noise = data(model, 3), draws(12, 3, *dims)
    given = iter(noise)
    bound = chain_bound(model, x, noise=lambda _: next(given))
    terms = [
        OBJECTIVES["vlb"](model, x, torch.full((3,), t), noise[12 - t]) / process.num_steps for t in range(1, 13)
    ]
    torch.testing.assert_close(bound.terms, torch.stack(terms, dim=1))
    torch.testing.assert_close(bound.prior, prior_bits(process, x))
    torch.testing.assert_close(bound.total, bound.terms.sum(dim=1) + bound.prior)
    for t in (1, 12):
        simple = OBJECTIVES["simple"](model, x, torch.full((3,), t), noise[12 - t])
        torch.testing.assert_close(bound.eps_error[:, t - 1], simple)
    a, b = (chain_bound(model, x, generator=seeded(3)).total for _ in range(2))
    assert torch.equal(a, b)


def test_the_chains_bound_lies_above_the_likelihood(dims):
    model = mixture(discrete_process("cosine", 200), dims)
    x = data(model, 64)
    bound = chain_bound(model, x, generator=seeded()).total * math.log(2)
    nats = nats_per_dim(model.log_density(x, torch.zeros(64, dtype=torch.long)), dims)
    gap = (bound - nats).mean()
    assert 0 < gap < 1


def test_a_process_without_steps_has_no_chains_bound(dims):
    with pytest.raises(InputError, match="needs a process with num_steps, got VP"):
        chain_bound(mixture(build_process("vp"), dims), draws(2, *dims))
