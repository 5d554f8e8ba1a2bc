"""The loop's options and grids, what correctors do to single samples, and what is refused."""

import itertools
import math

import pytest
import torch
from exact_models import Mixture

from pcdiff.diffusion import (
    CORRECTORS,
    GRIDS,
    Denoiser,
    SamplingReport,
    Trajectory,
    build_process,
    corrector,
    invert,
    predictor,
    sample,
    time_grid,
)
from pcdiff.errors import InputError


def target(process, dims, dtype=torch.float32):
    """Return the exact denoiser of a wide and a narrow component."""
    means = torch.stack([torch.full(dims, -0.6, dtype=dtype), torch.full(dims, 0.5, dtype=dtype)])
    weights, stds = (torch.tensor(v, dtype=dtype) for v in ((0.4, 0.6), (0.5, 0.3)))
    return Mixture(process, weights, means, stds)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("grid", sorted(set(GRIDS) - {"ends"}))
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_grids_fall_from_start_to_end(process, grid, num_steps):
    if process.num_steps == 1 or (process.num_steps is not None and num_steps > process.num_steps):
        num_steps = 1
    times = time_grid(process, num_steps, grid)
    assert len(times) == num_steps + 1
    assert (times.diff() < 0).all()
    assert times[0] == process.T
    chain = process.num_steps is not None
    to_data = chain or grid == "chain" or (grid == "edm" and process.sigma(torch.zeros(1)) == 0)
    assert times[-1] == (0 if to_data else process.sample_eps)
    assert process.alpha(times).isfinite().all()


def test_grids_are_what_they_are_called():
    process = build_process("vp")
    count = 9
    even = {
        "uniform": time_grid(process, count),
        "quadratic": time_grid(process, count, "quadratic").sqrt(),
        "log_snr": process.log_snr(time_grid(process, count, "log_snr")),
        "edm": (-process.log_snr(time_grid(process, count, "edm", rho=5.0)[:-1]) / 10).exp(),
    }
    for values in even.values():
        strides = values.diff()
        torch.testing.assert_close(strides, strides[0].expand(len(strides)))
    assert time_grid(process, grid="ends").tolist() == [process.T, process.sample_eps]
    assert time_grid(build_process("ddpm", num_steps=20), grid="ends").tolist() == [20, 1, 0]


def test_partial_grids():
    chain = build_process("ddpm", num_steps=20)
    assert time_grid(chain, t_start=5).tolist() == [5, 4, 3, 2, 1, 0]
    assert time_grid(chain, 2, t_start=5).tolist() == [5, 2, 0]
    assert not time_grid(chain, 2, t_start=5).is_floating_point()
    assert time_grid(chain, 1, "log_snr", t_start=1).tolist() == [1, 0]
    times = time_grid(build_process("vp"), 3, "log_snr", t_start=0.5)
    assert times[0] == 0.5
    assert len(times) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"grid": "cosine"},
            r"grid must be one of chain, edm, .*uniform, got 'cosine'",
        ),
        ({"grid": "edm", "rho": 0}, "rho must be positive, got 0"),
        ({"grid": "edm", "num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"t_start": 21}, r"t_start must be in \[1, 20\], got 21"),
        ({"t_start": 2.5}, "t_start must be a whole step .*got 2.5"),
        ({"t_start": 3, "num_steps": 4}, r"num_steps must be in 1\.\.3 from there, got 4"),
        ({"t_start": 1, "num_steps": 2, "grid": "edm"}, "num_steps must be 1 from t_start 1"),
    ],
)
def test_grids_refuse(options, message):
    with pytest.raises(InputError, match=message):
        time_grid(build_process("ddpm", num_steps=20), **options)


def test_partial_continuous_starts_refuse_the_end():
    with pytest.raises(InputError, match=r"t_start must be in \(0.001, 1\], got 0.001"):
        time_grid(build_process("vp"), 3, t_start=0.001)


def test_the_grid_can_be_given(dims):
    denoiser, trajectory = target(build_process("vp"), dims), Trajectory()
    times = torch.tensor([1.0, 0.6, 0.1], dtype=torch.float64)
    sample(denoiser, (2, *dims), sampler="ddim", grid=times, generator=seeded(), callback=trajectory)
    assert trajectory.times == times.tolist()


