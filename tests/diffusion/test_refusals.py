"""What the core cannot do it refuses, in one line that says what fits: times, shapes, options, directions."""

import math

import pytest
import torch
from refusals import refused

from pcdiff.diffusion import (
    OBJECTIVES,
    VE,
    VP,
    Denoiser,
    NetDenoiser,
    Process,
    SamplingReport,
    append_dims,
    chain_bound,
    corrector,
    discrete_process,
    draw_times,
    invert,
    log_likelihood,
    parametrization,
    predictor,
    sample,
    time_draw,
    time_grid,
)
from pcdiff.errors import InputError, UnknownName

CHAIN = discrete_process("linear", 20, 1e-3, 0.3)
# predictors, with the options that make them draw
FALLING_ONLY = {
    "ancestral": {},
    "kernel": {},
    "ddim": {"eta": 1.0},
    "dpmpp": {"eta": 1.0},
    "edm": {},
    "euler_maruyama": {},
    "heun": {"churn": 1.0},
    "reverse_diffusion": {},
    "srk": {},
    "adaptive_sde": {},
}


class Zero(Denoiser):
    """Estimates 0."""

    def forward(self, x, t, cond=None):
        return 0 * x


class Constant(Denoiser):
    """Estimates what is not a number."""

    def forward(self, x, t, cond=None):
        return x * math.nan


def half(x, t, cond=None):
    return x / 2


def doubled(x, t, cond=None):
    return torch.cat([x, x], dim=1)


def steps(*values):
    return torch.tensor(values)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_objectives_refuse_times_of_another_batch_and_past_the_end(name, dims):
    model = NetDenoiser(doubled, CHAIN, variance="learned_range") if name == "hybrid" else NetDenoiser(half, CHAIN)
    x = torch.ones(4, *dims)
    with pytest.raises(InputError, match=r"times must be \(4,\) for x \(4, .*got \(3,\)"):
        OBJECTIVES[name](model, x, steps(1, 2, 3), x)
    with pytest.raises(InputError, match=r"t must be in \[0, 20\] for DiscreteProcess, got 1 to 21"):
        OBJECTIVES[name](model, x, steps(1, 2, 3, 21), x)
    with pytest.raises(InputError, match=r"noise must be like x0 \(4, .*got \(1, "):
        OBJECTIVES[name](model, x, steps(1, 2, 3, 4), x[:1])


@pytest.mark.parametrize("name", ["dsm", "edm", "elbo", "likelihood", "sliced", "vlb"])
def test_scores_and_bounds_refuse_the_data_itself(name, dims):
    x = torch.ones(2, *dims)
    with pytest.raises(InputError, match=r"t must have noise here, sigma\(t\) > 0, got 0"):
        OBJECTIVES[name](NetDenoiser(half, CHAIN), x, steps(0, 5), x)


@pytest.mark.parametrize("name", ["elbo", "vlb"])
def test_bounds_are_of_whole_steps(name, dims):
    x = torch.ones(2, *dims)
    with pytest.raises(InputError, match=r"t must be integers in 1..20 for the bound, got torch.float32"):
        OBJECTIVES[name](NetDenoiser(half, CHAIN), x, torch.tensor([1.0, 2.0]), x)


def test_integers_are_no_data(dims):
    x, t = torch.ones(2, *dims, dtype=torch.uint8), torch.tensor([0.5, 0.5])
    with pytest.raises(InputError, match=r"x must be of real numbers.*got torch.uint8"):
        VP().perturb(x, t, x)
    with pytest.raises(InputError, match=r"x0 must be \(B, \*dims\) real numbers, got .*torch.uint8"):
        chain_bound(Zero(CHAIN), x)
    with pytest.raises(InputError, match=r"x_init must be of real numbers, got torch.uint8"):
        sample(Zero(VP()), x_init=x)


def test_one_number_may_be_all_samples(dims):
    x = torch.ones(3, *dims)
    assert append_dims(torch.tensor([2.0]), x).shape == (1,) * x.dim()
    assert (append_dims(torch.tensor([1.0, 2.0, 3.0]), x) * x)[2].eq(3).all()


