"""Parity with GECCO's own numbers: net, preconditioning, inducers' states, loss, sampler and up-sampling."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pcdiff.diffusion import EDMProcess, Sampler, time_grid
from pcdiff.diffusion.losses import time_draws
from pcdiff.diffusion.samplers.heun import Heun
from pcdiff.interop import gecco
from pcdiff.models.upsampling import further_points

GOLDEN = Path(os.environ.get("PCDIFF_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))
CASES = sorted(GOLDEN.glob("3d/nets/gecco/*.pt"))
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-7}
pytestmark = pytest.mark.golden


class Case:
    """A checkpoint's numbers, settings and model in one precision."""

    def __init__(self, path, dtype, ema=False):
        self.path, self.dtype = path, dtype
        self.settings = json.loads(path.with_suffix(".json").read_text())
        self.io = dict(np.load(path.with_name(f"{path.stem}_io.npz")))
        self.model = gecco.load(path, ema=ema, sigma_max=self.settings["schedule"]["sigma_max"]).to(dtype)
        self.net = self.model.denoiser.net
        statistics = self.model.metadata["statistics"]
        self.mean, self.std = (
            torch.tensor(statistics.get(name, [number] * 3), dtype=dtype)
            for name, number in (("mean", 0.0), ("std", 1.0))
        )

    def given(self, name):
        """Return what the peer was given, in this precision."""
        return torch.from_numpy(self.io[name]).to(self.dtype)

    def close(self, ours, name, tolerance=None):
        expected = self.io[f"{name}_f64" if self.dtype == torch.float64 and f"{name}_f64" in self.io else name]
        ours = ours.detach().double().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
        assert ours.shape == expected.shape
        scale = max(np.abs(expected).max(), 1e-12)
        assert np.abs(ours - expected).max() <= (tolerance or TOLERANCE[self.dtype]) * scale, name

    def data(self):
        return (self.given("data") - self.mean) / self.std

    def sampler(self, kind, name):
        """Return the settings of a case of `sample` or `upsample`, with the default's where it says none."""
        return self.settings["default_sampler"] | self.settings[f"{kind}_options"][name]


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(scope="module", params=CASES or [None], ids=lambda path: path.stem if path else "none")
def case(request, dtype):
    if request.param is None:
        pytest.skip(f"PCDIFF_GOLDEN: no GECCO checkpoints under {GOLDEN}")
    return Case(request.param, dtype)


def edm_steps(settings):
    process = EDMProcess(settings["sigma_min"], settings["sigma_max"])
    return time_grid(process, settings["num_steps"], "edm", rho=float(settings["rho"]))


def heun(settings):
    return Heun(settings["S_churn"], settings["S_min"], float(settings["S_max"]), float(settings["S_noise"]))


def test_denoised_at_every_level(case):
    case.close(case.data(), "diffusion_data")
    for k, sigma in enumerate(case.given("sigma")):
        x = case.data() + sigma * case.given("noise")[k]
        ours = case.model.denoiser(x, sigma.expand(len(x)))
        suffix = "_f64" if case.dtype == torch.float64 else ""
        expected = torch.from_numpy(case.io[f"denoised{suffix}"][k])
        assert (ours - expected).abs().max() <= TOLERANCE[case.dtype] * expected.abs().max()


def test_moving_average(case):
    if "denoised_ema" not in case.io:
        assert gecco.load(case.path, ema=True).denoiser.net.state_dict().keys() == case.net.state_dict().keys()
        return
    ours = Case(case.path, case.dtype, ema=True)
    made = [
        ours.model.denoiser(ours.data() + s * n, s.expand(len(n)))
        for s, n in zip(ours.given("sigma"), ours.given("noise"), strict=True)
    ]
    ours.close(torch.stack(made), "denoised_ema")