@pytest.mark.parametrize(
    ("name", "steps", "evaluations"),
    [("ancestral", 6, 6), ("ddim", 6, 6), ("heun", 6, 11), ("dpmpp", 6, 6), ("unipc", 6, 6), ("none", 6, 1)],
)
def test_evaluations_are_reported(name, steps, evaluations, dims):
    denoiser, report, seen = target(build_process("ddpm", num_steps=20), dims), SamplingReport(), []
    options = {"num_steps": steps, "report": report, "progress": lambda k, n: seen.append((k, n))}
    x = sample(denoiser, (2, *dims), sampler=name, generator=seeded(), **options)
    assert (report.num_steps, report.evaluations) == (steps, evaluations)
    assert seen == [(k + 1, steps) for k in range(steps)]
    assert torch.equal(x, sample(denoiser, (2, *dims), sampler=name, generator=seeded(), num_steps=steps))


def test_correctors_count_and_come_first(dims):
    """Their draw is before the predictor's, and at the last time there is one too."""
    denoiser, report = target(build_process("vp"), dims, torch.float64), SamplingReport()
    start = torch.randn(2, *dims, generator=seeded(), dtype=torch.float64)
    draws = torch.randn(7, 2, *dims, generator=seeded(1), dtype=torch.float64)
    given = iter(draws)
    times = torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)
    options = {"corrector": corrector("ald", snr=0.2, num_steps=3), "grid": times, "report": report}
    x = sample(denoiser, x_init=start, noise=lambda _: next(given), **options)
    assert next(given, None) is None  # three and one, then three
    assert report.evaluations == 8
    by_hand, rest = start, iter(draws)
    step, correct = predictor("ancestral"), options["corrector"].begin(denoiser.process, times)
    for t, s in itertools.pairwise(times):
        by_hand = correct(denoiser, by_hand, t.expand(2), None, lambda _: next(rest))
        noise = None if s == times[-1] else lambda _: next(rest)
        by_hand = step(denoiser, by_hand, t.expand(2), s.expand(2), None, noise)
    assert torch.equal(x, by_hand)


@pytest.mark.parametrize("name", ["ancestral", "ddim", "dpmpp", "unipc"])
def test_constraints_act_after_every_update(name, dims):
    denoiser, calls = target(build_process("ddpm", num_steps=20), dims), []

    def pin(x, t, noise):
        calls.append((float(t[0]), noise is None))
        x = x.clone()
        x[:, 0] = 0.25
        return x

    options = {"sampler": name, "grid": "uniform", "num_steps": 4, "corrector": "ald"}
    trajectory = Trajectory()
    x = sample(denoiser, (3, *dims), generator=seeded(), constraint=pin, callback=trajectory, **options)
    assert (x[:, 0] == 0.25).all()
    assert (trajectory.states[1:, :, 0] == 0.25).all()
    times = [20.0, 15.0, 10.0, 5.0, 0.0]
    moves = [(t, False) for pair in itertools.pairwise(times) for t in pair]
    assert calls == [*moves[:-1], (0.0, True)]
    assert not torch.equal(x, sample(denoiser, (3, *dims), generator=seeded(), **options))


def test_unipc_does_not_undo_a_constraint(dims):
    """Its corrector starts from the state before, so a state that was changed since is left as it is."""
    denoiser = target(build_process("ddpm", num_steps=20), dims, torch.float64)
    start = torch.randn(2, *dims, generator=seeded(), dtype=torch.float64)
    moved = sample(denoiser, x_init=start, sampler="unipc", num_steps=6, constraint=lambda x, t, noise: x + 0)
    plain = sample(denoiser, x_init=start, sampler=predictor("unipc", correct=False), num_steps=6)
    assert torch.equal(moved, plain)
    assert not torch.equal(moved, sample(denoiser, x_init=start, sampler="unipc", num_steps=6))