@pytest.mark.parametrize("name", sorted(FALLING_ONLY))
@pytest.mark.parametrize("process", [VP(num_scales=100), CHAIN], ids=["vp", "ddpm"])
def test_what_draws_from_the_past_does_not_go_up(name, process, dims):
    x, up = torch.ones(2, *dims), time_grid(process, 20).flip(0)[1:]
    with pytest.raises(InputError, match=r"falling times; to go up take|rising times have no posterior"):
        sample(Zero(process), x_init=x, sampler=predictor(name, **FALLING_ONLY[name]), grid=up)


def test_an_inversion_needs_a_step_with_noise_at_both_ends(dims):
    with pytest.raises(InputError, match="num_steps must be at least 2 here: the one step down to the data"):
        invert(Zero(CHAIN), torch.ones(2, *dims), num_steps=1)


def test_options_of_every_registry_are_named():
    with pytest.raises(InputError, match=r"predicts 'edm' takes \['sigma_data'\], got \['sigma'\]"):
        parametrization("edm", sigma=1.0)
    with pytest.raises(InputError, match=r"time_draw 'uniform' takes \['stratified', 'eps'\], got \['std'\]"):
        time_draw("uniform", std=1.0)
    with refused(UnknownName, what="time_draw", name="normal"):
        time_draw("normal")


@pytest.mark.parametrize("name", ["kernel", "ddim"])
@pytest.mark.parametrize("clip", [(1.0, -1.0), (1.0,), (math.nan, 1.0)])
def test_bounds_of_x0_are_a_range(name, clip, dims):
    with pytest.raises(InputError, match=r"clip must be \(low, high\), low < high, got"):
        sample(Zero(CHAIN), (2, *dims), sampler=predictor(name, clip=clip))


def test_a_process_without_an_end_is_named(dims):
    class Endless(Process):
        def alpha(self, t):
            return torch.ones_like(t)

        def sigma(self, t):
            return t

    process = Endless()
    for use in (
        lambda: sample(Zero(process), (2, *dims)),
        lambda: log_likelihood(Zero(process), torch.ones(2, *dims)),
        lambda: draw_times(process, 2),
    ):
        with pytest.raises(InputError, match="a process must set T, its last time; Endless has none"):
            use()


@pytest.mark.parametrize("name", ["reverse_diffusion", "score_ancestral"])
def test_one_level_is_no_variance_exploding_chain(name, dims):
    with pytest.raises(InputError, match="num_steps must be at least 2 to cut VE into levels, got 1"):
        sample(Zero(VE()), (2, *dims), sampler=name, num_steps=1)


def test_adaptive_solvers_stop_at_what_is_not_finite_or_too_rough(dims):
    class Rough(Denoiser):
        calls = 0

        def forward(self, x, t, cond=None):
            self.calls += 1
            return x * (self.calls % 2)

    with pytest.raises(InputError, match="predictor 'ode' needs finite velocities, got others at t = 1"):
        sample(Constant(VP()), (2, *dims), sampler="ode")
    with pytest.raises(InputError, match="the probability flow is too rough for rtol 1e-05"):
        sample(Rough(VP()), (2, *dims), sampler=predictor("ode", max_steps=20))
    with refused(UnknownName, what="method", name="rk4"):
        log_likelihood(Zero(VP()), torch.ones(2, *dims), method="rk4")


def test_a_counted_denoiser_takes_names_of_arguments(dims):
    def step(denoiser, x, t, s, cond, noise):
        return denoiser.reverse_kernel(x, t, s, cond=cond).mean + denoiser(x, t, cond=cond)

    report = SamplingReport()
    sample(Zero(CHAIN), (2, *dims), sampler=step, num_steps=3, report=report)
    assert (report.num_steps, report.evaluations) == (3, 6)


def test_ncsns_smallest_level_is_the_smallest_in_either_direction():
    for times in ([0.4, 0.2, 0.1, 0.0], [0.1, 0.2, 0.4, 1.0]):
        ready = corrector("ncsnv2", step_size=1e-5).begin(VE(), torch.tensor(times))
        assert ready.smallest == VE().sigma(torch.tensor([0.1]))
