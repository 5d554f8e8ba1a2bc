"""Samplers against the papers' own code, with its recorded noise: score_sde, NCSN, ADM, EDM."""

import math

import pytest
import torch
from exact_models import Mixture, close, replay
from golden_files import etas, load, score_sde_process, solver_error

from pcdiff.diffusion import (
    DiscreteProcess,
    EDMProcess,
    NoiseLevels,
    SamplingReport,
    Trajectory,
    build_process,
    corrector,
    invert,
    predictor,
    sample,
    time_grid,
)

pytestmark = pytest.mark.golden
PRECISIONS = {"f32": (torch.float32, 1e-4), "f64": (torch.float64, 1e-8)}
# score_sde's names
PREDICTORS = {
    "euler_maruyama": ("euler_maruyama", {"legacy": True}),
    "reverse_diffusion": ("reverse_diffusion", {}),
    "ancestral_sampling": ("score_ancestral", {}),
    "none": ("none", {}),
}


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("kind", ["vp", "subvp", "ve"])
def test_score_sdes_predictor_corrector_chains(golden, kind, precision):
    dtype, rtol = PRECISIONS[precision]
    table = load(golden, f"2d/samplers/pc_{kind}.npz")
    process = score_sde_process(kind, table)
    # score_sde's times, N of them; it takes a full step from the last one too
    times = torch.linspace(process.T, float(table["eps"]), int(table["N"]), dtype=dtype).double()
    times = torch.cat([times, times.new_zeros(1)])
    assert len(table["runs"]) >= 3
    for run in table["runs"]:
        name, correct, _, *flow = str(run).split(".")
        get = {key: table[f"{run}.{key}"] for key in ("noise", "snr", "n_steps", f"x_mean_{precision}")}
        name, options = PREDICTORS[name]
        if flow:
            options = {**options, "flow": True}
        correction = None
        if correct != "none":
            legacy = {"legacy": True} if correct == "langevin" else {}
            correction = corrector(correct, snr=float(get["snr"]), num_steps=int(get["n_steps"]), **legacy)
        report = SamplingReport()
        x = sample(
            Mixture.of(process, {key.removeprefix(f"{run}."): v for key, v in table.items()}, dtype),
            x_init=torch.from_numpy(table[f"{run}.prior_noise"]).to(dtype) * process.prior_std,
            sampler=predictor(name, **options),
            corrector=correction,
            grid=times,
            noise=replay(get["noise"], dtype),
            report=report,
        )
        close(x, get[f"x_mean_{precision}"], rtol)
        assert report.evaluations == len(table[f"{run}.score_calls_t_f32"])


@pytest.mark.parametrize("kind", ["vp", "subvp", "ve"])
def test_score_sdes_probability_flow(golden, kind):
    table = load(golden, f"2d/samplers/ode_{kind}.npz")
    process = score_sde_process(kind, table)
    denoiser = Mixture.of(process, table, torch.float64)
    ends = torch.tensor([process.T, float(table["eps"])], dtype=torch.float64)
    start = torch.from_numpy(table["z"])
    tight = predictor("ode", rtol=1e-10, atol=1e-10, method="dopri8")
    report, exact = SamplingReport(), torch.from_numpy(table["x_tight_f64"])
    x = sample(denoiser, x_init=start.double(), sampler=tight, grid=ends, report=report)
    # early errors are relative to the start, which is larger than the data where noise explodes
    size = max(start, exact, key=lambda v: float(v.abs().max()))
    bound = solver_error({"rtol": 1e-10, "atol": 1e-10}, size, report.evaluations, 13)
    assert (x - exact).abs().max() <= bound
    own = predictor("ode", rtol=float(table["rtol"]), atol=float(table["atol"]))
    report = SamplingReport()
    x, tight = sample(denoiser, x_init=start.double(), sampler=own, grid=ends, report=report), table["x_tight_f64"]
    # two step controls of one method: each is as near to the solution as its tolerances, and no more alike
    for result, evaluations in ((x.numpy(), report.evaluations), (table["x"], int(table["nfe"]))):
        assert abs(result - tight).max() <= solver_error(table, torch.from_numpy(tight), evaluations)
    assert report.evaluations <= 3 * int(table["nfe"]) + 12  # ours also looks for its first step


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
def test_ncsnv2s_annealed_langevin(golden, precision):
    dtype, rtol = PRECISIONS[precision]
    table = load(golden, "2d/ncsnv2/annealed_langevin.npz")
    process = NoiseLevels(torch.from_numpy(table["sigmas"]))
    each, trajectory = int(table["n_steps_each"]), Trajectory()
    for denoise, name in ((True, "final_denoise"), (False, "final_raw")):
        x = sample(
            Mixture.of(process, table, dtype),
            x_init=torch.from_numpy(table["x_init"]).to(dtype),
            sampler=predictor("none", denoise=denoise),
            corrector=corrector("ncsnv2", step_size=float(table["step_lr"]), num_steps=each),
            noise=replay(table["noise"], dtype),
            callback=trajectory if not denoise else None,
        )
        close(x, table[f"{name}_{precision}"], rtol)
    # theirs keeps every inner step, ours every level
    close(trajectory.states[1:], table[f"trajectory_{precision}"][each - 1 :: each], rtol)


