"""The diffusion prior: its bound against closed forms, its density against the likelihood of the diffusion core."""

import math

import pytest
import torch
from torch import nn

from pcdiff.config import ModelConfig, ProcessConfig
from pcdiff.diffusion import log_likelihood
from pcdiff.errors import InputError
from pcdiff.flows import DiffusionPrior, standard_normal_log_prob
from pcdiff.models import Latent
from pcdiff.nets import PointwiseConfig
from pcdiff.nets.residual_mlp import ResidualMLP


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def make(dim=3, **options):
    torch.manual_seed(0)
    return DiffusionPrior(dim, **{"width": 16, "depth": 2, "tolerance": 1e-6} | options).double()


def stirred(prior):
    """Give the last layer weights, which start at zero."""
    with torch.no_grad():
        for p in prior.denoiser.net.last.parameters():
            p.copy_(0.1 * torch.randn(p.shape, generator=seeded(3)))
    return prior


class Gaussian(nn.Module):
    """The exact v of data from N(mean, std^2 I), in closed form."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x, label, cond=None):
        ratio = (2 * label).exp()[:, None]  # alpha / sigma, and alpha^2 + sigma^2 = 1
        sigma = (1 + ratio.square()).rsqrt()
        alpha = ratio * sigma
        total = (alpha * self.std).square() + sigma.square()
        x0 = self.mean + alpha * self.std**2 / total * (x - alpha * self.mean)
        eps = (x - alpha * x0) / sigma
        return alpha * eps - sigma * x0


def exact(mean, std, dim=2):
    prior = make(dim)
    prior.denoiser.net = Gaussian(mean, std)
    return prior


def test_it_starts_as_the_standard_normal():
    prior, z = make(), draws(5, 3)
    expected = standard_normal_log_prob(z)
    torch.testing.assert_close(prior.train().log_prob(z, seeded()), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(prior.eval().log_prob(z), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(prior.to_base(z), z, rtol=0, atol=1e-9)
    torch.testing.assert_close(prior.sample(z), z, rtol=0.02, atol=0.02)  # 20 steps of a solver


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.8), (-1.0, 1.5)])
def test_the_bound_of_an_exact_score_is_the_density(mean, std):
    """Below sigma_min = 0.01 N(0, I)'s score stands in for the exact one; that costs less than 1e-3 nats here.

    The mean of 20,000 estimates, whose standard error is measured, may be off by that and five of these.
    """
    prior = exact(mean, std).train()
    for z in (torch.tensor([0.2, 1.0]), torch.tensor([-1.5, 0.3])):
        z = z.double().expand(20_000, -1)
        found = prior.log_prob(z, seeded())
        expected = torch.distributions.Normal(mean, std).log_prob(z[0]).sum()
        error = float(found.std()) / math.sqrt(len(z))
        assert abs(float(found.mean() - expected)) < 1e-3 + 5 * error
        assert error < 0.1


def test_the_flow_carries_a_gaussian_to_the_base():
    """What little signal is left at T (alpha = 0.0066) keeps the map from the exact `(z - mean) / std`."""
    prior, z = exact(0.5, 0.8).eval(), draws(4, 2)
    w = prior.to_base(z)
    torch.testing.assert_close(w, (z - 0.5) / 0.8, rtol=0, atol=2e-2)
    torch.testing.assert_close(prior.to_latent(w), z, rtol=0, atol=1e-4)
    drawn = prior.sample(w)
    torch.testing.assert_close(drawn, z, rtol=0.02, atol=0.02)  # 20 steps of a solver


def test_the_density_is_the_diffusion_cores_likelihood():
    prior, z = stirred(make()).eval(), draws(3, 3)
    expected = log_likelihood(prior.denoiser, z, trace="exact", rtol=1e-6, atol=1e-6).log_likelihood
    torch.testing.assert_close(prior.exact_log_prob(z), expected, rtol=0, atol=5e-4)
    assert (expected - standard_normal_log_prob(z)).abs().max() > 1e-2
    training = prior.train()
    torch.testing.assert_close(training.exact_log_prob(z), expected, rtol=0, atol=5e-4)


def test_dropout_leaves_the_density_alone():
    prior, z = stirred(make(dropout=0.5)), draws(3, 3)
    assert torch.equal(prior.train().exact_log_prob(z), prior.eval().exact_log_prob(z))
    probes = prior.train().draw_probes(3, seeded()).double()
    assert not torch.equal(prior.log_prob(z, probes=probes), prior.log_prob(z, probes=probes))


def test_the_bound_trains_the_net_and_the_latent():
    prior, z = stirred(make()).train(), draws(8, 3).requires_grad_()
    prior.log_prob(z, seeded()).sum().backward()
    assert z.grad.abs().min() > 0
    assert all(p.grad is not None and p.grad.any() for p in prior.parameters())
    probes = prior.draw_probes(8, seeded())
    whole = prior.log_prob(z, probes=probes)
    torch.testing.assert_close(prior.log_prob(z[2:5], probes=probes[2:5]), whole[2:5], rtol=1e-12, atol=1e-12)
    places = (probes[:, -1] * 8).floor().sort().values
    assert places.tolist() == list(range(8))  # one in each eighth of the log-SNR


@pytest.mark.slow
def test_samples_follow_what_it_was_trained_on():
    """Two clusters at +2 and -2 with spread 0.3: nearly all samples lie within four spreads of one."""
    torch.manual_seed(0)
    prior = DiffusionPrior(2, width=32, depth=2).train()
    optimizer = torch.optim.Adam(prior.parameters(), 5e-3)
    for step in range(150):
        sign = torch.randint(2, (128, 1), generator=seeded(step)) * 4.0 - 2
        z = sign + 0.3 * torch.randn(128, 2, generator=seeded(step + 1000))
        optimizer.zero_grad()
        loss = -prior.log_prob(z, seeded(step)).mean()
        loss.backward()
        optimizer.step()
    drawn = prior.eval().sample(torch.randn(400, 2, generator=seeded(5)))
    off = (drawn.abs() - 2).abs().max(dim=1).values
    assert (off < 1.2).float().mean() > 0.9
    assert 0.25 < (drawn[:, 0] > 0).float().mean() < 0.75


def test_a_latent_model_takes_it():
    torch.manual_seed(0)
    options = {"net_options": PointwiseConfig(widths=(8,))}
    model = Latent(ModelConfig(latent_dim=4, **options), ProcessConfig(name="vp"), prior=make(4).float())
    x = torch.randn(6, 8, 3, generator=seeded())
    draw = model.draw(x, 6, seeded())
    assert draw["probes"].shape == (6, 5)
    terms = model.loss_terms(x, **draw)
    assert set(terms) == {"loss", "reconstruction", "prior", "entropy"}
    terms["loss"].backward()
    assert model.encoder.mean_head[-1].weight.grad.any()
    model.eval()
    z = model.encode(x)
    torch.testing.assert_close(model.base_to_latent(model.latent_to_base(z)), z, rtol=0, atol=1e-4)
    assert model.latent_log_prob(z).shape == (6,)
    assert model.sample(3, 8, generator=seeded(), truncate_std=1.0).isfinite().all()


def test_a_class_guides_the_latent_too():
    """LSGM's prior with classes: guided latents go past the conditional ones, from those of no class."""
    torch.manual_seed(0)
    config = ModelConfig(latent_dim=3, net_options=PointwiseConfig(widths=(8,)))
    prior = DiffusionPrior(3, width=16, depth=2, cond_dim=64, num_steps=1)
    model = Latent(config, ProcessConfig(name="vp"), prior=stirred(prior), class_names=("a", "b")).eval()
    labels = torch.tensor([0, 1])
    plain, twice, none = (
        model.sample_latent(2, seeded(), None, given, scale)
        for given, scale in ((labels, 1.0), (labels, 2.0), (None, None))
    )
    # one step of the first-order solver is linear in the estimate
    torch.testing.assert_close(twice, none + 2 * (plain - none), rtol=0, atol=1e-4)
    assert not torch.allclose(plain[0], none[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_min": 0.0}, r"sigma_min must be in \(0, 1\), .* got 0.0"),
        ({"width": 0}, "dim, width, depth and num_steps must be at least 1, got 3, 0, 2 and 20"),
        ({"sampler": "dpm++"}, r"predictor must be one of .*dpmpp.*, got 'dpm\+\+'"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\), got .* 1.0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


def test_the_net_has_lions_layers():
    """LION's global prior has 77.17 M parameters in 128 dimensions (its own count: 77,172,992 with biases)."""
    with torch.device("meta"):
        net = ResidualMLP(128, width=2048, depth=8)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == 77.2
    with pytest.raises(InputError, match=r"x must be \(B, 3\), got \(2, 4\)"):
        ResidualMLP(3, 8, 1)(torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(InputError, match=r"cond must be \(2, 5\), got None"):
        ResidualMLP(3, 8, 1, cond_dim=5)(torch.zeros(2, 3), torch.zeros(2))
