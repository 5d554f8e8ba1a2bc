"""The generator with each flow as its prior, by name: training, exact density, checkpoints, and the script."""

import json

import pytest
import torch
from refusals import refused
from scipy import stats
from script_tools import assert_same, script, tensors, train
from small_models import small_model, small_run

import pcdiff
from pcdiff.config import RunConfig, check, to_json
from pcdiff.errors import InputError, UnknownName
from pcdiff.flows import PRIORS, CouplingFlow
from pcdiff.training import checkpoint

SMALL = {
    "latent_dim": 6,
    "encoder_widths": (8, 16),
    "encoder_head_widths": (8,),
    "flow_depth": 4,
    "flow_hidden_dim": 8,
    "cnf_widths": (16,),
    "cnf_time": 1.0,
    "net_widths": (8, 16, 8),
    "num_steps": 10,
}
every_flow = pytest.mark.parametrize("flow", ["cnf", "coupling"])


def make(flow, seed=0, **options):
    torch.manual_seed(seed)
    return small_model(SMALL | dict(flow=flow, **options), kl_weight=0.1)


def clouds(batch=8, num_points=12):
    return torch.randn(batch, num_points, 3, generator=seeded(1))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@every_flow
def test_the_prior_by_name(flow):
    assert type(make(flow).prior) is PRIORS[flow]
    assert make(flow).prior.dim == SMALL["latent_dim"]


def test_the_continuous_flow_takes_its_options():
    flow = make("cnf", cnf_widths=(5, 7), cnf_trace="exact", cnf_tolerance=1e-4).prior
    assert [layer.linear.out_features for layer in flow.net.layers] == [5, 7, 6]
    assert (flow.time_length, flow.trace, flow.tolerance) == (1.0, "exact", 1e-4)


def test_an_unknown_flow_lists_the_known_ones():
    with refused(UnknownName, what="prior", name="glow"):
        make("glow")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cnf_time": 0.0}, r"prior\.time_length must be above 0, got 0.0"),
        ({"cnf_tolerance": -1e-5}, r"prior\.tolerance must be above 0, got -1e-05"),
        ({"cnf_widths": (8, 0)}, r"prior\.widths must be at least 1, got 0"),
        ({"latent_dim": 1}, "latent_dim must be at least 2 for a coupling flow, got 1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        check(small_run(SMALL | {"flow": "cnf" if "latent_dim" not in options else "coupling"} | options))


def test_a_continuous_flow_may_have_one_dimension():
    check(small_run(SMALL | {"flow": "cnf", "latent_dim": 1}))
    assert make("cnf", latent_dim=1).eval().sample(2, 5, generator=seeded()).shape == (2, 5, 3)


@every_flow
def test_losses_draw_from_their_generator_alone(flow):
    model = make(flow).train()
    before = torch.get_rng_state()
    a, b, c = (model.loss_terms(clouds(), seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert a == b
    assert a["prior"] != c["prior"]


@every_flow
def test_training_steps_lower_the_priors_share(flow):
    """Steps as the trainer takes them, of the prior alone: latents far from normal become likely."""
    model, draw = make(flow).train(), seeded(3)
    z = 3 + 0.5 * torch.randn(64, SMALL["latent_dim"], generator=draw)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-2)
    before = -model.latent_log_prob(z).mean()
    for _ in range(12):
        terms = model.loss_terms(clouds(), draw)
        loss = terms["loss"] - model.prior_log_prob(z, draw).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert -model.latent_log_prob(z).mean() < before - 5


@every_flow
def test_the_exact_density_of_latents(flow):
    """In training mode too, and without gradients."""
    model = make(flow, cnf_tolerance=1e-7).double().train()
    z = torch.randn(5, SMALL["latent_dim"], generator=seeded(), dtype=torch.float64)
    density = model.latent_log_prob(z)
    assert density.shape == (5,)
    assert not density.requires_grad
    model.eval()
    torch.testing.assert_close(density, model.prior_log_prob(z).detach(), rtol=1e-12, atol=0)
    w = model.prior(z)[0].detach()
    jacobians = [torch.autograd.functional.jacobian(lambda v: model.prior(v[None])[0][0], sample) for sample in z]
    normal = torch.distributions.Normal(0, 1).log_prob(w).sum(dim=1)
    expected = normal + torch.linalg.slogdet(torch.stack(jacobians))[1]
    torch.testing.assert_close(density, expected, rtol=0, atol=1e-5)


def test_the_exact_density_of_a_gaussian_prior():
    model, z = small_model(SMALL | {"kind": "gaussian"}), torch.randn(5, SMALL["latent_dim"], generator=seeded())
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum(dim=1)
    torch.testing.assert_close(model.latent_log_prob(z), expected)


@every_flow
def test_drawn_latents_go_back_to_a_standard_normal(flow):
    model = make(flow).eval()
    z = model.sample_latent(2000, seeded())
    assert (z - model.prior(z)[0].detach()).abs().max() > 0.1
    for coordinate in model.prior(z)[0].detach().T:
        assert stats.kstest(coordinate.numpy(), "norm").pvalue > 1e-4


@every_flow
def test_the_log_determinant_stays_in_float32_under_autocast(flow):
    model, z = make(flow).eval(), torch.randn(4, SMALL["latent_dim"], generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        pairs = [(model.prior_log_prob(z), model.latent_log_prob(z))]
    pairs.append((model.prior_log_prob(z), model.latent_log_prob(z)))
    for value in pairs[0]:
        assert value.dtype == torch.float32
    torch.testing.assert_close(pairs[0][0], pairs[1][0])
    torch.testing.assert_close(pairs[0][1], pairs[1][1])


@every_flow
def test_checkpoints_keep_the_prior(flow, tmp_path):
    model, path = make(flow).eval(), tmp_path / "model.safetensors"
    config = json.loads(to_json(RunConfig(model=model.config, process=model.process_config)))
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    checkpoint.save(path, weights, {"config": config, "step": 1})
    loaded, z = pcdiff.load(path), torch.randn(3, SMALL["latent_dim"], generator=seeded())
    assert torch.equal(loaded.latent_log_prob(z), model.latent_log_prob(z))


def test_configs_and_checkpoints_from_before_the_choice_are_coupling_flows(tmp_path):
    model, path = make("coupling"), tmp_path / "model.safetensors"
    config = json.loads(to_json(RunConfig(model=model.config, process=model.process_config)))
    for name in [name for name in config["model"] if name == "flow" or name.startswith("cnf_")]:
        del config["model"][name]
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    checkpoint.save(path, weights, {"config": config, "step": 1})
    loaded = pcdiff.load(path)
    assert type(loaded.prior) is CouplingFlow
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


def test_the_script_trains_a_continuous_flow_and_resumes_it_bit_for_bit(dataset, tmp_path):
    flags = ["--flow", "cnf", "--cnf-widths", 8]
    whole = train("train_gen.py", dataset, tmp_path / "whole", *flags, "--max-iters", 6)
    halves = train("train_gen.py", dataset, tmp_path / "halves", *flags, "--max-iters", 3)
    assert script("train_gen.py", "--resume", halves, "--max-iters", 6) == 0
    assert_same(tensors(halves), tensors(whole))
    model = pcdiff.load(whole)
    assert type(model.prior) is PRIORS["cnf"]
    assert model.config.prior_options.widths == (8,)
    assert model.sample(2, 7, generator=seeded()).shape == (2, 7, 3)
