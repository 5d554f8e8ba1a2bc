"""Few-step solvers against the numbers of DPM-Solver's, k-diffusion's and diffusers' own code."""

import json

import pytest
import torch
from exact_models import Mixture, close, replay
from golden_files import found, load

from pcdiff.diffusion import (
    DiscreteProcess,
    EDMProcess,
    Trajectory,
    build_process,
    cosine_betas,
    linear_betas,
    predictor,
    sample,
    time_grid,
)

pytestmark = pytest.mark.golden
PRECISIONS = {"f32": (torch.float32, 1e-4), "f64": (torch.float64, 1e-8)}


def dpm_solvers(golden, kind):
    """Return DPM-Solver's table, our process, and what its times, in (0, 1], are multiplied by."""
    table = load(golden, f"2d/extras/dpm_solver_{kind}.npz")
    if kind == "discrete":
        return table, DiscreteProcess(torch.from_numpy(table["betas"])), len(table["betas"])
    return table, build_process("vp", beta_min=float(table["beta_0"]), beta_max=float(table["beta_1"])), 1


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("kind", ["linear", "discrete"])
def test_dpm_solver(golden, kind, precision):
    dtype, rtol = PRECISIONS[precision]
    table, process, scale = dpm_solvers(golden, kind)
    denoiser, steps = Mixture.of(process, table, dtype), int(table["steps"])
    start = torch.from_numpy(table["x_T"]).to(dtype)
    grids = {name: torch.from_numpy(table[f"timesteps.{name}_f64"]) * scale for name in ("time_uniform", "logSNR")}
    orders = sorted({int(key.split(".o")[1][0]) for key in table if ".multistep.o" in key})
    assert orders
    for order in orders:
        for name, times in grids.items():
            x = sample(denoiser, x_init=start, sampler=predictor("dpmpp", order=order, legacy=True), grid=times)
            close(x, table[f"dpmsolver++.multistep.o{order}.{name}_{precision}"], rtol)
    even = grids["time_uniform"]
    variants = {
        "o2.taylor": ({"order": 2, "taylor": True}, {}),
        "o2.nolower": ({"order": 2, "lower_final": False}, {}),
        "o3.denoise": ({"order": 3, "legacy": True}, {"denoise": True}),
    }
    for key, (options, run) in variants.items():
        x = sample(denoiser, x_init=start, sampler=predictor("dpmpp", **options), grid=even, **run)
        close(x, table[f"dpmsolver++.multistep.{key}_{precision}"], rtol)
    data = torch.from_numpy(table["inverse_x0"]).to(dtype)
    x = sample(denoiser, x_init=data, sampler=predictor("dpmpp", order=2), grid=even.flip(0))
    close(x, table[f"dpmsolver++.inverse.o2_{precision}"], rtol)
    assert len(even) == steps + 1


def test_dpm_solvers_grids(golden):
    """Ours start and end where theirs do; between, only a chain's quadratic grid differs: it ends at the data."""
    table, process, _ = dpm_solvers(golden, "linear")
    steps, process.sample_eps = int(table["steps"]), float(table["timesteps.time_uniform_f64"][-1])
    for ours, theirs in {"uniform": "time_uniform", "log_snr": "logSNR", "quadratic": "time_quadratic"}.items():
        close(time_grid(process, steps, ours), table[f"timesteps.{theirs}_f64"], 1e-8)
    table, process, scale = dpm_solvers(golden, "discrete")
    close(time_grid(process, steps + 1, "log_snr")[:-1] / scale, table["timesteps.logSNR_f64"], 1e-8)


# k-diffusion's samplers and ours
K_DIFFUSION = {
    "euler": ("ddim", {}),
    "euler_ancestral": ("ancestral", {}),
    "heun": ("heun", {}),
    "dpmpp_2m": ("dpmpp", {"order": 2, "lower_final": False}),
    "dpmpp_2m_sde": ("dpmpp", {"order": 2, "eta": 1.0, "lower_final": False}),
    "dpmpp_3m_sde": ("dpmpp", {"order": 3, "eta": 1.0, "taylor": True, "lower_final": False, "legacy": True}),
}


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("name", sorted(K_DIFFUSION))
def test_k_diffusion(golden, name, precision):
    dtype, rtol = PRECISIONS[precision]
    table = load(golden, "2d/extras/k_diffusion.npz")
    process = EDMProcess(float(table["sigma_min"]), float(table["sigma_max"]))
    noise = table.get(f"sample_{name}.noise")
    ours, options = K_DIFFUSION[name]
    x = sample(
        Mixture.of(process, table, dtype),
        x_init=(torch.from_numpy(table["x0"]) * process.T).to(dtype),
        sampler=predictor(ours, **options),
        num_steps=len(table["sigmas.karras_f64"]) - 1,
        grid="edm",
        noise=None if noise is None else replay(noise, dtype),
    )
    close(x, table[f"sample_{name}_{precision}"], rtol)


