"""Where no signal is left, rectified flow's end: limits where there are any, one line where there are none."""

import math

import pytest
import torch

from pcdiff.diffusion import (
    OBJECTIVES,
    PARAMETRIZATIONS,
    TIME_INPUTS,
    Denoiser,
    EDMProcess,
    NetDenoiser,
    RectifiedFlow,
    draw_times,
    invert,
    objective,
    parametrization,
    predictor,
    sample,
    time_draw,
)
from pcdiff.errors import InputError

PATH = RectifiedFlow()
END = torch.ones(2, dtype=torch.float64)
NEAR = END - 1e-9
BLIND = ("eps", "score")  # do not determine x_0 there


def net(x, tau, cond=None):
    """Return what depends on x and on the time it is told."""
    return 0.3 * x + 0.1 * torch.tanh(tau.to(x)).view(-1, *[1] * (x.dim() - 1))


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(set(PARAMETRIZATIONS) - {"previous", *BLIND}))
def test_estimates_go_on_to_where_no_signal_is_left(name, dims):
    x, model = draws(2, *dims), NetDenoiser(net, PATH, name, "t")
    for ask in (model, model.eps, model.score, model.velocity):
        torch.testing.assert_close(ask(x, END), ask(x, NEAR), rtol=1e-7, atol=1e-7)
    x0, noise, says = draws(2, *dims, seed=1), draws(2, *dims, seed=2), parametrization(name)
    torch.testing.assert_close(says.target(PATH, x0, noise, END), says.target(PATH, x0, noise, NEAR))


@pytest.mark.parametrize("name", BLIND)
def test_noise_and_score_say_nothing_of_the_data_there(name, dims):
    x, model = draws(2, *dims), NetDenoiser(net, PATH, name, "t")
    assert torch.equal(model.eps(x, END), -model.score(x, END))
    for ask in (model, model.velocity, model.estimate):
        with pytest.raises(InputError, match=r"alpha\(t\) > 0, got 1: .* x_init and a t_start below") as caught:
            ask(x, END)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("step", ["ancestral", "kernel", "ddim", "dpmpp", "unipc", "ode"])
@pytest.mark.parametrize("name", BLIND)
def test_samplers_refuse_such_nets_at_the_end(step, name, dims):
    model = NetDenoiser(net, PATH, name, "t")
    with pytest.raises(InputError, match="noise and score do not determine x_0 there"):
        sample(model, (2, *dims), sampler=step, num_steps=None if step == "ode" else 4)
    with pytest.raises(InputError, match="noise and score do not determine x_0 there"):
        invert(model, draws(2, *dims), sampler=predictor("heun", variable="t"), num_steps=4)
    x = sample(model, x_init=draws(2, *dims), t_start=0.99, sampler=step, num_steps=None if step == "ode" else 4)
    assert x.isfinite().all()


@pytest.mark.parametrize("name", sorted(name for name, known in TIME_INPUTS.items() if known.fits(PATH)))
def test_nets_are_told_finite_times(name, dims):
    """The label of where the log-SNR is infinite is that of the last float32 before."""
    model = NetDenoiser(net, PATH, "velocity", name)
    assert model.tau(END).isfinite().all()
    before = torch.nextafter(torch.ones(2), torch.zeros(2)).double()
    torch.testing.assert_close(model.tau(END).double(), model.tau(before).double(), rtol=1e-6, atol=0)
    assert sample(model, (2, *dims), sampler="ddim", num_steps=4).isfinite().all()


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"elbo", "vlb", "hybrid", "likelihood"}))
@pytest.mark.parametrize("predicts", ["velocity", "edm", "v"])
def test_objectives_have_their_limits_there(name, predicts, dims):
    model, (x0, noise) = NetDenoiser(net, PATH, predicts, "t"), draws(2, 2, *dims)
    options = {"projection": draws(2, *dims, seed=1)} if name == "sliced" else {}
    end, near = (objective(name, **options)(model, x0, t, noise) for t in (END, NEAR))
    assert end.isfinite().all()
    torch.testing.assert_close(end, near, rtol=1e-6, atol=1e-6)


def test_edms_weight_there_is_that_of_the_data(dims):
    class Zero(Denoiser):
        def forward(self, x, t, cond=None):
            return 0 * x

    x0 = draws(2, *dims)
    found = objective("edm", sigma_data=0.25)(Zero(PATH), x0, END, draws(2, *dims, seed=1))
    torch.testing.assert_close(found, 16 * x0.square().flatten(1).mean(dim=1))


def test_the_likelihoods_weight_is_infinite_there(dims):
    model, (x0, noise) = NetDenoiser(net, PATH, "velocity", "t"), draws(2, 2, *dims)
    with pytest.raises(InputError, match=r"t must have a finite g\(t\) here, got 1"):
        objective("likelihood")(model, x0, torch.tensor([0.5, 1.0]), noise)


@pytest.mark.parametrize("name", ["uniform", "importance", "log_normal", "log_uniform"])
def test_times_without_signal_are_not_drawn(name, monkeypatch):
    """Not even by rounding: the largest float32 that torch.rand gives, and normals far out, end just below."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 1 - 2**-24))
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.full(shape, 40.0))
    options = {} if name == "log_normal" else {"eps": 1e-9}
    t = time_draw(name, **options)(PATH, 3).t
    assert t.dtype == torch.float32
    assert (t < 1).all()
    assert PATH.alpha(t).min() >= 2**-24
    assert time_draw("log_normal")(EDMProcess(), 3).t.max() > 1e10  # all levels are times there


def test_times_stay_at_or_below_an_end_that_float32_rounds_up(monkeypatch):
    process = EDMProcess(sigma_max=0.99)
    assert float(torch.tensor(0.99)) > 0.99
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(shape))
    t = draw_times(process, 3)
    assert (t.double() <= 0.99).all()
    assert math.isclose(float(t[0]), 0.99, rel_tol=1e-6)


@pytest.mark.parametrize("name", ["reverse_diffusion", "euler_maruyama", "score_ancestral"])
@pytest.mark.parametrize("flow", [False, True])
def test_an_infinite_sde_is_refused_before_any_step(name, flow, dims):
    if flow and name == "score_ancestral":
        return
    step = predictor(name, **({"flow": True} if flow else {}))
    calls = []

    def watched(x, tau, cond=None):
        calls.append(1)
        return net(x, tau)

    model = NetDenoiser(watched, PATH, "velocity", "t")
    if name == "euler_maruyama" and flow:
        assert sample(model, (2, *dims), sampler=step, num_steps=5).isfinite().all()
        return
    with pytest.raises(InputError, match=r"cannot start where the SDE of RectifiedFlow is infinite, at t = 1"):
        sample(model, (2, *dims), sampler=step, num_steps=50)
    assert not calls
