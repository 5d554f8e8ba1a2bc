"""Completion: given points stay clean, reach the net, and are neither trained on nor drawn."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from pcdiff.config import CloudObjectiveConfig, ModelConfig, ProcessConfig, RunConfig, check, run_from_dict, to_json
from pcdiff.errors import InputError
from pcdiff.models import Completion, build_model
from pcdiff.nets import NETS, PointwiseNet
from pcdiff.nets.given_points import WithGivenPoints

GIVEN = 6


class Spy(nn.Module):
    """Predicts a linear map of every point and its cloud's mean, and keeps what it was fed."""

    def __init__(self, cond_dim: int = 0, point_dim: int = 3):
        super().__init__()
        self.cond_dim, self.point_dim = cond_dim, point_dim
        self.map = nn.Linear(2 * point_dim + 1, point_dim)

    def forward(self, x, t, cond=None):
        self.fed = x.detach(), t, cond
        told = torch.cat([x.mean(dim=1), t[:, None].to(x)], dim=1)[:, None].expand(-1, x.shape[1], -1)
        return self.map(torch.cat([x, told], dim=2))


class Posterior(nn.Module):
    """E[x_0 | x_t] of points that are N(mean of the given ones, spread^2), in a VP process, told log SNR / 4."""

    def __init__(self, spread: float = 0.3):
        super().__init__()
        self.spread = spread
        self.unused = nn.Linear(1, 1)

    def forward(self, x, t, cond=None):
        snr = (4 * t.to(x)).exp()[:, None, None]
        alpha, variance = (snr / (1 + snr)).sqrt(), 1 / (1 + snr)
        mean = x[:, :GIVEN].mean(dim=1, keepdim=True)
        gain = alpha * self.spread**2 / (alpha**2 * self.spread**2 + variance)
        return mean + gain * (x - alpha * mean)


def model_of(net=None, process=None, objective=None, **config):
    torch.manual_seed(0)
    config = ModelConfig(kind="completion", num_given=GIVEN, **config)
    return Completion(config, process, objective, net=Spy() if net is None else net)


def clouds(count=4, points=16, seed=0):
    return torch.randn(count, points, 3, generator=torch.Generator().manual_seed(seed))


def test_the_net_sees_given_points_clean_and_only_the_others_are_noised():
    model, x = model_of(), clouds()
    t, noise = torch.tensor([1.0, 30, 60, 100]), clouds(points=16 - GIVEN, seed=1)
    model.loss_terms(x, t=t, noise=noise)
    fed = model.denoiser.net.net.fed[0]
    assert torch.equal(fed[:, :GIVEN], x[:, :GIVEN])
    torch.testing.assert_close(fed[:, GIVEN:], model.denoiser.process.perturb(x[:, GIVEN:], t, noise))


def test_the_loss_is_that_of_the_other_points_alone():
    model, x = model_of(), clouds()
    nn.init.zeros_(model.denoiser.net.net.map.weight)
    nn.init.zeros_(model.denoiser.net.net.map.bias)
    noise = clouds(points=16 - GIVEN, seed=1)
    loss = model.loss_terms(x, t=torch.full((4,), 50.0), noise=noise)["loss"]
    torch.testing.assert_close(loss, noise.square().mean())  # the prediction is 0
    draws = model.draw(x, 8, torch.Generator().manual_seed(0))
    assert draws["noise"].shape == (8, 16 - GIVEN, 3)
    assert draws["t"].shape == (8,)


def test_gradients_of_the_loss_come_from_the_given_points_through_the_net_alone():
    model, x = model_of(), clouds().requires_grad_()
    model.loss_terms(x, t=torch.full((4,), 50.0), noise=clouds(points=16 - GIVEN, seed=1))["loss"].backward()
    (of_given,) = (x.grad[:, :GIVEN],)
    # the net knows of the given points by their cloud's mean, so that each counts alike
    torch.testing.assert_close(of_given, of_given[:, :1].expand_as(of_given))
    assert of_given.abs().max() > 0


@pytest.mark.parametrize("sampler", ["ancestral", "dpmpp"])
def test_given_points_come_back_unchanged_and_stay_clean_at_every_step(sampler):
    model, x = model_of().eval(), clouds()
    seen = []
    spy = model.denoiser.net.net
    spy.register_forward_hook(lambda *_: seen.append(spy.fed[0][:, :GIVEN]))
    done = model.complete(
        x[:, :GIVEN], 20, sampler=sampler, num_steps=5, generator=torch.Generator().manual_seed(0)
    )
    assert done.shape == (4, 20, 3)
    assert torch.equal(done[:, :GIVEN], x[:, :GIVEN])
    assert len(seen) >= 5
    assert all(torch.equal(each, x[:, :GIVEN]) for each in seen)


