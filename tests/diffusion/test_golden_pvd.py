"""DDPM's chain against the schedules of PVD's own code."""

import json
import re

import numpy as np
import pytest
import torch
from golden_files import found

from pcdiff.diffusion import build_process
from pcdiff.diffusion.losses.variational_bound import prior_bits
from pcdiff.errors import InputError

PRECISIONS = [("", torch.float32, 1e-4), ("_f64", torch.float64, 1e-9)]


def chain(case):
    """Return our chain of PVD's settings: `linear`, or `warm0.1` with the share of its rise."""
    kind = case["schedule_type"]
    warm = re.fullmatch(r"warm([\d.]+)", kind)
    options = {"schedule": "warm", "warm": float(warm[1])} if warm else {"schedule": kind}
    ends = {"beta_1": case["beta_start"], "beta_T": case["beta_end"]}
    return build_process("ddpm", num_steps=case["time_num"], **ends, **options)


def schedules(golden):
    (path,) = found(golden, "3d/nets/pvd/schedules.json")
    return json.loads(path.read_text())["cases"], dict(np.load(path.with_name("schedules_io.npz")))


@pytest.mark.golden
def test_pvds_schedules(golden):
    settings, io = schedules(golden)
    for name, case in settings.items():
        process = chain(case)
        t = torch.arange(1, case["time_num"] + 1)
        alpha_bar = process.alpha_bars[1:]
        _, _, variance, forward = process.kernel(t, t - 1)
        one = torch.ones(len(t), 1, dtype=torch.float64)
        ours = {
            "betas": process.betas[1:],
            "alphas_cumprod": alpha_bar,
            "alphas_cumprod_prev": process.alpha_bars[:-1],
            "sqrt_alphas_cumprod": process.alpha(t),
            "sqrt_one_minus_alphas_cumprod": process.sigma(t),
            "log_one_minus_alphas_cumprod": (1 - alpha_bar).log(),
            "sqrt_recip_alphas_cumprod": 1 / process.alpha(t),
            "sqrt_recipm1_alphas_cumprod": process.sigma(t) / process.alpha(t),
            "posterior_variance": variance,
            "posterior_mean_coef1": process.posterior(one, 0 * one, t, t - 1)[0].flatten(),
            "posterior_mean_coef2": process.posterior(0 * one, one, t, t - 1)[0].flatten(),
        }
        np.testing.assert_allclose(ours["betas"], io[f"{name}/get_betas"], rtol=1e-15)
        for key, value in ours.items():
            np.testing.assert_allclose(value, io[f"{name}/{key}_f64"], rtol=1e-9, atol=1e-15)
            # in PVD's float32 tables 1 - alpha_bar_1 has only the leading digits of beta_1 left
            theirs, lost = io[f"{name}/{key}"], max(1e-4, 2**-23 / case["beta_start"])
            np.testing.assert_allclose(value, theirs, rtol=lost, atol=1e-6 * abs(theirs).max())
        # the log of the first posterior variance, which is 0, is cut off in two ways; no step adds noise by it
        positive = process.positive_posterior_variance(t, t - 1).log()
        np.testing.assert_allclose(positive[1:], io[f"{name}/posterior_log_variance_clipped_f64"][1:], rtol=1e-9)
        large = torch.where(variance > 0, forward, variance[1]).log()
        np.testing.assert_allclose(large, io[f"{name}/fixedlarge_log_variance_f64"], rtol=1e-9)


@pytest.mark.golden
@pytest.mark.parametrize(("suffix", "dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("kind", ["linear", "warm0.1"])
def test_pvds_forward_process_and_posterior(golden, kind, suffix, dtype, rtol):
    settings, io = schedules(golden)
    case = next(case for case in settings.values() if (case["schedule_type"], case["time_num"]) == (kind, 1000))
    process, t = chain(case), torch.from_numpy(io["q/t"]) + 1
    x0, noise = (torch.from_numpy(io[f"q/{key}"]).to(dtype) for key in ("x0", "noise"))
    x_t = process.perturb(x0, t, noise)
    mean, std = process.marginal(x0, t)
    posterior, variance, _ = process.posterior(x0, x_t, t, t - 1)
    alpha, sigma = (v.view(-1, 1, 1).to(dtype) for v in process.scales(t))
    ours = {
        "x_t": x_t,
        "q_mean": mean,
        "q_variance": std.square().view(-1, 1, 1),
        "posterior_mean": posterior,
        "posterior_variance": variance.view(-1, 1, 1),
        "x0_from_eps": (x_t - sigma * noise) / alpha,
        "prior_bpd": prior_bits(process, x0),
    }
    for key, value in ours.items():
        theirs = torch.from_numpy(io[f"q/{kind}/{key}{suffix}"])
        # PVD's float32 coefficients of the posterior: 1 - alpha_bar has canceled, as in its tables
        lost = 2**-23 / case["beta_start"] if key.startswith("posterior") and not suffix else 0
        # numbers of about 1 cancel in the prior's term
        least = 4 * torch.finfo(dtype).eps if key == "prior_bpd" else 1e-12
        error = (value.to(theirs.dtype) - theirs).abs().max()
        assert error <= max(rtol, lost) * theirs.abs().max() + least, (key, float(error))


def test_a_warm_schedule_rises_and_stays():
    process = build_process("ddpm", schedule="warm", num_steps=10, beta_1=0.1, beta_T=0.4, warm=0.45)
    expected = [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]  # 4.5 steps of ten, rounded down
    assert process.betas[1:].tolist() == pytest.approx(expected, rel=1e-12)
    assert build_process("ddpm", schedule="warm", num_steps=3, warm=0.1).betas[1:].tolist() == [0.02] * 3


@pytest.mark.parametrize("warm", [0.0, 1.5])
def test_a_rise_of_no_share_is_refused(warm):
    with pytest.raises(InputError, match=r"warm must be in \(0, 1\], got"):
        build_process("ddpm", schedule="warm", warm=warm)
