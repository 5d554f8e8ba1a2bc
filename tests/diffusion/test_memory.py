"""Sampling keeps a constant number of states: no predictor, corrector or constraint remembers the whole run."""

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pcdiff.diffusion import (
    CORRECTORS,
    PREDICTORS,
    ConstrainedCorrector,
    Denoiser,
    Inpaint,
    SamplingReport,
    build_process,
    corrector,
    predictor,
    sample,
)

OPTIONS = {
    "dpmpp": {"order": 3, "eta": 1.0},
    "unipc": {"order": 3},
    "ode": {"rtol": 1e-2, "atol": 1e-2},
    "edm": {"churn": 5.0},
    "adaptive_sde": {"rtol": 0.5, "atol": 0.5},
    "ncsn": {"num_steps": 3},
    "ncsnv2": {"step_size": 1e-4, "num_steps": 3},
}
FEW, MANY = 7, 14
# between steps: the state, and what a solver of order 3 knows of the steps before
KEPT = 6
# within one: temporary results, seven slopes of Dormand and Prince the most
PEAK = 24


class Half(Denoiser):
    """Half of x."""

    def forward(self, x, t, cond=None):
        return x / 2


class Census(TorchDispatchMode):
    """Counts, at every operation and as a callback, the memories alive of the state's size."""

    def __init__(self, shape):
        super().__init__()
        self.numel, self.alive, self.peak, self.kept = torch.Size(shape).numel(), [], 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, tuple | list) else [out]
        self.alive += [weakref.ref(v) for v in made if isinstance(v, torch.Tensor) and v.numel() == self.numel]
        self.peak = max(self.peak, self.count())
        return out

    def count(self):
        self.alive = [ref for ref in self.alive if ref() is not None]
        return len({ref().untyped_storage().data_ptr() for ref in self.alive})

    def __call__(self, k, t, x):
        self.kept.append(self.count())


def run(process, dims, num_steps, **options):
    """Return the census of one run, without the collector: what a cycle keeps must show."""
    shape = (2, *dims)
    draws, census = torch.Generator().manual_seed(0), Census(shape)
    gc.disable()
    try:
        with census:
            sample(
                Half(process),
                shape,
                num_steps=num_steps,
                generator=draws,
                callback=census,
                report=SamplingReport(),
                **options,
            )
    finally:
        gc.enable()
    return census


def check(few, many):
    """Compare a run with one of twice the steps."""
    assert len(many.kept) == MANY + 1
    assert 1 <= max(many.kept) == max(few.kept) <= KEPT
    assert many.peak == few.peak <= PEAK


@pytest.mark.parametrize("name", sorted(PREDICTORS))
def test_no_predictor_remembers_the_run(name, shape):
    step = predictor(name, **OPTIONS.get(name, {}))
    grid = {"grid": "uniform"} if getattr(step, "grid", None) == "ends" else {}
    check(*(run(build_process("vp", beta_max=5.0), shape, steps, sampler=step, **grid) for steps in (FEW, MANY)))


@pytest.mark.parametrize("name", sorted(CORRECTORS))
def test_no_corrector_remembers_the_run(name, dims):
    chosen = corrector(name, **OPTIONS.get(name, {}))
    check(*(run(build_process("ve"), dims, steps, corrector=chosen) for steps in (FEW, MANY)))


def test_a_mended_constraint_remembers_nothing(dims):
    process = build_process("vp", beta_max=5.0)
    keep = Inpaint(process, torch.zeros(2, *dims), torch.ones(2, *dims, dtype=torch.bool))
    settle = ConstrainedCorrector("langevin", keep, num_steps=2)
    check(*(run(process, dims, steps, constraint=keep, corrector=settle) for steps in (FEW, MANY)))


def test_the_census_sees_a_part_that_remembers(dims):
    past = []

    def hoarding(denoiser, x, t, s, cond, noise):
        past.append(x)
        return denoiser(x, t, cond)

    census = run(build_process("vp", beta_max=5.0), dims, FEW, sampler=hoarding)
    assert census.kept == list(range(1, FEW + 2))
