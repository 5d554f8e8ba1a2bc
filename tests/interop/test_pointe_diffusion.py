"""Parity with point-e's own numbers: chains, reverse steps, losses, its sampler, and both stages."""

import json

import numpy as np
import pytest
import torch
from test_pointe import FOLDER, TOLERANCE, close, exact_sinusoidal, net_of, scaled

from pcdiff.diffusion import OBJECTIVES, Sampler, build_process, prior_bits, spaced_times
from pcdiff.diffusion.denoisers.base import NetDenoiser
from pcdiff.diffusion.denoisers.guidance import ClassifierFreeGuidance
from pcdiff.diffusion.denoisers.whole_steps import WholeSteps
from pcdiff.diffusion.samplers.ddim import DDIM
from pcdiff.diffusion.samplers.heun import Heun
from pcdiff.interop import pointe
from pcdiff.nets import set_transformer

FILE = FOLDER / "diffusion.json"
SETTINGS = json.loads(FILE.read_text()) if FILE.is_file() else {"configs": {"none": {}}, "karras": {"none": {}}}
pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def io():
    if not FILE.is_file():
        pytest.skip(f"PCDIFF_GOLDEN: no {FILE}")
    return dict(np.load(FOLDER / "diffusion_io.npz"))


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request, monkeypatch):
    if request.param == torch.float64:
        monkeypatch.setattr(set_transformer, "sinusoidal", exact_sinusoidal)
    return request.param


class Numbers:
    """The peer's numbers in one precision."""

    def __init__(self, io, dtype):
        self.io, self.dtype = io, dtype

    def given(self, name):
        """Return what the peer was given, points first as ours are."""
        value = torch.from_numpy(self.io[name])
        return value.to(self.dtype).mT if value.dim() == 3 else value

    def close(self, ours, name, k=None, channels=True, tolerance=None):
        key = f"{name}_f64" if self.dtype == torch.float64 and f"{name}_f64" in self.io else name
        expected = self.io[key] if k is None else self.io[key][k]
        close(ours.mT if channels else ours, expected, tolerance or TOLERANCE[self.dtype])


@pytest.fixture
def numbers(io, dtype):
    return Numbers(io, dtype)


def chain_of(config):
    steps = config["timesteps"]
    rates = {} if config["schedule"] == "cosine" else {"beta_1": 0.1 / steps, "beta_T": 20 / steps}
    return build_process("ddpm", schedule=config["schedule"], num_steps=steps, **rates)


@pytest.mark.parametrize("name", SETTINGS["configs"])
def test_chains(name, io):
    config = SETTINGS["configs"][name]
    chain = chain_of(config)
    if "respacing" in config:
        times = spaced_times(config["timesteps"], config["respacing"])
        assert np.array_equal(times - 1, io[f"{name}/timestep_map"])
        chain = chain.respaced(times)
    close(chain.betas[-chain.num_steps :], io[f"{name}/betas"], 1e-12)
    close(chain.alpha_bars[1:], io[f"{name}/alphas_cumprod"], 1e-12)
    t = torch.arange(1, chain.num_steps + 1)
    x_weight, x0_weight, posterior, _ = chain.kernel(t, t - 1)
    close(posterior, io[f"{name}/posterior_variance"], 1e-9)  # a difference of alpha_bars as small as 4e-5
    close(x0_weight, io[f"{name}/posterior_mean_coef1"], 1e-9)
    close(x_weight, io[f"{name}/posterior_mean_coef2"], 1e-9)
    close(chain.positive_posterior_variance(t, t - 1).log(), io[f"{name}/posterior_log_variance_clipped"], 1e-9)


