"""What every registered predictor and corrector states about itself is so, on a Gaussian known exactly."""

import pytest
import torch
from exact_gaussian import gaussian

from pcdiff.diffusion import (
    CORRECTORS,
    PREDICTORS,
    SamplingReport,
    attribute_of,
    build_process,
    corrector,
    default_grid,
    invert,
    invertible_predictors,
    predictor,
    sample,
    time_grid,
)
from pcdiff.diffusion.samplers.base import ChainSolver
from pcdiff.errors import InputError

DIMS = (4, 3)
# options that change what a predictor is
VARIANTS = [
    *((name, {}) for name in sorted(PREDICTORS)),
    ("ddim", {"eta": 1.0}),
    ("dpmpp", {"eta": 1.0}),
    ("dpmpp", {"order": 3}),
    ("heun", {"churn": 4.0}),
    ("heun", {"variable": "t"}),
    ("euler_maruyama", {"flow": True}),
    ("euler_maruyama", {"flow": True, "legacy": True}),
    ("reverse_diffusion", {"flow": True}),
    ("ancestral", {"flexibility": 1.0}),
]
every_predictor = pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=[" ".join([n, *(f"{k}={v}" for k, v in o.items())]) for n, o in VARIANTS]
)
FACTS = ("stochastic", "invertible", "evaluations", "grid", "draws_to_the_end", "needs_corrector")


def exact(name="vp", **options):
    # rates so low that a chain of few steps may follow them
    options = {"beta_min": 0.5, "beta_max": 4.0} if name == "vp" else options
    return gaussian(build_process(name, **options), DIMS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def start(denoiser, count=3):
    return denoiser.process.prior_sample((count, *DIMS), generator()).double()


def counts(step):
    """Return keyword arguments for a few steps, where the step does not choose its own."""
    return {} if attribute_of(step, "evaluations") is None else {"num_steps": 6}


def test_the_classes_state_what_their_default_options_are():
    for name, part in PREDICTORS.items():
        step = predictor(name)
        for fact in FACTS:
            assert getattr(part, fact) == getattr(step, fact), (name, fact)
    for part in CORRECTORS.values():
        assert part.stochastic is True


@every_predictor
def test_what_draws_differs_between_generators_and_what_does_not_is_the_same(name, options):
    denoiser, step = exact(), predictor(name, **options)
    x = start(denoiser)
    a, b = (sample(denoiser, x_init=x, sampler=step, generator=generator(k), **counts(step)) for k in (1, 2))
    assert torch.equal(a, b) == (not step.stochastic)
    again = sample(denoiser, x_init=x, sampler=step, generator=generator(1), **counts(step))
    assert torch.equal(a, again)


@every_predictor
def test_what_draws_to_the_end_is_given_noise_there_and_others_are_not(name, options):
    denoiser, step, asked = exact(), predictor(name, **options), []

    def noise(x):
        asked.append(True)
        return torch.zeros_like(x)

    # one step between two times with noise, the last of its grid
    times = torch.tensor([0.4, 0.2], dtype=torch.float64)
    if isinstance(step, ChainSolver):  # which goes down to the data
        times = time_grid(denoiser.process, 6, "chain")

    def forget(k, t, x):
        if k < len(times) - 1:  # what was asked for before the last step
            asked.clear()

    sample(denoiser, x_init=start(denoiser), sampler=step, grid=times, noise=noise, callback=forget)
    assert bool(asked) == (step.stochastic and step.draws_to_the_end)


@every_predictor
def test_what_is_invertible_goes_up_and_comes_back_and_what_is_not_refuses(name, options):
    """The way back misses by the method's error, which half the step about halves at first order."""
    denoiser, step = exact(), predictor(name, **options)
    process, x = denoiser.process, start(denoiser)
    up = torch.linspace(0.05, 0.95, 41, dtype=torch.float64)

    def missed(times):
        there = sample(denoiser, x_init=x, sampler=step, grid=times)
        return float((sample(denoiser, x_init=there, sampler=step, grid=times.flip(0)) - x).abs().max())

    if step.invertible:
        error = missed(up)
        assert error < 0.2 * float(x.std())
        assert missed(up[::2]) > 1.7 * error or error < 1e-4
        there = invert(denoiser, x, sampler=step, **counts(step))
        assert (there - x).abs().max() > 0.1  # it went somewhere
    elif not step.needs_corrector:
        with pytest.raises(InputError, match=r"time|rise|earlier"):
            sample(denoiser, x_init=x, sampler=step, grid=up)
    assert process.num_steps is None


def test_the_names_of_the_invertible_ones_come_from_the_registry():
    assert invertible_predictors() == ["ddim", "dpmpp", "heun", "ode", "unipc"]

    class Mine:
        invertible = True

    PREDICTORS["mine"] = Mine
    try:
        assert "mine" in invertible_predictors()
    finally:
        del PREDICTORS["mine"]


@every_predictor
def test_the_evaluations_of_a_step(name, options):
    """Two runs, one of which has four steps more; what the last step or the end costs is in both."""
    denoiser, step = exact(), predictor(name, **options)
    grid = default_grid(denoiser.process, step)
    assert grid == (step.grid or ("chain" if name in ("reverse_diffusion", "score_ancestral") else "uniform"))
    if step.evaluations is None:
        assert grid == "ends"
        return
    made = []
    for num_steps in (5, 9):
        report, draws = SamplingReport(), generator()
        sample(denoiser, x_init=start(denoiser), sampler=step, num_steps=num_steps, generator=draws, report=report)
        made.append(report.evaluations)
    assert made[1] - made[0] == 4 * step.evaluations


@pytest.mark.parametrize("name", sorted(CORRECTORS))
def test_correctors_draw_by_the_generator_alone(name):
    denoiser = exact("ve", sigma_min=0.1, sigma_max=3.0)
    step = corrector(name, **({"step_size": 1e-3} if "step_size" in CORRECTORS.options(name) else {}))
    settings = {"x_init": start(denoiser), "sampler": "ddim", "corrector": step, "num_steps": 3}
    a, b, again = (sample(denoiser, generator=generator(k), **settings) for k in (1, 2, 1))
    assert step.stochastic
    assert not torch.equal(a, b)
    assert torch.equal(a, again)


def test_a_plain_function_states_nothing_but_what_it_is_given():
    def stay(denoiser, x, t, s, cond, noise):
        return x

    assert [attribute_of(stay, fact) for fact in FACTS] == [False, False, 1, None, False, False]
    stay.invertible = True
    assert attribute_of(stay, "invertible")
