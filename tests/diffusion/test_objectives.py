"""Every objective against a mixture whose score is known: the true score is its minimum; and their closed forms."""

import math

import pytest
import torch
from small_nets import Heads
from torch import nn

from pcdiff.diffusion import (
    OBJECTIVES,
    VE,
    VP,
    Denoiser,
    DiscreteProcess,
    NetDenoiser,
    append_dims,
    build_process,
    cosine_betas,
    discrete_process,
    objective,
)
from pcdiff.errors import InputError

WEIGHTS, CENTERS, STD = (0.3, 0.7), (-0.6, 0.5), 0.3


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(batch, dims):
    """Draw data: every coordinate of a sample about one of two centers."""
    pick = torch.rand(batch, generator=torch.Generator().manual_seed(7)) < WEIGHTS[0]
    center = torch.where(pick, CENTERS[0], CENTERS[1]).double()
    x0 = STD * draws(batch, *dims)
    return x0 + append_dims(center, x0)


class Oracle(nn.Module):
    """The exact noise estimate for `mixture`, times 1 + scale, plus shift; beside it a log-variance, if learned."""

    def __init__(self, process, scale=0.0, shift=0.0, log_variance=None):
        super().__init__()
        self.process, self.scale, self.shift, self.log_variance = process, scale, shift, log_variance

    def forward(self, x, t, cond=None):
        alpha, sigma = append_dims(self.process.alpha(t), x), append_dims(self.process.sigma(t), x)
        variance = alpha**2 * STD**2 + sigma**2
        offsets = torch.stack([x - alpha * center for center in CENTERS])
        log_p = -(offsets.square() / (2 * variance)).flatten(2).sum(dim=2)
        share = (log_p + torch.tensor(WEIGHTS, dtype=torch.float64).log()[:, None]).softmax(dim=0)
        truth = sigma / variance * (share.view(*share.shape, *[1] * (x.dim() - 1)) * offsets).sum(dim=0)
        out = truth * (1 + self.scale) + self.shift
        return (
            out if self.log_variance is None else torch.cat([out, torch.full_like(out, self.log_variance)], dim=1)
        )


CASES = [
    ("simple", "vp", {}),
    ("simple", "rectified_flow", {}),
    ("regression", "subvp", {}),
    ("dsm", "ve", {}),
    ("dsm", "ncsn", {"anneal_power": 1.0}),
    ("likelihood", "vp", {}),
    ("likelihood", "subvp", {}),
    ("sliced", "ve", {}),
    ("sliced", "vp", {"variance_reduction": False}),
    ("edm", "edm", {"sigma_data": 0.6}),
    ("edm", "vp", {}),
    ("flow", "rectified_flow", {}),
    ("flow", "vp", {}),
    ("elbo", "ddpm linear", {}),
    ("vlb", "ddpm linear", {}),
    ("vlb", "ncsn", {}),
    ("hybrid", "ddpm cosine", {}),
]


def test_every_objective_has_a_case():
    assert {name for name, _, _ in CASES} == set(OBJECTIVES)


