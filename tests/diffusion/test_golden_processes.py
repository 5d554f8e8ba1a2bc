"""Processes against tables computed by the papers' own code (score_sde, ADM, NCSNv2)."""

import pytest
import torch
from golden_files import adm_chain, chain_length, score_sde_process, tables

from pcdiff.diffusion import (
    SCHEDULES,
    DiscreteProcess,
    NoiseLevels,
    append_dims,
    build_process,
    geometric_sigmas,
    spaced_times,
)

pytestmark = pytest.mark.golden
PRECISIONS = [("f32", 1e-4), ("f64", 1e-8)]


def close(ours, theirs, rtol):
    """Compare within rtol of the largest value: of the whole table in float32, whose small entries have canceled,
    of each entry of the first dimension in float64.
    """
    theirs = torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    error, size = (v.abs().reshape(len(theirs), -1).amax(dim=1) for v in (ours.to(theirs.dtype) - theirs, theirs))
    if theirs.dtype == torch.float32:
        size = size.max()
    assert (error <= rtol * size + 1e-14).all(), float((error / size).max())


@pytest.mark.parametrize(("precision", "rtol"), PRECISIONS)
@pytest.mark.parametrize("kind", ["vp", "subvp", "ve"])
def test_score_sdes_processes(golden, kind, precision, rtol):
    for name, table in tables(golden, f"2d/sde_tables/{kind}_N*.npz").items():
        process = score_sde_process(kind, table)
        get = {key[:-4]: torch.from_numpy(v) for key, v in table.items() if key.endswith(f"_{precision}")}
        x, t, score = get["x"], get["t"], get["score"]
        mean, std = process.marginal(x, t)
        close(mean, get["marginal_mean"], rtol)
        close(std, get["marginal_std"], rtol)
        close(process.alpha(t), get["marginal_mean_coeff"], rtol)
        close(process.drift(x, t), get["drift"], rtol)
        close(process.diffusion(t), get["diffusion"], rtol)
        steps = int(table["N"])
        if kind == "vp" and steps <= process.beta_max:
            pytest.fail(f"{name} cannot be discretized")
        sampler_t = get["sampler_timesteps"][torch.from_numpy(table["sel"])]
        for prefix, times in (("discretize", t), ("discretize_sel", sampler_t)):
            f, g = process.discretize(x, times)
            close(f, get[f"{prefix}_f"], rtol)
            close(g, get[f"{prefix}_G"], rtol)
        for way, flow in (("sde", False), ("ode", True)):
            drift, diffusion = process.reverse(x, t, score, flow=flow)
            close(drift, get[f"reverse_{way}_drift"], rtol)
            close(diffusion, get[f"reverse_{way}_diffusion"].expand(len(t)), rtol)
            f, g = process.reverse_discretize(x, t, score, flow=flow)
            close(f, get[f"reverse_{way}_discretize_f"], rtol)
            close(g, get[f"reverse_{way}_discretize_G"].expand(len(t)), rtol)
        close(process.log_prior(get["prior_z"]), get["prior_logp"], rtol)
        noise = get["prior_sampling_noise"][0]
        close(noise * process.prior_std, get["prior_sampling"], max(rtol, 1e-7))  # drawn in float32


@pytest.mark.parametrize(("precision", "rtol"), PRECISIONS)
def test_score_sdes_chains(golden, precision, rtol):
    for table in tables(golden, "2d/sde_tables/vp_N*.npz").values():
        steps = int(table["N"])
        betas = SCHEDULES["linear"](steps, float(table["beta_min"]) / steps, float(table["beta_max"]) / steps)
        process, t = DiscreteProcess(betas), torch.arange(1, steps + 1)
        close(process.beta(t), table[f"table_discrete_betas_{precision}"], rtol)
        close(process.step_alpha(t), table[f"table_alphas_{precision}"], rtol)
        whole = (t - 0.5).double() / (steps - 1)  # within the step, whichever way rounding goes
        ends = {"beta_min": float(table["beta_min"]), "beta_max": float(table["beta_max"])}
        for kind in ("vp", "subvp"):
            same = build_process(kind, **ends).step_alpha(whole[:-1], steps)
            close(same, table[f"table_alphas_{precision}"][:-1], rtol)
        close(process.alpha_bars[1:], table[f"table_alphas_cumprod_{precision}"], rtol)
        close(process.alpha(t), table[f"table_sqrt_alphas_cumprod_{precision}"], rtol)
        close(process.sigma(t), table[f"table_sqrt_1m_alphas_cumprod_{precision}"], rtol)
    for table in tables(golden, "2d/sde_tables/ve_N*.npz").values():
        steps = int(table["N"])
        process = build_process(
            "ncsn", sigma_min=float(table["sigma_min"]), sigma_max=float(table["sigma_max"]), num_scales=steps
        )
        close(process.sigma(torch.arange(1, steps + 1)), table[f"table_discrete_sigmas_{precision}"], rtol)


def test_ncsnv2s_levels(golden):
    (table,) = tables(golden, "2d/ncsnv2/sigma_schedules.npz").values()
    names = sorted(key.split(".")[0] for key in table if key.endswith(".sigmas"))
    kinds = set()
    for name in names:
        get = {key.split(".")[1]: value for key, value in table.items() if key.startswith(f"{name}.")}
        kinds.add(str(get["dist"]))
        if str(get["dist"]) != "geometric":
            continue
        sigmas = geometric_sigmas(float(get["begin"]), float(get["end"]), int(get["n"]))
        close(sigmas, get["sigmas"], 1e-5)
        close(NoiseLevels(torch.from_numpy(get["sigmas"])).sigma(torch.arange(int(get["n"]), 0, -1)), sigmas, 1e-5)
    assert "geometric" in kinds