@pytest.mark.parametrize("kind", ["vp", "subvp", "ve", "rectified_flow"])
def test_a_run_that_stops_above_the_data_is_denoised(kind, dims):
    denoiser, report = target(build_process(kind), dims), SamplingReport()
    options = {"sampler": "ddim", "num_steps": 9, "grid": "log_snr" if kind != "rectified_flow" else None}
    x, end, default = (
        sample(denoiser, (2, *dims), generator=seeded(), denoise=v, report=report, **options)
        for v in (False, True, None)
    )
    assert report.evaluations == 10
    last = torch.full((2,), denoiser.process.sample_eps, dtype=torch.float64)
    assert torch.equal(end, denoiser(x, last))
    assert torch.equal(end, default)
    times = time_grid(denoiser.process, 9, options["grid"] or "uniform")
    given = sample(denoiser, (2, *dims), generator=seeded(), sampler="ddim", grid=times)
    assert torch.equal(given, x)  # times of one's own end where they end


@pytest.mark.parametrize("kind", ["ncsn", "ve"])
def test_where_the_corrector_does_it_all_the_end_is_denoised_at_its_level(kind, processes, dims):
    """The corrector was last at the last but one time."""
    denoiser = target(processes[kind](), dims)
    options = {"corrector": "ald", "num_steps": 9}
    names = ["none", predictor("none", denoise=False), predictor("none", denoise=True)]
    x = sample(denoiser, (2, *dims), sampler="none", generator=seeded(), denoise=False, **options)
    ends = [sample(denoiser, (2, *dims), sampler=step, generator=seeded(), **options) for step in names]
    last = time_grid(denoiser.process, 9)[-2]
    assert torch.equal(ends[0], denoiser(x, last.expand(2)))
    assert torch.equal(ends[1], x)
    assert torch.equal(ends[2], ends[0])


def test_a_constraint_holds_after_the_last_estimate(dims):
    denoiser = target(build_process("ve", sigma_max=10.0), dims)
    calls = []

    def pin(x, t, noise):
        calls.append((float(t[0]), noise is None))
        return torch.full_like(x, 0.25)

    x = sample(denoiser, (2, *dims), sampler="ddim", num_steps=3, generator=seeded(), constraint=pin)
    assert (x == 0.25).all()
    assert calls[-2:] == [(denoiser.process.sample_eps, True)] * 2


def test_a_solver_can_be_shared_between_runs(dims):
    denoiser, step = target(build_process("vp"), dims), predictor("dpmpp", order=3)
    a, b = (sample(denoiser, (2, *dims), sampler=step, num_steps=8, generator=seeded()) for _ in range(2))
    assert torch.equal(a, b)


def test_a_sample_does_not_depend_on_its_neighbors_but_in_legacy(dims):
    denoiser = target(build_process("ve", sigma_max=10.0), dims, torch.float64)
    start = 10 * torch.randn(3, *dims, generator=seeded(), dtype=torch.float64)
    draws = torch.randn(40, 3, *dims, generator=seeded(1), dtype=torch.float64)
    for legacy in (False, True):
        langevin = corrector("langevin", legacy=legacy)
        options = {"sampler": "reverse_diffusion", "corrector": langevin, "num_steps": 20}
        ends = []
        for rows in (slice(0, 3), slice(0, 1)):
            given = iter(draws[:, rows])
            ends.append(sample(denoiser, x_init=start[rows], noise=lambda _, g=given: next(g), **options)[:1])
        assert torch.allclose(*ends) is not legacy


class Normal(Denoiser):
    """Data 0 under the process's noise: the score of N(0, 1) where sigma is 1."""

    def forward(self, x, t, cond=None):
        return 0 * x


@pytest.mark.parametrize(("size", "variance"), [(8, 1.62), (64, 1.09)])
def test_what_langevins_norms_leave(size, variance):
    """((d + 2) / d)^2 as snr goes to 0; a long run at 0.16 gave the figures, here with 4 standard errors' room."""
    process, draw = build_process("edm"), seeded()
    count = 32_000 // size
    x = torch.randn(count, size, generator=draw) * (size + 2) / size
    step, found = corrector("langevin", snr=0.16), []
    for k in range(160):
        x = step(Normal(process), x, torch.ones(count), None, lambda v: torch.randn(v.shape, generator=draw))
        found.append(x.square().mean() if k >= 80 else None)
    assert sum(found[80:]) / 80 == pytest.approx(variance, abs=0.05)
    assert variance > ((size + 2) / size) ** 2