@pytest.mark.parametrize("name", SETTINGS["configs"])
def test_reverse_steps_and_losses(name, numbers):
    config = SETTINGS["configs"][name]
    chain = chain_of(config)
    if "respacing" in config:
        chain = chain.respaced(spaced_times(config["timesteps"], config["respacing"]))
    net = net_of(FOLDER / SETTINGS["nets"]["p_and_losses"], numbers.dtype)
    denoiser = NetDenoiser(net, chain, "eps", "step", "learned_range")
    x0 = scaled(numbers.given("x0").mT, config)
    numbers.close(x0, f"{name}/scaled")
    noise, step_noise = numbers.given("noise"), numbers.given("step_noise")
    # at most 1e-3 of a log-variance or a bound is float32's: 1 - alpha_bar cancels at the first steps of 1024
    loose = 1e-3 if numbers.dtype == torch.float32 else None
    if numbers.dtype == torch.float64:  # a float32 cannot tell it from 0
        close(prior_bits(chain, x0), numbers.io[f"{name}/prior_bpd_f64"], 1e-7)
    for k, steps in enumerate(torch.from_numpy(numbers.io[f"{name}/t"])):
        t = steps + 1
        numbers.close(chain.perturb(x0, t, noise), f"{name}/x_t", k)
        x = numbers.given(f"{name}/x_t")[k] if numbers.dtype == torch.float32 else None
        x = chain.perturb(x0, t, noise) if x is None else x.mT
        mean, log_variance, estimate = denoiser.reverse_kernel(x, t, steps)
        for ours, key in ((mean, "mean"), (log_variance, "log_variance"), (estimate, "pred_xstart")):
            numbers.close(ours, f"{name}/{key}", k)
        mean, log_variance, estimate = denoiser.reverse_kernel(x, t, steps, clip=(-1, 1))
        later = (steps > 0)[:, None, None]
        numbers.close(mean + later * (log_variance / 2).exp() * step_noise, f"{name}/p_sample_clipped", k)
        numbers.close(DDIM(clip=(-1, 1))(denoiser, x, t, steps, None, None), f"{name}/ddim_clipped", k)
        if f"{name}/ddim_eta07" in numbers.io:
            drawn = DDIM(eta=0.7)(denoiser, x, t, steps, None, lambda _, later=later: later * step_noise)
            numbers.close(drawn, f"{name}/ddim_eta07", k)
            numbers.close(estimate, f"{name}/pred_xstart_clipped", k)
        error = OBJECTIVES["regression"](denoiser, x0, t, noise)
        numbers.close(error, f"{name}/loss_mse", k, channels=False)
        # the peer's bound of the first step, the decoder's, is 0
        bound = OBJECTIVES["vlb"](denoiser, x0, t, noise) / chain.num_steps * (steps > 0)
        numbers.close(bound, f"{name}/loss_vb", k, channels=False, tolerance=loose)
        numbers.close(error + bound, f"{name}/loss", k, channels=False, tolerance=loose)


def peer_levels(steps, sigma_min, sigma_max, dtype=torch.float32):
    """Return the peer's noise levels `(steps + 1,)`, rounded as it rounds them."""
    first, last = sigma_max ** (1 / 7), sigma_min ** (1 / 7)
    ramp = torch.linspace(0, 1, steps, dtype=dtype)
    return torch.cat([(first + ramp * (last - first)) ** 7, ramp[:1] * 0])


def test_noise_levels(io):
    for name, sigma_max in (("base", 120), ("up", 160)):
        if f"karras/sigmas_64_{name}" in io:
            close(peer_levels(64, 0.001, sigma_max), io[f"karras/sigmas_64_{name}"], 1e-6)


class Asked(torch.nn.Module):
    """A net that notes the steps it is asked at."""

    def __init__(self, net):
        super().__init__()
        self.net, self.steps = net, []

    def forward(self, x, t, cond=None):
        self.steps.append(int(t[0]))
        return self.net(x, t, cond)


