"""Reverse steps, chains and bounds of PVD's models, by our processes and samplers, with PVD's recorded noise."""

import math

import pytest
import torch
from exact_models import replay
from pvd_files import case_of, close

from pcdiff.diffusion import Sampler, Trajectory
from pcdiff.diffusion.denoisers.base import append_dims
from pcdiff.diffusion.losses.variational_bound import normal_kl
from pcdiff.diffusion.samplers.ancestral import kernel_step

pytestmark = pytest.mark.golden
PRECISIONS = {"": (torch.float32, 1e-4), "_f64": (torch.float64, 1e-7)}
PVD_CLIP = (-0.5, 0.5)


CASES = ["pvd/noatt", *(pytest.param(f"pvd/{name}", marks=pytest.mark.slow) for name in ("completion", "gen"))]


@pytest.mark.parametrize("suffix", ["", pytest.param("_f64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_pvds_reverse_steps(golden, name, suffix):
    dtype, rtol = PRECISIONS[suffix]
    case = case_of(golden, name)
    io, whole = case.io, case.clouds("x", dtype)
    x = whole[:, case.given :]
    x0 = case.clouds("x0", dtype)[:, case.given :]
    denoiser, cond = case.model(dtype).denoiser, case.condition(whole)
    process = denoiser.process
    small = case.settings["constructor"]["model_var_type"] == "fixedsmall"
    # PVD's float32 tables of the posterior: 1 - alpha_bar_1 has only its leading digits left
    lost = 0 if suffix else 2**-23 / case.settings["long_schedule"]["beta_start"]
    bounds = None if case.given else PVD_CLIP  # which the code of completion leaves out
    for k, step in enumerate(io["p/t"]):
        t = torch.full((len(x),), int(step) + 1)
        with torch.no_grad():
            kernel = denoiser.reverse_kernel(x, t, t - 1, cond)
            close(kernel.mean, case.clouds(f"p/mean{suffix}", dtype)[k], max(rtol, lost))
            close(kernel.x0, case.clouds(f"p/pred_xstart{suffix}", dtype)[k], rtol)
            if f"p/pred_xstart_clipped{suffix}" in io:
                clipped = denoiser.reverse_kernel(x, t, t - 1, cond, clip=bounds).x0
                # one within the bounds has the error of the largest without
                error = (clipped - case.clouds(f"p/pred_xstart_clipped{suffix}", dtype)[k]).abs().max()
                assert error <= rtol * kernel.x0.abs().max()
            log_variance = kernel.log_variance.flatten()
            if step > 0 or not small:
                close(log_variance.double(), io[f"p/log_variance{suffix}"][k].double(), max(rtol, lost))
            else:  # where PVD cuts off the logarithm of the variance 0, by which nothing is drawn
                cut = [math.log(1e-20)] * len(x)
                assert io[f"p/log_variance{suffix}"][k].tolist() == pytest.approx(cut, rel=1e-6)
            if not suffix:
                noise = None if step == 0 else replay(io["p/noise"][k].transpose(1, 2)[None].numpy(), dtype)
                sample = kernel_step(denoiser, x, t, t - 1, cond, noise)
                close(sample, case.clouds("p/sample", dtype)[k][:, case.given :], max(rtol, lost))
            if step > 0:
                true_mean, variance, _ = process.posterior(x0, x, t, t - 1)
                true = append_dims(variance.log(), x)
                bits = normal_kl(true_mean, true, kernel.mean, kernel.log_variance).flatten(1).mean(1) / math.log(2)
                # what squares a small difference of means over a small variance has twice their error
                close(bits.double(), io[f"p/vb_bpd{suffix}"][k].double(), 10 * max(rtol, lost))


def chain_start(case, dtype):
    """Return the chain's given clean points, if any, and its start."""
    x = case.clouds("chain/x_T", dtype)
    return case.clouds("x0", dtype)[: len(x)], x


@pytest.mark.parametrize("name", CASES)
def test_pvds_chains_in_float64(golden, name):
    case = case_of(golden, name)
    given, x = chain_start(case, torch.float64)
    denoiser, cond = case.model(torch.float64, "short_schedule").denoiser, case.condition(given)
    trajectory = Trajectory()
    made = Sampler("kernel")(
        denoiser,
        cond=cond,
        x_init=x,
        noise=replay(case.clouds("chain/noise").numpy(), torch.float64),
        callback=trajectory,
    )
    close(made, case.clouds("chain/x0_f64", torch.float64)[:, case.given :], 1e-7)
    states = case.clouds("chain/after_step_0_4_9_f64", torch.float64)[:, :, case.given :]
    for k, state in zip((1, 5, 10), states, strict=True):
        close(trajectory.states[k], state, 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pvd/noatt", "pvd/completion", "pvd/gen"])
def test_pvds_chains_step_by_step_in_float32(golden, name):
    case = case_of(golden, name)
    given, x = chain_start(case, torch.float32)
    denoiser, cond = case.model(torch.float32, "short_schedule").denoiser, case.condition(given)
    lost = 2**-23 / case.settings["short_schedule"]["beta_start"]
    for k, (noise, state) in enumerate(zip(case.clouds("chain/noise"), case.clouds("chain/traj"), strict=True)):
        t = torch.full((len(x),), len(case.io["chain/noise"]) - k)
        state = state[:, case.given :]
        with torch.no_grad():
            draw = None if int(t[0]) == 1 else replay(noise[None].numpy(), torch.float32)
            close(kernel_step(denoiser, x, t, t - 1, cond, draw), state, max(1e-4, lost))
        x = state