def test_every_layer(case):
    found = {}
    layers = {f"inner.layers.{k}": layer for k, layer in enumerate(case.net.layers)}
    modules = {"lift": case.net.lift, **layers}
    modules |= {f"{name}.mlp": layer.mlp for name, layer in layers.items()}
    modules |= {f"{name}.broadcast": layer.out for name, layer in layers.items()}
    modules |= {f"{name}.broadcast.pool": layer.pool_out for name, layer in layers.items()}
    hooks = [
        module.register_forward_hook(
            lambda _, __, out, name=name: found.update({name: out[0] if isinstance(out, tuple) else out})
        )
        for name, module in modules.items()
    ]
    hooks += [
        layer.pool_key_value.register_forward_hook(
            lambda _, inputs, __, name=name: found.update({f"{name}.broadcast_norm": inputs[0]})
        )
        for name, layer in layers.items()
    ]
    hooks += [
        layer.register_forward_hook(
            lambda _, __, out, name=name: found.update({f"{name}.broadcast.norm_2": out[1]})
        )
        for name, layer in layers.items()
    ]
    (prefix,) = {key.partition("/")[0] for key in case.io if key.startswith("mid_sigma")}
    index = int(prefix.removeprefix("mid_sigma"))
    sigma = case.given("sigma")[index]
    x = case.data() + sigma * case.given("noise")[index]
    case.model.denoiser(x, sigma.expand(len(x)))
    for hook in hooks:
        hook.remove()
    names = [key for key in case.io if key.startswith(f"{prefix}/") and not key.endswith("_f64")]
    assert len(names) >= 6
    for key in names:
        ours, held = found[key.removeprefix(f"{prefix}/")], case.io[key].shape[1]
        case.close(ours if ours.shape[1] == held else ours[:, ::4], key)  # every 4th point, all inducers


def test_one_level_a_cloud_and_cached_states(case):
    sigma, x = case.given("mixed/sigma"), case.given("mixed/x")
    denoiser = case.model.denoiser
    case.close(denoiser(x, sigma), "mixed/denoised")
    label = denoiser.tau(sigma).to(case.dtype)
    case.close(case.net(x, label), "mixed/raw_net")
    states = case.net.inducer_states(x, label)
    for k, state in enumerate(states):
        case.close(state, f"mixed/cache{k}")
    new = case.given("mixed/new_points")
    meaning, process = denoiser.parametrization, denoiser.process
    out = case.net(meaning.net_input(process, new, sigma), label, states=states)
    case.close(meaning.x0(process, out, new, sigma), "mixed/new_denoised_with_cache")


def test_time_grid(case):
    steps = [key for key in case.io if key.startswith("t_steps_")]
    assert steps
    for key in steps:
        ends = {"num_steps": int(key.rpartition("_")[2]), "sigma_max": float(case.io[key][0])}
        settings = case.settings["default_sampler"] | ends
        case.close(edm_steps(settings), key, 1e-12)


def test_noise_levels_of_training(case, monkeypatch):
    schedule, process = case.settings["schedule"], case.model.denoiser.process
    assert (process.sigma_min, process.sigma_max) == (schedule["sigma_min"], schedule["sigma_max"])
    drawn = [key for key in case.io if key.startswith("schedule/u")]
    assert drawn
    for key in drawn:
        u = torch.from_numpy(case.io[key])
        monkeypatch.setattr(torch, "rand", lambda *_, u=u, **__: u)
        monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n))
        for stratified in (True, False):
            t, weight = time_draws.draw_log_uniform_times(process, len(u), stratified=stratified)
            name = f"schedule/sigma{len(u)}_low_discrepancy_{stratified}"
            assert np.allclose(t, case.io[name].flatten(), rtol=2e-6, atol=0)  # exp of up to 6.3 in float32
            assert (weight == 1).all()


def test_loss_and_gradients(case):
    model = copy.deepcopy(case.model).train()
    noise, sigma = case.given("loss/noise"), case.given("loss/sigma").flatten()
    if case.dtype == torch.float64:
        sigma = torch.from_numpy(case.io["loss/sigma_f64"]).flatten()
    loss = model.loss_terms(case.data(), noise=noise, t=sigma)["loss"]
    case.close(loss, "loss/value")
    loss.backward()
    # the peer's keys, filled with our gradients: renaming is linear
    grads = {f"denoiser.net.{name}": p.grad for name, p in model.denoiser.net.named_parameters()}
    theirs = in_their_names(case, grads)
    names = [str(name) for name in case.io["loss/all_grad_names"]]
    case.close([float(theirs[name].norm()) for name in names], "loss/all_grad_norms")
    total = sum(float(grad.square().sum()) for grad in theirs.values()) ** 0.5
    case.close(total, "loss/grad_norm")
    compared = [key for key in case.io if key.startswith("loss/grad/") and not key.endswith("_f64")]
    assert compared
    for key in compared:
        # the derivative in the Gaussian's width sums over all points with both signs: 1.5e-4 in the peer's float32
        case.close(theirs[key.removeprefix("loss/grad/")], key, 1e-3 if case.dtype == torch.float32 else None)


