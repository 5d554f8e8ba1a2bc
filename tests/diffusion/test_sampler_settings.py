"""`Sampler`: the settings of `sample` in one object, called with inputs and outputs."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from exact_gaussian import gaussian

from pcdiff.diffusion import (
    Sampler,
    SamplingReport,
    build_process,
    check_steps,
    corrector,
    invert,
    predictor,
    sample,
    sdedit,
)
from pcdiff.errors import InputError


@pytest.fixture
def denoiser(dims):
    return gaussian(build_process("vp"), dims)


def generator():
    return torch.Generator().manual_seed(0)


SETTINGS = [
    {"num_steps": 7},
    {"sampler": "dpmpp", "num_steps": 6, "grid": "uniform", "denoise": False},
    {"sampler": "heun", "num_steps": 5},
    {"sampler": "ddim", "corrector": "ald", "num_steps": 4},
    {"sampler": "euler_maruyama", "grid": torch.linspace(1, 0.1, 9, dtype=torch.float64)},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=[" ".join(s) for s in SETTINGS])
def test_one_object_draws_what_the_keywords_draw(denoiser, dims, settings):
    options = dict(settings)
    sampler = Sampler(options.pop("sampler", "ancestral"), **options)
    expected = sample(denoiser, (2, *dims), generator=generator(), **settings)
    for _ in range(2):  # a run leaves nothing behind in the settings
        assert torch.equal(sampler(denoiser, (2, *dims), generator=generator()), expected)
    assert torch.equal(sample(denoiser, (2, *dims), sampler=sampler, generator=generator()), expected)


def test_outputs_and_inputs_reach_the_run(denoiser, dims):
    report, seen = SamplingReport(), []
    x = torch.randn(2, *dims, generator=generator(), dtype=torch.float64)
    sampler = Sampler("ddim", num_steps=3)
    out = sampler(
        denoiser,
        x_init=x,
        t_start=0.5,
        constraint=lambda x, t, noise: x * 0,
        callback=lambda k, t, x: seen.append(t),
        report=report,
    )
    assert torch.equal(out, torch.zeros_like(x))
    assert (seen[0], report.num_steps) == (0.5, 3)
    assert torch.equal(
        sdedit(denoiser, x, 0.5, sampler=sampler, generator=generator()),
        sdedit(denoiser, x, 0.5, sampler="ddim", num_steps=3, generator=generator()),
    )


def test_inversion_takes_the_settings_too(denoiser, dims):
    x = torch.randn(2, *dims, generator=generator(), dtype=torch.float64)
    sampler = Sampler("dpmpp", num_steps=10, denoise=False)
    noise = sampler.invert(denoiser, x)
    assert torch.equal(noise, invert(denoiser, x, sampler="dpmpp", num_steps=10))
    assert torch.equal(noise, invert(denoiser, x, sampler=sampler))


def test_settings_are_frozen_and_hold_objects():
    sampler = Sampler("dpmpp", "langevin", num_steps=10)
    assert type(sampler.predictor) is type(predictor("dpmpp"))
    assert type(sampler.corrector) is type(corrector("langevin"))
    assert replace(sampler, num_steps=5).num_steps == 5
    with pytest.raises(FrozenInstanceError):
        sampler.num_steps = 3
    process = build_process("vp")
    assert sampler.grid_for(process) == "log_snr"
    assert len(sampler.times(process)) == 11


def test_mistakes_are_one_line(denoiser, dims):
    x = torch.zeros(2, *dims, dtype=torch.float64)
    for call, line in (
        (lambda: Sampler("magic"), "predictor must be one of .* got 'magic'"),
        (lambda: Sampler("ddim", "magic"), "corrector must be one of .* got 'magic'"),
        (lambda: Sampler(3), "predictor must be a function or a text, got 3"),
        (lambda: Sampler(num_steps="3"), "num_steps must be an integer or None, got '3'"),
        (
            lambda: sample(denoiser, (2, *dims), sampler=Sampler(), num_steps=3, grid="edm"),
            "num_steps, grid belongs",
        ),
        (lambda: sample(denoiser, (2, *dims), step="ddim"), r"sample\(\): step is called sampler now"),
        (lambda: invert(denoiser, x, step="ddim"), r"invert\(\): step is called sampler now"),
        (lambda: sdedit(denoiser, x, 0.5, step="ddim"), r"sample\(\): step is called sampler now"),
        (lambda: Sampler("ddim", "ald").invert(denoiser, x), "without a corrector"),
        (lambda: check_steps(denoiser.process, "ddim", num_steps=0), "num_steps must be at least 1, got 0"),
        (lambda: Sampler("score_ancestral").check(build_process("edm")), "for VP and VE, got EDMProcess"),
    ):
        with pytest.raises(InputError, match=line) as caught:
            call()
        assert "\n" not in str(caught.value)