@pytest.mark.parametrize(("name", "factor"), [("ncsn", 2), ("ncsnv2", 1)])
def test_ncsns_annealed_langevin(golden, name, factor):
    """Its code's step is half the paper's epsilon."""
    table = load(golden, "2d/ncsn/annealed_langevin.npz")
    process = NoiseLevels(torch.from_numpy(table["sigmas"]))
    each, trajectory = int(table["n_steps_each"]), Trajectory()
    sample(
        Mixture.of(process, table, torch.float32),
        x_init=torch.from_numpy(table["x_init"]),
        sampler="none",
        corrector=corrector(name, step_size=factor * float(table["step_lr"]), num_steps=each),
        noise=replay(table["noise"], torch.float32),
        callback=trajectory,
    )
    # theirs come before each step, cut to [0, 1], so the last level's end is missing
    ours, theirs = trajectory.states[:-1].clamp(0, 1), table["snapshots_clamped"][::each]
    close(ours[1:], theirs[1:], 1e-4)


def adm(golden, schedule):
    """Return ADM's table and the chain that its loops ran, respaced."""
    table = load(golden, f"2d/guided_diffusion/loops_{schedule}.npz")
    whole = torch.from_numpy(table["base_alphas_cumprod"])
    whole = torch.cat([whole.new_ones(1), whole])
    base = DiscreteProcess(1 - whole[1:] / whole[:-1])
    return table, base.respaced(torch.from_numpy(table["timestep_map"]) + 1)


class LearnedRange(Mixture):
    """The mixture with ADM's learned variance, whose values are tanh(eps) there."""

    def reverse_kernel(self, x, t, s, cond=None, clip=None):
        x0, eps = self.estimate(x, t)
        return self._kernel(x0, eps.tanh(), x, t, s, clip)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("clip", [(-1, 1), None], ids=["clip", "noclip"])
def test_adms_chain(golden, schedule, clip):
    table, process = adm(golden, schedule)
    for theirs, ours in {"FIXED_SMALL": "small", "FIXED_LARGE": "large", "LEARNED_RANGE": "learned_range"}.items():
        kind = LearnedRange if ours == "learned_range" else Mixture
        x = sample(
            kind.of(process, table, torch.float32, variance=ours),
            x_init=torch.from_numpy(table["x_T"]),
            sampler=predictor("kernel", clip=clip),
            noise=replay(table["p_sample_noise"], torch.float32),
        )
        close(x, table[f"p_sample.{theirs}.{'clip' if clip else 'noclip'}"], 1e-4)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("clip", [(-1, 1), None], ids=["clip", "noclip"])
