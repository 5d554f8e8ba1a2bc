"""One property suite for every flow: a new flow is one line in `FLOWS`."""

import io
import math

import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.flows import (
    PRIORS,
    ContinuousFlow,
    CouplingFlow,
    DiffusionPrior,
    StandardNormal,
    standard_normal_log_prob,
)

FLOWS = {
    "coupling, even depth": lambda dim: CouplingFlow(dim, depth=4, hidden_dim=16),
    "coupling, odd depth": lambda dim: CouplingFlow(dim, depth=3, hidden_dim=16),
    "coupling, one layer": lambda dim: CouplingFlow(dim, depth=1, hidden_dim=16),
    "coupling, default depth": lambda dim: CouplingFlow(dim, hidden_dim=16),
    "cnf": lambda dim: ContinuousFlow(dim, widths=(16, 16), tolerance=1e-8),
    "cnf, one layer, long, normal probes": lambda dim: ContinuousFlow(dim, (), 2.0, "gaussian", 1e-8),
    "cnf, exact in training": lambda dim: ContinuousFlow(dim, (16,), trace="exact", tolerance=1e-8),
}
DIMS = [2, 3, 8, 9]
# Couplings cut a vector into halves, so that each depth meets each size. Continuous flows do not, and take long.
SIZES = [(name, dim) for name in FLOWS if name.startswith("coupling") for dim in DIMS]
SIZES += zip([name for name in FLOWS if name.startswith("cnf")], DIMS[1:], strict=True)
SIZES += [("cnf", 2)]

every_flow = pytest.mark.parametrize("name", list(FLOWS))
every_size = pytest.mark.parametrize(("name", "dim"), SIZES)


def make(name, dim, seed=0):
    torch.manual_seed(seed)
    return FLOWS[name](dim).double().eval()


def draws(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def error(name, exact, solved=1e-6):
    """Return what a flow may be off by: rounding, or its solver's error."""
    return solved if name.startswith("cnf") else exact


def jacobian(direction, v):
    """Return the Jacobian of one vector's map, all rows from one backward pass."""
    copies = v.expand(len(v), -1).clone().requires_grad_()
    return torch.autograd.grad(direction(copies)[0], copies, torch.eye(len(v), dtype=v.dtype))[0]


def test_the_suite_has_every_flow():
    """But for the diffusion prior, which test_diffusion_prior.py has: its training takes a bound."""
    assert {type(make(name, 4)) for name in FLOWS} | {StandardNormal, DiffusionPrior} == set(PRIORS.values())


def test_the_standard_normal_is_the_identity():
    prior, z = StandardNormal(3), draws(5, 3)
    for direction in (prior, prior.inverse):
        v, log_det = direction(z)
        assert torch.equal(v, z)
        assert torch.equal(log_det, torch.zeros(5, dtype=torch.float64))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    torch.testing.assert_close(prior.log_prob(z), expected)


@every_size
def test_shapes(name, dim):
    flow = make(name, dim)
    for direction in (flow, flow.inverse):
        v, log_det = direction(draws(5, dim))
        assert v.shape == (5, dim)
        assert log_det.shape == (5,)
    assert flow.log_prob(draws(5, dim)).shape == (5,)
    assert flow.exact_log_prob(draws(5, dim)).shape == (5,)
    assert flow.to_latent(draws(5, dim)).shape == (5, dim)


@every_size
def test_inverse_undoes_forward_both_ways(name, dim):
    flow, z, atol = make(name, dim), draws(16, dim), error(name, 1e-10)
    w, log_det = flow(z)
    assert (w - z).abs().max() > 1e-2  # not the identity
    back, inverse_log_det = flow.inverse(w)
    torch.testing.assert_close(back, z, rtol=0, atol=atol)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=atol)
    torch.testing.assert_close(flow(flow.inverse(z)[0])[0], z, rtol=0, atol=atol)
    torch.testing.assert_close(flow.to_latent(z), flow.inverse(z)[0], rtol=0, atol=error(name, 0))