def test_the_rest_is_drawn_from_its_posterior_given_the_points():
    """Of points that are N(m, 0.3^2) about the mean m of the given ones; tolerances of five standard errors."""
    process = ProcessConfig(name="vp", predicts="x0", time_input="log_snr")
    model = model_of(Posterior(0.3), process).eval()
    given = clouds(3)[:, :GIVEN] + torch.tensor([-1.0, 0.0, 2.0])[:, None, None]
    count = 4000
    done = model.complete(
        given, GIVEN + count, sampler="heun", num_steps=60, generator=torch.Generator().manual_seed(0)
    )
    drawn = done[:, GIVEN:].double()
    error = 0.3 / math.sqrt(count)
    assert (drawn.mean(dim=1) - given.mean(dim=1)).abs().max() < 5 * error + 0.01  # 0.01: of 60 steps
    assert (drawn.std(dim=1) / 0.3 - 1).abs().max() < 5 / math.sqrt(2 * count) + 0.02


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_with_scaled_inputs_the_given_points_enter_as_clean_ones_do_at_the_end(sigma_data):
    process = ProcessConfig(name="edm", predicts="edm", time_input="edm", sigma_data=sigma_data)
    model, x = model_of(process=process, objective=CloudObjectiveConfig(objectives=("regression",))), clouds()
    for sigma in (1e-3, 80.0):
        model.loss_terms(x, t=torch.full((4,), sigma), noise=torch.zeros(4, 16 - GIVEN, 3))
        fed = model.denoiser.net.net.fed[0]
        # c_in(sigma) x = x / sqrt(sigma^2 + sigma_data^2), at sigma = 0
        torch.testing.assert_close(fed[:, :GIVEN], x[:, :GIVEN] / sigma_data)
        torch.testing.assert_close(fed[:, GIVEN:], x[:, GIVEN:] / math.hypot(sigma, sigma_data))


def test_a_mark_tells_the_net_which_points_are_given():
    model, x = model_of(Spy(point_dim=4), mark_given=True), clouds()
    loss = model.loss_terms(x, torch.Generator().manual_seed(0))["loss"]
    fed = model.denoiser.net.net.fed[0]
    assert fed.shape == (4, 16, 4)
    assert torch.equal(fed[..., 3], (torch.arange(16) < GIVEN).float().expand(4, 16))
    assert loss.isfinite()


def test_a_condition_beside_the_given_points_reaches_the_net():
    net = WithGivenPoints(Spy())
    vector = torch.ones(2, 5)
    assert net(clouds(2, 7), torch.zeros(2), {"given": clouds(2, 3), "vector": vector}).shape == (2, 7, 3)
    assert net.net.fed[2] is vector
    assert net.net.fed[0].shape == (2, 10, 3)


def test_a_draw_and_its_parts_go_together():
    """A batch cut up among processes has the loss of the whole."""
    model, x = model_of(), clouds()
    draws = model.draw(x[:2], 4, torch.Generator().manual_seed(0))
    whole = model.loss_terms(x, **draws)["loss"]
    halves = [
        model.loss_terms(x[rows], **{name: v[rows] for name, v in draws.items()})["loss"]
        for rows in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


def test_a_net_that_moves_every_point_by_itself_is_refused():
    message = "a completion model needs a net whose points see one another, got pointwise"
    with pytest.raises(InputError, match=message):
        build_model(ModelConfig(kind="completion"))
    with pytest.raises(InputError, match=message):
        model_of(PointwiseNet)
    with pytest.raises(InputError, match=message):
        check(RunConfig(model=ModelConfig(kind="completion")))


def test_a_config_comes_back_and_older_ones_have_no_given_points():
    config = RunConfig(model=ModelConfig(kind="completion", num_given=7, mark_given=True))
    assert run_from_dict(json.loads(to_json(config)), "here") == config
    values = json.loads(to_json(RunConfig()))
    del values["model"]["num_given"], values["model"]["mark_given"]
    assert run_from_dict(values, "here") == RunConfig()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.loss_terms(clouds(points=GIVEN)), "num_given must be below the 6 points of a cloud, got 6"),
        (lambda m: m.complete(clouds(), 16), "num_points must be more than the 16 points given, got 16"),
        (lambda m: m.denoiser(clouds(), torch.ones(4)), r"the given points must be \(4, G, 3\), got None"),
        (
            lambda m: m.denoiser(clouds(), torch.ones(4), {"given": clouds(3)}),
            r"the given points must be \(4, G, 3\), got \(3, 16, 3\)",
        ),
        (lambda m: m.encode(clouds()), "a completion model has no encoder"),
        (lambda _: model_of(objective=CloudObjectiveConfig(times_per_cloud=4)), "times_per_cloud must be 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call(model_of())


def test_a_learned_variance_is_refused():
    config = ModelConfig(kind="completion", num_given=5)
    made_from = NETS["set_transformer"].Config(width=8, depth=1, num_heads=1, num_inducers=2, learned_variance=True)
    with pytest.raises(InputError, match="takes no learned variance, got the net set_transformer"):
        build_model(replace(config, net="set_transformer", net_options=made_from))