@pytest.mark.parametrize(("size", "batch", "options"), [(1, 9, {}), (2, 9, {}), (1, 2, {"legacy": True})])
def test_langevin_is_refused_where_its_step_has_no_mean(size, batch, options):
    denoiser, x = Normal(build_process("edm")), torch.ones(batch, size)
    with pytest.raises(
        InputError, match=rf"at least 3 numbers, got {size * (1 if not options else batch)}; take 'ald'"
    ):
        sample(denoiser, x_init=x, sampler="ddim", num_steps=4, corrector=corrector("langevin", **options))
    annealed = sample(denoiser, x_init=x, sampler="ddim", num_steps=4, corrector="ald", generator=seeded())
    assert annealed.isfinite().all()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_score_of_zero_takes_the_step_of_ald(legacy, dims):
    """As x = 0 does at the middle of a symmetric target."""
    process, x, t = build_process("edm"), torch.zeros(2, *dims), torch.full((2,), 3.0)
    z = torch.randn(2, *dims, generator=seeded())
    ours = corrector("langevin", snr=0.2, legacy=legacy)(Normal(process), x, t, None, lambda _: z)
    assert torch.equal(ours, corrector("ald", snr=0.2)(Normal(process), x, t, None, lambda _: z))
    assert ours.std() > 0


@pytest.mark.parametrize("kind", ["vp", "ddpm"])
def test_ddim_has_no_more_noise_than_x(kind, processes):
    """v = eta sqrt(posterior variance) may reach sigma_s, DDIM's family ends there."""
    process = processes["ddpm linear" if kind == "ddpm" else kind]()
    denoiser, times = target(process, (2,)), time_grid(process, 10)
    t, s = times[:-1], times[1:]
    variance = process.kernel(t, s)[2]
    inside = variance > 0
    most = (process.sigma(s)[inside].square() / variance[inside]).sqrt().min().item()
    assert most > 1
    sample(denoiser, (2, 2), sampler=predictor("ddim", eta=most * 0.999), num_steps=10, generator=seeded())
    with pytest.raises(InputError, match=rf"eta must be at most {most:.4g} on these times, .*got {most * 1.001}"):
        sample(denoiser, (2, 2), sampler=predictor("ddim", eta=most * 1.001), num_steps=10, generator=seeded())


@pytest.mark.parametrize("name", ["heun", "edm"])
def test_the_last_step_is_stirred_too(name, dims):
    """EDM's algorithm 2 raises the level of every step whose level is in range, the last one as well."""
    denoiser, gamma = target(build_process("edm"), dims, torch.float64), math.sqrt(2) - 1
    x, z = torch.randn(2, 2, *dims, generator=seeded(), dtype=torch.float64)
    times = torch.tensor([2.0, 0.0], dtype=torch.float64)
    options = {"churn": 40.0, "noise_scale": 1.5, "churn_min": 0.0}
    ours = sample(denoiser, x_init=x, sampler=predictor(name, **options), grid=times, noise=lambda _: z)
    raised = torch.full((2,), 2 * (1 + gamma), dtype=torch.float64)
    torch.testing.assert_close(ours, denoiser(x + 1.5 * 2 * z, raised))  # sqrt((1 + gamma)^2 - 1) is 1
    kept = sample(denoiser, x_init=x, sampler=predictor(name, **{**options, "churn_min": 2.1}), grid=times)
    torch.testing.assert_close(kept, denoiser(x, torch.full((2,), 2.0)))


def test_the_start_is_the_prior_of_the_process(dims):
    trajectory = Trajectory()
    denoiser = target(build_process("ve", sigma_max=40.0), dims)
    sample(denoiser, (200, *dims), sampler="ddim", num_steps=1, generator=seeded(), callback=trajectory)
    assert trajectory.states[0].std().item() == pytest.approx(40, rel=0.1)