def diffusers_process(table, run, config):
    """Return the chain of a run, of its own table where it is stored."""
    steps = config["num_train_timesteps"]
    betas = {
        "linear": linear_betas(steps, config["beta_start"], config["beta_end"]),
        "squaredcos_cap_v2": cosine_betas(steps),
        "scaled_linear": linear_betas(steps, config["beta_start"] ** 0.5, config["beta_end"] ** 0.5).square(),
    }[config["beta_schedule"]]
    if f"{run}.alphas_cumprod" in table:
        bars = torch.from_numpy(table[f"{run}.alphas_cumprod"]).double()
        bars = torch.cat([bars.new_ones(1), bars])
        betas = 1 - bars[1:] / bars[:-1]
    return DiscreteProcess(betas)


def solver_of(spec):
    """Return our predictor of a scheduler's configuration, or None where there is none."""
    config, kind = spec["config"], spec["cls"]
    if config.get("use_karras_sigmas") or config.get("thresholding"):
        return None  # its model is asked at rounded times, beside the levels it steps over
    if kind == "DDPMScheduler":
        if config.get("clip_sample"):
            return predictor("kernel", clip=(-1, 1))
        return predictor("ancestral", flexibility=float(config["variance_type"] == "fixed_large"))
    if kind == "DDIMScheduler":
        if config.get("clip_sample") or config.get("timestep_spacing") == "linspace" or "steps_offset" in config:
            return None  # keeps the noise of before the clip; steps by 1000 / N whatever the spacing
        return predictor("ddim", eta=spec["step_kwargs"].get("eta", 0.0))
    if kind == "HeunDiscreteScheduler":
        return predictor("heun")
    order, lower = config.get("solver_order"), config.get("lower_order_final", True)
    if kind == "UniPCMultistepScheduler" and config.get("predict_x0", True):
        return predictor("unipc", order=order, scale=config.get("solver_type", "bh2"), lower_final=lower)
    if kind == "DPMSolverMultistepScheduler" and config["algorithm_type"].endswith("dpmsolver++"):
        taylor, eta = config.get("solver_type") == "heun", float(config["algorithm_type"].startswith("sde"))
        return predictor("dpmpp", order=order, taylor=taylor, eta=eta, lower_final=lower, legacy=True)
    return None


def test_diffusers_schedulers(golden):
    table = load(golden, "2d/diffusers/schedulers.npz")
    specs = json.loads(found(golden, "2d/diffusers/schedulers.json")[0].read_text())
    tested = {}
    for run in map(str, table["runs"]):
        spec, solver = specs[run], solver_of(specs[run])
        if solver is None:
            continue
        process = diffusers_process(table, run, spec["config"])
        times = torch.from_numpy(table[f"{run}.timesteps"]).double() + 1
        heun = spec["cls"] == "HeunDiscreteScheduler"
        if heun:
            times = times[::2]  # both evaluations of a step are listed
        last = 1.0 if spec["config"].get("final_sigmas_type") == "sigma_min" else 0.0
        times = torch.cat([times, times.new_tensor([last])])
        states, trajectory = torch.from_numpy(table[f"{run}.xs"]), Trajectory()
        if heun:  # it keeps x / alpha, and the state between both evaluations
            states = states[::2] if len(states) % 2 else torch.cat([states[::2], states[-1:]])
            states = states * process.alpha(times).float().view(-1, *[1] * (states.dim() - 1))
        sample(
            Mixture.of(process, table, torch.float32),
            x_init=states[0],
            sampler=solver,
            grid=times,
            noise=replay(table[f"{run}.noise"], torch.float32) if f"{run}.noise" in table else None,
            callback=trajectory,
        )
        # where little signal is left, their x_0 = (x - sigma eps) / alpha cancels in float32
        rtol = max(1e-4, 1e-7 / float(process.alpha(times[:1])))
        close(trajectory.states, states, rtol)
        tested[spec["cls"]] = tested.get(spec["cls"], 0) + 1
    missed = {spec["cls"] for spec in map(specs.get, map(str, table["runs"])) if solver_of(spec)} - set(tested)
    assert tested
    assert not missed