def named_chain(name):
    """Build ADM's chain of a name such as `linear.1000`."""
    schedule, steps = name.split(".")[:2]
    return adm_chain(schedule, int(steps))


def test_adms_tables(golden):
    (table,) = tables(golden, "2d/guided_diffusion/tables.npz").values()
    names = {key.rsplit(".", 1)[0] for key in table}
    assert names
    for name in names:
        process = named_chain(name)
        t = torch.arange(1, process.num_steps + 1)
        x_weight, x0_weight, posterior, _ = process.kernel(t, t - 1)
        alpha, sigma = process.alpha(t), process.sigma(t)
        ours = {
            "betas": process.beta(t),
            "alphas_cumprod": process.alpha_bars[1:],
            "alphas_cumprod_prev": process.alpha_bars[:-1],
            "sqrt_alphas_cumprod": alpha,
            "sqrt_one_minus_alphas_cumprod": sigma,
            "log_one_minus_alphas_cumprod": 2 * sigma.log(),
            "sqrt_recip_alphas_cumprod": 1 / alpha,
            "sqrt_recipm1_alphas_cumprod": sigma / alpha,
            "posterior_variance": posterior,
            "posterior_log_variance_clipped": process.positive_posterior_variance(t, t - 1).log(),
            "posterior_mean_coef1": x0_weight,
            "posterior_mean_coef2": x_weight,
        }
        for key, value in ours.items():
            close(value, table[f"{name}.{key}"], 1e-8)


def test_adms_shorter_chains(golden):
    (table,) = tables(golden, "2d/guided_diffusion/spaced.npz").values()
    names = {key.rsplit(".", 1)[0] for key in table}
    assert len(names) > 2
    for name in names:
        parent = named_chain(name)
        times = spaced_times(parent.num_steps, name.split(".")[2])
        assert times.tolist() == (table[f"{name}.timestep_map"] + 1).tolist()
        process = parent.respaced(times)
        t = torch.arange(1, len(times) + 1)
        assert process.trained_at(t)[1].tolist() == times.tolist()
        close(process.beta(t), table[f"{name}.betas"], 1e-8)
        close(process.alpha_bars[1:], table[f"{name}.alphas_cumprod"], 1e-8)
        log_variance = process.positive_posterior_variance(t, t - 1).log()
        close(log_variance, table[f"{name}.posterior_log_variance_clipped"], 1e-8)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_adms_q(golden, schedule):
    (table,) = tables(golden, f"2d/guided_diffusion/p_q_{schedule}.npz").values()
    process = adm_chain(schedule, chain_length(table))
    get = {key: torch.from_numpy(value) for key, value in table.items() if "." not in key}
    x0, t = get["x_start"], get["t"] + 1
    mean, std = process.marginal(x0, t)
    close(mean, get["q_mean"], 1e-4)
    close(append_dims(std.square(), x0).expand_as(x0), get["q_variance"], 1e-4)
    close(append_dims(2 * std.log(), x0).expand_as(x0), get["q_log_variance"], 1e-4)
    close(process.perturb(x0, t, get["noise"]), get["x_t"], 1e-4)
    mean, variance, _ = process.posterior(x0, get["x_t"], t, t - 1)
    close(mean, get["posterior_mean"], 1e-4)
    close(append_dims(variance, x0).expand_as(x0), get["posterior_variance"], 1e-4)
    log_variance = process.positive_posterior_variance(t, t - 1).log()
    close(append_dims(log_variance, x0).expand_as(x0), get["posterior_log_variance"], 1e-4)


@pytest.mark.parametrize(("precision", "rtol"), PRECISIONS)
def test_dpm_solvers_schedule(golden, precision, rtol):
    """The continuous VP, and the linear chain read between its steps; their lambda is half the log-SNR."""
    for kind in ("linear", "discrete"):
        (table,) = tables(golden, f"2d/extras/dpm_solver_{kind}.npz").values()
        names = ("t", "log_alpha", "std", "lambda", "inverse_lambda")
        get = {name: torch.from_numpy(table[f"table.{name}_{precision}"]) for name in names}
        if kind == "linear":
            process = build_process("vp", beta_min=float(table["beta_0"]), beta_max=float(table["beta_1"]))
        else:
            log_alpha_bars = torch.from_numpy(table["log_alpha_array_f64"]) * 2
            betas = -torch.expm1(log_alpha_bars.diff(prepend=log_alpha_bars.new_zeros(1)))
            process = DiscreteProcess(betas)
            # theirs is one unit long, and below the first step continues along the second's line
            inside = get["t"] * process.num_steps >= 1
            get = {name: value[inside] for name, value in get.items()}
            get["t"] = get["t"] * process.num_steps
            get["inverse_lambda"] = get["inverse_lambda"] * process.num_steps
        close(process.alpha(get["t"]).log(), get["log_alpha"], rtol)
        close(process.sigma(get["t"]), get["std"], rtol)
        close(process.log_snr(get["t"]) / 2, get["lambda"], rtol)
        close(process.t_of_log_snr(2 * get["lambda"]), get["inverse_lambda"], rtol)