@pytest.mark.parametrize(("name", "kind", "options"), CASES)
def test_the_true_score_is_the_minimum(name, kind, options, dims, processes):
    """The slope there is 0 within Monte-Carlo error, and the loss larger beside it, on either side.

    All of them are quadratic in the estimate, so central differences are derivatives, sample by sample.
    """
    process, batch = processes[kind](), 4000
    x0, noise = mixture(batch, dims), draws(batch, *dims, seed=1)
    # one time only: over many, errors would average out
    t = torch.full((batch,), max(2, process.num_steps // 2)) if process.num_steps else torch.full((batch,), 0.4)
    if name == "sliced":
        options = {**options, "projection": draws(batch, *dims, seed=3)}

    def per_sample(**change):
        net = Oracle(process, **change, log_variance=-1.0 if name == "hybrid" else None)
        denoiser = NetDenoiser(net, process, time_input="t", variance="learned" if name == "hybrid" else "small")
        return OBJECTIVES[name](denoiser, x0, t, noise, **options).detach()

    best = per_sample()
    assert best.shape == (batch,)
    for change in ({"scale": 0.4}, {"shift": 0.3}):
        above, below = per_sample(**change), per_sample(**{key: -value for key, value in change.items()})
        slope = above - below
        assert abs(slope.mean()) < 5 * slope.std() / math.sqrt(batch)
        for beside in (above, below):
            assert (beside - best).mean() > 5 * (beside - best).std() / math.sqrt(batch), change


@pytest.mark.parametrize("predicts", ["x0", "score", "v", "velocity"])
@pytest.mark.parametrize("kind", ["vp", "ve", "rectified_flow"])
def test_regressions_of_every_form_have_the_same_minimum(predicts, kind, dims, processes):
    """The target's mean given x_t is that form of the exact estimate: the rest does not correlate with x."""
    process, batch = processes[kind](), 2000
    x0, noise = mixture(batch, dims), draws(batch, *dims, seed=1)
    t = torch.full((batch,), 0.4)
    oracle = NetDenoiser(Oracle(process), process, time_input="t")
    x = process.perturb(x0, t, noise)
    says = NetDenoiser(nn.Identity(), process, predicts).parametrization

    class Beside(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, x, t, cond=None):
            return says.target(process, *oracle.estimate(x, t), t) + self.scale * x

    loss, above, below = (
        OBJECTIVES["regression"](NetDenoiser(Beside(scale), process, predicts, "t"), x0, t, noise)
        for scale in (0.0, 0.3, -0.3)
    )
    slope = above - below
    assert abs(slope.mean()) < 5 * slope.std() / math.sqrt(batch)
    by_hand = says.target(process, *oracle.estimate(x, t), t) - says.target(process, x0, noise, t)
    torch.testing.assert_close(loss, by_hand.square().flatten(1).mean(dim=1))


def setting(dims, process=None, batch=4):
    process = process or VP()
    t = torch.linspace(0.1, 0.9, batch, dtype=torch.float64)
    if process.num_steps:
        t = (t * process.num_steps).ceil().long()
    x0, noise = draws(batch, *dims), draws(batch, *dims, seed=1)
    return NetDenoiser(Affine(), process, time_input="t"), x0, t, noise


class Affine(nn.Module):
    """Noise estimate 0.3 x^2 + 0.1, elementwise."""

    def forward(self, x, t, cond=None):
        return 0.3 * x.square() + 0.1


def test_weights_of_the_noises_error(dims, process):
    """The objectives differ from `simple` only by a weight of the time, which is worked out here by autograd."""
    denoiser, x0, t, noise = setting(dims, process)
    error = OBJECTIVES["simple"](denoiser, x0, t, noise)
    if process.num_steps is None:
        at = t.clone().requires_grad_()
        (slope,) = torch.autograd.grad(process.log_snr(at).sum(), at)
        torch.testing.assert_close(OBJECTIVES["likelihood"](denoiser, x0, t, noise), -slope * error)
    sigma, alpha = process.sigma(t), process.alpha(t)
    torch.testing.assert_close(OBJECTIVES["dsm"](denoiser, x0, t, noise), error)
    raw = OBJECTIVES["dsm"](denoiser, x0, t, noise, anneal_power=0.0)
    torch.testing.assert_close(raw, error / sigma.square())
    ratio = sigma / alpha
    edm = OBJECTIVES["edm"](denoiser, x0, t, noise, sigma_data=0.4)
    torch.testing.assert_close(edm, (ratio**2 + 0.4**2) / (ratio * 0.4) ** 2 * ratio**2 * error)
    speed = process.sigma_dot(t) - sigma * process.alpha_dot(t) / alpha
    torch.testing.assert_close(OBJECTIVES["flow"](denoiser, x0, t, noise), speed.square() * error)


@pytest.mark.parametrize("name", ["simple", "regression", "dsm", "edm", "flow"])
def test_norms_and_reductions(name, dims):
    denoiser, x0, t, noise = setting(dims, build_process("ve"))
    squares = OBJECTIVES[name](denoiser, x0, t, noise)
    summed = objective(name, reduction="sum")(denoiser, x0, t, noise)
    torch.testing.assert_close(summed, squares * x0[0].numel())
    absolute = objective(name, norm="l1")(denoiser, x0, t, noise)
    if name in ("simple", "regression", "dsm"):
        error = denoiser.eps(denoiser.process.perturb(x0, t, noise), t) - noise
        torch.testing.assert_close(absolute, error.abs().flatten(1).mean(dim=1))
    assert not torch.isclose(absolute, squares).any()


def test_sliced_score_matching_of_one_projection(dims):
    """v J v + |score|^2 / 2, J the Jacobian of each sample's score."""
    denoiser, x0, t, noise = setting(dims, VE())
    v = draws(len(t), *dims, seed=3)
    x = denoiser.process.perturb(x0, t, noise)
    for variance_reduction in (True, False):
        ours = OBJECTIVES["sliced"](
            denoiser, x0, t, noise, projection=v, variance_reduction=variance_reduction, anneal_power=1.0
        )
        for b in range(len(t)):
            at = t[b : b + 1]

            def score(x, at=at):
                return denoiser.score(x.view(1, *dims), at).flatten()

            jacobian = torch.autograd.functional.jacobian(score, x[b].flatten())
            along, s = v[b].flatten(), score(x[b])
            square = s.square().sum() if variance_reduction else (along @ s).square()
            expected = (along @ jacobian @ along + square / 2) * denoiser.process.sigma(at)[0] / s.numel()
            assert ours[b].item() == pytest.approx(expected.item(), rel=1e-9)


def test_sliced_score_matching_is_denoising_up_to_a_constant(dims):
    """Between two models the mean of `sliced` differs as half that of `dsm` does (Vincent, 2011)."""
    process, batch = VE(0.1, 5.0), 6000
    x0, noise, t = mixture(batch, dims), draws(batch, *dims, seed=1), torch.full((batch,), 0.5)
    a, b = (NetDenoiser(Oracle(process, scale=scale), process, time_input="t") for scale in (0.0, 0.5))
    generator = torch.Generator()
    sliced = [OBJECTIVES["sliced"](d, x0, t, noise, generator=generator.manual_seed(4)).detach() for d in (a, b)]
    denoising = [OBJECTIVES["dsm"](d, x0, t, noise).detach() / 2 for d in (a, b)]
    difference = (sliced[1] - sliced[0]) - (denoising[1] - denoising[0])
    assert abs(difference.mean()) < 5 * difference.std() / math.sqrt(batch)
    assert difference.mean().abs() < 0.1 * (denoising[1] - denoising[0]).mean()


def test_sliced_score_matching_without_gradients_keeps_no_graph(dims):
    denoiser, x0, t, noise = setting(dims)
    before = torch.get_rng_state()
    with torch.no_grad():
        loss = OBJECTIVES["sliced"](denoiser, x0, t, noise, generator=torch.Generator().manual_seed(0))
    assert not loss.requires_grad
    assert torch.equal(before, torch.get_rng_state())
    again = OBJECTIVES["sliced"](denoiser, x0, t, noise, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, again.detach())
    with pytest.raises(InputError, match=r"projection must be like x0 \(4, .*\), got \(1,\)"):
        OBJECTIVES["sliced"](denoiser, x0, t, noise, projection=torch.zeros(1))


def test_half_precision_outputs_make_full_precision_losses(dims):
    process = discrete_process("linear", 20)
    x0, noise, t = (draws(3, *dims, seed=s).float() for s in (0, 1)), None, torch.tensor([1, 2, 20])
    x0, noise = x0
    net = nn.Linear(dims[-1], dims[-1])

    class Wrapped(nn.Module):
        def forward(self, x, t, cond=None):
            return net(x)

    denoiser = NetDenoiser(Wrapped(), process)
    for name in sorted(set(OBJECTIVES) - {"hybrid"}):
        with torch.autocast("cpu", torch.bfloat16):
            loss = OBJECTIVES[name](denoiser, x0, t, noise)
        assert loss.dtype == torch.float32, name
        assert loss.isfinite().all(), name


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"sliced"}))
def test_compiled_objectives_have_no_breaks(name, shape):
    torch.compiler.reset()
    denoiser = NetDenoiser(Heads(), DiscreteProcess(cosine_betas(20)), variance="learned_range")
    x0, noise, t = draws(3, *shape), draws(3, *shape, seed=1), torch.tensor([1, 2, 20])
    compiled = torch.compile(OBJECTIVES[name], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(denoiser, x0, t, noise), OBJECTIVES[name](denoiser, x0, t, noise))