def in_their_names(case, ours):
    """Return our tensors by the peer's keys, by sending each of its numbers through the translation as an index."""
    weights = torch.load(case.path, weights_only=True)["state_dict"]
    weights = {key: value for key, value in weights.items() if not key.startswith("reparam.")}
    first, where = 0, {}
    for key, value in weights.items():
        where[key] = torch.arange(first, first + value.numel(), dtype=torch.float64).view(value.shape)
        first += value.numel()
    flat = torch.empty(first, dtype=torch.float64)
    for name, index in gecco.translate(where).items():
        flat[index.flatten().long()] = ours[f"denoiser.net.{name}"].detach().double().flatten()
    return {key: flat[index.long()].view(index.shape) for key, index in where.items()}


def names_of(kind):
    return sorted(
        {name for path in CASES for name in json.loads(path.with_suffix(".json").read_text())[f"{kind}_options"]}
    )


@pytest.mark.parametrize("name", names_of("sample"))
def test_sampler(case, name):
    settings = case.sampler("sample", name)
    steps = edm_steps(settings)
    step, draws = heun(settings), iter(churned(case, f"sample/{name}/noise", steps, settings))
    levels = []
    out = Sampler(step, grid=steps)(
        Watched(case.model.denoiser, levels),
        x_init=steps[0] * case.given(f"sample/{name}/latents").double(),
        noise=lambda x: next(draws).to(x),
    )
    assert next(draws, None) is None
    case.close(torch.tensor(levels, dtype=torch.float64), f"sample/{name}/net_sigma", 1e-6)
    case.close(out * case.std + case.mean, f"sample/{name}/out")


def churned(case, key, steps, settings):
    """Return the draws of the steps that get churn: the peer draws for the others too."""
    got = [settings["S_churn"] > 0 and settings["S_min"] <= t <= float(settings["S_max"]) for t in steps[:-1]]
    return [draw for draw, used in zip(case.given(key), got, strict=True) if used]


class Watched(torch.nn.Module):
    """A denoiser in its own precision of samples in double, as the peer's, that notes the levels it is asked at."""

    def __init__(self, denoiser, levels):
        super().__init__()
        self.denoiser, self.process, self.levels = denoiser, denoiser.process, levels

    def estimate(self, x, t, cond=None):
        self.levels.append(float(t[0]))
        x0 = self.denoiser(x.to(self.denoiser.net.lift.weight.dtype), t, cond).double()
        return type(self.denoiser.estimate(x[:, :1].float().to(self.denoiser.net.lift.weight.dtype), t))(
            x0, (x - x0) / self.process.sigma(t)[:, None, None]
        )

    def eps(self, x, t, cond=None):
        return self.estimate(x, t, cond).eps


@pytest.mark.parametrize("name", names_of("upsample"))
def test_upsampling(case, name):
    settings = case.sampler("upsample", name)
    steps, prefix = edm_steps(settings), f"upsample/{name}/"
    keys = sorted(key for key in case.io if key.startswith(f"{prefix}draw"))
    draws, at = [], 0
    for k in range(settings["num_steps"]):
        churn = settings["S_churn"] > 0 and settings["S_min"] <= steps[k] <= float(settings["S_max"])
        draws.append(keys[at])
        at += 1
        for substep in range(settings["num_substeps"]):
            draws += [keys[at]] if churn else []
            at += 1
            if substep < settings["num_substeps"] - 1 and k < settings["num_steps"] - 1:
                draws.append(keys[at])
                at += 1
    assert at == len(keys)
    source = iter(draws)
    out = further_points(
        case.model,
        case.data(),
        case.io[f"{prefix}latents"].shape[1],
        num_substeps=settings["num_substeps"],
        times=steps,
        predictor=heun(settings),
        x_init=(steps[0] * case.given(f"{prefix}latents").double()).to(case.dtype),
        noise=lambda x: case.given(next(source)),
    )
    assert next(source, None) is None
    case.close(out * case.std + case.mean, f"{prefix}out")