def bad(match, process, **options):
    return pytest.param(process, options, match, id=match[:40])


@pytest.mark.parametrize(
    ("process", "options", "match"),
    [
        bad("give x_init with t_start", "vp", t_start=0.5),
        bad("leave num_steps and t_start out", "vp", grid=torch.tensor([1.0, 0.5]), num_steps=3),
        bad("grid must be .* all fall or all rise", "vp", grid=torch.tensor([1.0, 0.2, 0.5])),
        bad(r"t must be in \[0, 1\]", "vp", grid=torch.tensor([1.5, 0.2])),
        bad("denoise must be False here", "ddpm", denoise=True),
        bad("predictor must be one of .*heun.*, got 'magic'", "vp", sampler="magic"),
        bad("corrector must be one of .*langevin.*, got 'magic'", "vp", corrector="magic"),
        bad(r"corrector 'ncsnv2' needs \['step_size'\]", "ncsn", corrector="ncsnv2"),
        bad("take 'ancestral'", "ddpm", sampler="score_ancestral"),
        bad("for VP and VE, got SubVP; take 'ancestral'", "subvp", sampler="score_ancestral", num_steps=50),
        bad("for VP and VE, got EDMProcess", "edm", sampler="score_ancestral", num_steps=50),
        bad("chain's steps one by one.*respaced", "ddpm", sampler="reverse_diffusion", num_steps=5),
        bad(
            "needs evenly spaced times, grid='chain'",
            "vp",
            sampler="reverse_diffusion",
            grid="log_snr",
            num_steps=50,
        ),
        bad("num_steps must be above beta_max", "vp", sampler="reverse_diffusion", num_steps=5),
        bad(
            "cannot start where the SDE of RectifiedFlow is infinite, at t = 1: take flow=True",
            "rectified_flow",
            sampler="euler_maruyama",
            num_steps=5,
        ),
        bad("RectifiedFlow is infinite at its start: take variable", "rectified_flow", sampler="heun", num_steps=5),
    ],
)
def test_what_does_not_fit_says_what_does(processes, process, options, match, dims):
    makers = {"ddpm": "ddpm linear"}
    denoiser = target(processes[makers.get(process, process)](), dims)
    with pytest.raises(InputError, match=match) as caught:
        sample(denoiser, (2, *dims), generator=seeded(), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: predictor("dpmpp", order=4), r"order must be one of 1, 2, 3, got 4"),
        (lambda: predictor("dpmpp", eta=-1), "eta must be at least 0, got -1"),
        (lambda: predictor("dpmpp", rho=2), r"predictor 'dpmpp' takes \['order', .*, got \['rho'\]"),
        (lambda: predictor("ddim", eta=math.nan), "eta must be at least 0, got nan"),
        (lambda: predictor("unipc", scale="bh3"), r"scale must be one of bh1, bh2, got 'bh3'"),
        (lambda: predictor("heun", variable="x"), r"variable must be one of sigma, t, got 'x'"),
        (lambda: predictor("heun", churn=-1), "churn must be at least 0, got -1"),
        (lambda: predictor("ode", rtol=0), "rtol and atol must be positive, got 0"),
        (lambda: predictor("ode", method="euler"), "method must be one of .*dopri5.*, got 'euler'"),
        (lambda: corrector("langevin", snr=0), "snr must be positive, got 0"),
        (lambda: corrector("ald", num_steps=0), "num_steps of a corrector must be at least 1, got 0"),
        (lambda: corrector("ncsn", step_size=-1), "step_size must be positive, got -1"),
        (lambda: corrector("none"), f"corrector must be one of .*{sorted(CORRECTORS)[0]}"),
    ],
)
def test_settings_out_of_range(make, match):
    with pytest.raises(InputError, match=match):
        make()


def test_inversion_needs_no_seed(dims):
    denoiser, state = target(build_process("vp"), dims), torch.get_rng_state()
    x = torch.zeros(2, *dims)
    assert torch.equal(invert(denoiser, x, num_steps=5), invert(denoiser, x, num_steps=5))
    assert torch.equal(torch.get_rng_state(), state)