def test_adms_ddim(golden, schedule, clip):
    table, process = adm(golden, schedule)
    suffix = "clip" if clip else "noclip"
    assert etas(table, suffix)
    for eta in etas(table, suffix):
        x = sample(
            Mixture.of(process, table, torch.float32),
            x_init=torch.from_numpy(table["x_T"]),
            sampler=predictor("ddim", eta=eta, clip=clip),
            noise=replay(table["ddim_noise"], torch.float32),
        )
        close(x, table[f"ddim.eta{eta}.{suffix}"], 1e-4)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_adms_inverted_ddim(golden, schedule):
    table, process = adm(golden, schedule)
    denoiser = Mixture.of(process, table, torch.float32)
    x = invert(denoiser, torch.from_numpy(table["ddim_reverse.x0"]))
    # ADM goes one step beyond T, to where no signal is left: there x is the noise itself
    close(denoiser.eps(x, torch.full((len(x),), process.num_steps)), table["ddim_reverse.xT"], 1e-4)


def test_edms_sampler(golden):
    table = load(golden, "2d/edm/samplers.npz")
    churn = {"churn": "S_churn", "churn_min": "S_min", "churn_max": "S_max", "noise_scale": "S_noise"}
    for run in ("deterministic", "churn", "sigma_range"):
        low, high, rho, steps = (
            float(table.get(f"{run}.{key}", table.get(key)))
            for key in ("sigma_min", "sigma_max", "rho", "num_steps")
        )
        process = EDMProcess(low, high)
        options = {ours: float(table[f"churn.{theirs}"]) for ours, theirs in churn.items() if run == "churn"}
        times = time_grid(process, int(steps), "edm", rho=rho)
        if run == "deterministic":
            close(times, table["sigma_steps"], 1e-12)
        # theirs draws at every step, ours only where it is used
        used = (times[:-1] >= options.get("churn_min", 0)) & (times[:-1] <= options.get("churn_max", math.inf))
        report = SamplingReport()
        x = sample(
            Mixture.of(process, table, torch.float64),
            x_init=torch.from_numpy(table["latents"]).double() * process.T,
            sampler=predictor("heun", **options),
            grid=times,
            noise=replay(table[f"{run}.noise"][used.numpy()], torch.float64),
            report=report,
        )
        close(x, table[f"{run}.x"], 1e-8)
        assert report.evaluations == len(table[f"{run}.net_in_sigma"])


def vp_of_levels(sigmas):
    """Return the VP process at whose times, evenly from 1 down, these levels lie (Karras et al., 2022, table 1).

    log(1 + sigma^2) = beta_d t^2 / 2 + beta_min t at t = 1 - i h is a parabola in i, which tells h and both rates.
    """
    i = torch.arange(len(sigmas), dtype=torch.float64)
    basis = torch.stack([i**0, i, i**2], dim=1)
    at_1, slope, bend = torch.linalg.lstsq(basis, sigmas.square().log1p()[:, None]).solution[:, 0].tolist()
    h = (-slope + math.sqrt(slope**2 - 4 * at_1 * bend)) / (2 * at_1)
    beta_d = 2 * bend / h**2
    beta_min = at_1 - beta_d / 2
    return build_process("vp", beta_min=beta_min, beta_max=beta_min + beta_d)


@pytest.mark.parametrize("name", ["euler", "heun"])
@pytest.mark.parametrize("levels", ["edm", "iddpm", "vp"])
def test_edms_other_discretizations(golden, name, levels):
    """Any falling levels are a grid of EDM's process; its VP runs are a VP process's, over its own time."""
    table = load(golden, "2d/edm/samplers.npz")
    key = f"ablation.euler.{levels}.net_in_sigma"
    if key not in table:
        pytest.skip(f"no {key}")
    steps = torch.from_numpy(table[key])
    process, options, scale = EDMProcess(), {}, steps[0]
    if levels == "vp":
        process, options = vp_of_levels(steps), {"variable": "t"}
        steps = process.t_of_log_snr(-2 * steps.log())
        scale = process.sigma(steps[:1])
        steps[0] = process.T
    step = {"euler": predictor("euler_maruyama", flow=True), "heun": predictor("heun", **options)}[name]
    x = sample(
        Mixture.of(process, table, torch.float64),
        x_init=torch.from_numpy(table["latents"]).double() * scale,
        sampler=step,
        grid=torch.cat([steps, steps.new_zeros(1)]),
    )
    close(x, table[f"ablation.{name}.{levels}.x"], 1e-8)