def test_unknown_options_list_the_known_ones():
    with pytest.raises(InputError, match=r"objective 'likelihood' takes \['reduction'\], got \['norm'\]"):
        objective("likelihood", norm="l1")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simple", {"norm": "l3"}, r"norm must be one of l1, l2, got 'l3'"),
        ("flow", {"reduction": "max"}, r"reduction must be one of mean, sum, got 'max'"),
        ("edm", {"sigma_data": -1.0}, "sigma_data must be positive, got -1.0"),
        ("vlb", {"decoder": "bernoulli"}, r"decoder must be one of discretized, gaussian, got 'bernoulli'"),
        ("hybrid", {}, "'hybrid' needs a denoiser with a learned variance, got 'small'"),
    ],
)
def test_options_out_of_range_are_named(name, options, message, dims):
    with pytest.raises(InputError, match=message):
        objective(name, **options)(*setting(dims, discrete_process("linear", 20)))


def test_objectives_that_do_not_fit_say_so(dims):
    denoiser, x0, t, noise = setting(dims)
    with pytest.raises(InputError, match="objective 'vlb' needs a process with num_steps, got VP"):
        OBJECTIVES["vlb"](denoiser, x0, t, noise)
    with pytest.raises(InputError, match="objective 'regression' needs a NetDenoiser, got Denoiser"):
        OBJECTIVES["regression"](Denoiser(VP()), x0, t, noise)