@every_size
def test_log_det_is_that_of_autograds_jacobian(name, dim):
    flow = make(name, dim)
    for direction in (flow, flow.inverse):
        for v in draws(2, dim):
            expected = torch.linalg.slogdet(jacobian(direction, v))
            log_det = direction(v[None])[1][0]
            torch.testing.assert_close(log_det, expected.logabsdet, rtol=0, atol=error(name, 1e-9))
            assert expected.sign == 1


@every_size
@pytest.mark.parametrize("training", [True, False])
def test_every_parameter_gets_a_gradient(name, dim, training):
    flow = make(name, dim).train(training)
    flow.log_prob(draws(32, dim), seeded()).mean().backward()
    silent = [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@every_flow
def test_training_draws_from_its_generator_alone(name):
    flow, z, before = make(name, 6), draws(5, 6), torch.get_rng_state()
    exact = flow.log_prob(z)
    a, b, c = (flow.train().log_prob(z, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, b)
    drawn = name.startswith("cnf") and "exact" not in name
    assert torch.equal(a, c) != drawn
    assert torch.isclose(a, exact, rtol=0, atol=1e-6).all() != drawn
    torch.testing.assert_close(flow.exact_log_prob(z), exact, rtol=0, atol=error(name, 0))


@every_size
def test_samples_do_not_influence_one_another(name, dim):
    flow, z = make(name, dim), draws(6, dim)
    torch.testing.assert_close(flow.log_prob(z)[3:4], flow.log_prob(z[3:4]), rtol=0, atol=error(name, 1e-12))


@every_flow
def test_density_integrates_to_one(name):
    flow, steps = make(name, 2), 320
    if name.startswith("cnf"):
        flow.tolerance, steps = 1e-5, 120
    side = torch.linspace(-24, 24, steps + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        total = flow.log_prob(grid).exp().sum() * (side[1] - side[0]).square()
    assert abs(total - 1) < 1e-2


@every_size
def test_log_prob_is_change_of_variables(name, dim):
    flow, z = make(name, dim), draws(4, dim)
    w, log_det = flow(z)
    normal = torch.distributions.Normal(0, 1).log_prob(w).sum(dim=1)
    torch.testing.assert_close(flow.log_prob(z), normal + log_det)


@every_size
def test_save_and_load(name, dim):
    flow, file = make(name, dim), io.BytesIO()
    torch.save(flow.state_dict(), file)
    other = make(name, dim, seed=99)
    z = draws(4, dim)
    assert not torch.equal(other(z)[0], flow(z)[0])
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(z)[0], flow(z)[0])


@every_flow
@pytest.mark.parametrize("direction", ["forward", "inverse", "log_prob"])
@pytest.mark.parametrize("shape", [(4, 5), (4,), (4, 6, 1)])
def test_wrong_shapes_are_named(name, direction, shape):
    with pytest.raises(InputError, match=r"must be \(B, 6\)") as caught:
        getattr(make(name, 6), direction)(torch.zeros(shape, dtype=torch.float64))
    assert str(tuple(shape)) in str(caught.value)


@pytest.mark.parametrize(("name", "dim"), [size for size in SIZES if size[0] != "coupling, one layer"])
def test_every_coordinate_is_transformed(name, dim):
    """Odd sizes too: a coordinate that no layer drives would keep a standard normal prior for ever."""
    z = draws(5, dim)
    w, _ = make(name, dim)(z)
    assert ((w - z).abs() > 1e-6).any(dim=0).all()


def test_standard_normal_log_prob_counts_its_constant_once():
    w = draws(3, 7)
    expected = torch.distributions.MultivariateNormal(torch.zeros(7).double(), torch.eye(7).double()).log_prob(w)
    torch.testing.assert_close(standard_normal_log_prob(w), expected)
    assert standard_normal_log_prob(torch.zeros(1, 4)).item() == pytest.approx(-2 * math.log(2 * math.pi))