@pytest.mark.parametrize("name", SETTINGS["karras"])
def test_sampler_in_noise_levels(name, numbers):
    """The peer's `dpm`, a midpoint method of its own, is none of ours; its net's steps are not compared either."""
    plan = SETTINGS["karras"][name]
    if plan["sampler"] == "dpm":
        return
    config = SETTINGS["configs"]["cosine1024"]
    net = Asked(net_of(FOLDER / f"{plan['net']}.pt", numbers.dtype))
    chain = NetDenoiser(net, chain_of(config), "eps", "step", "learned_range")
    clip = (-1.0, 1.0) if plan.get("clip_denoised", True) else None
    denoiser = WholeSteps(chain, plan["sigma_min"], plan["sigma_max"], clip)
    levels, cond = peer_levels(plan["steps"], plan["sigma_min"], plan["sigma_max"], numbers.dtype).double(), None
    if plan["net"] == "imagevec":
        cond = {"vector": numbers.given("karras/embeddings").to(numbers.dtype)}
        if plan["guidance_scale"] not in (0, 1):
            denoiser = ClassifierFreeGuidance(
                denoiser, {"vector": torch.zeros_like(cond["vector"])}, plan["guidance_scale"]
            )
    start, *draws = (numbers.given(key) for key in sorted(numbers.io) if key.startswith(f"karras/{name}/draw"))
    churned = [plan.get("s_tmin", 0) <= t <= plan.get("s_tmax", np.inf) for t in levels[:-1]]
    if plan["sampler"] == "ancestral":
        step = DDIM(eta=1.0)
        source = iter(draws)
    else:
        churn = plan.get("s_churn", 0.0)
        step = Heun(churn, plan.get("s_tmin", 0.0), plan.get("s_tmax", np.inf), plan.get("s_noise", 1.0))
        source = iter([draw for draw, used in zip(draws, churned, strict=True) if used and churn > 0])
    sample = Sampler(step, grid=levels)
    out = sample(denoiser, cond=cond, x_init=start * levels[0].to(start), noise=lambda _: next(source))
    if plan["sampler"] == "heun":
        assert net.steps == numbers.io[f"karras/{name}/net_t"].tolist()
    scales, biases = (torch.tensor(config[f"channel_{part}"], dtype=torch.float64) for part in ("scales", "biases"))
    unscaled = ((out.double() - biases) / scales).to(out.dtype)
    # ten evaluations one after the other: the peer's own two precisions lie 1e-4 apart
    numbers.close(unscaled, f"karras/{name}/out", tolerance=5e-4 if numbers.dtype == torch.float32 else 1e-7)


def test_two_stages(numbers):
    plan, dtype = SETTINGS["two_stage"], numbers.dtype
    made = []
    for stage, name in enumerate((SETTINGS["nets"]["imagevec"], SETTINGS["nets"]["upsampler"])):
        settings = json.loads((FOLDER / name).with_suffix(".json").read_text())["constructor"]
        model = pointe.load(FOLDER / name, num_heads=settings["heads"]).to(dtype)
        assert model.denoiser.process.sigma_max == plan["sigma_max"][stage]
        assert (model.sampling_config.churn or 0) == plan["s_churn"][stage]
        made.append(model)
    draws = [numbers.given(key) for key in sorted(numbers.io) if key.startswith("two_stage/draw")]
    first = plan["karras_steps"][0]
    low, high = draws[: first + 1], draws[first + 1 :]

    def stage(k, starts):
        levels = peer_levels(plan["karras_steps"][k], plan["sigma_min"][k], plan["sigma_max"][k], dtype).double()
        source = iter(starts[1:])
        churn = float(plan["s_churn"][k])
        return Sampler(Heun(churn), grid=levels), starts[0] * levels[0].to(dtype), lambda _: next(source)

    base, upsampler = made
    settings, x_init, noise = stage(0, low)
    denoiser, cond = base.conditioned(
        numbers.given("karras/embeddings").to(dtype), guidance=plan["guidance_scale"][0]
    )
    points = base.unscaled(settings(denoiser, cond=cond, x_init=x_init, noise=noise))
    loose = 5e-4 if dtype == torch.float32 else 1e-7
    numbers.close(points, "two_stage/base", tolerance=loose)
    settings, x_init, noise = stage(1, high)
    dense = upsampler.upsample(points, high[0].shape[1], settings=settings, x_init=x_init, noise=noise)
    numbers.close(dense, "two_stage/out", tolerance=loose)
    close(dense[0, :, :3], numbers.io["two_stage/cloud0_coords"], 1e-3)
