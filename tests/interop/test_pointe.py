"""Parity with point-e's own numbers: nets, diffusion, sampler and both stages."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pcdiff.interop import pointe
from pcdiff.nets import set_transformer
from pcdiff.nets.time_embedding import sinusoidal

GOLDEN = Path(os.environ.get("PCDIFF_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))
FOLDER = GOLDEN / "3d/nets/pointe"
CASES = sorted(path for path in FOLDER.glob("*.pt") if path.stem != "pointnet")
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-7}
pytestmark = pytest.mark.golden


def settings_of(path):
    return json.loads(path.with_suffix(".json").read_text())


def net_of(path, dtype):
    made = settings_of(path)["constructor"]
    entries = ["token" if made.get(name) else "added" for name in ("time_token_cond", "token_cond")]
    weights = torch.load(path, weights_only=True)
    return pointe.net_from_weights(weights, made["heads"], *entries).to(dtype)


def scaled(x, made):
    """Return points by channel `(B, C, N)` as the peer's channels are scaled, ours `(B, N, C)`."""
    scales, biases = (torch.tensor(made[key], dtype=torch.float64) for key in ("channel_scales", "channel_biases"))
    return (x.mT.double() * scales + biases).to(x.dtype)


class Case:
    """A net in one precision, with what the peer was given and gave."""

    def __init__(self, path, dtype):
        self.path, self.dtype, self.made = path, dtype, settings_of(path)["constructor"]
        self.io = dict(np.load(path.with_name(f"{path.stem}_io.npz")))
        self.net = net_of(path, dtype)

    def given(self, name):
        return torch.from_numpy(self.io[name]).to(self.dtype)

    def cond(self, zero=False):
        found = {}
        if "embeddings" in self.io:
            embeddings = self.given("embeddings") * (0 if zero else 1)
            grid = embeddings.dim() == 3
            found["tokens" if grid else "vector"] = embeddings.mT if grid else embeddings
        if "low_res" in self.io:
            found["points"] = scaled(self.given("low_res"), self.made)
        return found or None

    def out(self, t, zero=False):
        """Return the net's output by channel, as the peer has it."""
        return self.net(self.given("x").mT, t, self.cond(zero)).mT

    def close(self, ours, name, exact_time=False):
        if self.dtype == torch.float64:
            name += "_f64" if exact_time else "_f64_t32"
        close(ours, self.io[name], TOLERANCE[self.dtype])


def close(ours, expected, tolerance):
    ours = ours.detach().double().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-12)


def exact_sinusoidal(t, dim):
    """The time's sines and cosines in double, as the peer's numbers in double have them."""
    frequencies = 10_000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = t.double()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(scope="module", params=CASES or [None], ids=lambda path: path.stem if path else "none")
def case(request, dtype):
    if request.param is None:
        pytest.skip(f"PCDIFF_GOLDEN: no point-e checkpoints under {FOLDER}")
    return Case(request.param, dtype)


def test_outputs(case, monkeypatch):
    times, exact = torch.from_numpy(case.io["t"]), case.dtype == torch.float64
    case.close(torch.stack([case.out(t) for t in times]), "out")
    for name in ("out_zero_embedding", "out_no_image"):
        if name in case.io:
            case.close(case.out(times[0], zero=True), name)
    if exact:
        monkeypatch.setattr(set_transformer, "sinusoidal", exact_sinusoidal)
        case.close(torch.stack([case.out(t) for t in times]), "out", exact_time=True)
    # a fraction of a step is rounded to float32 here, where the peer's product with a double is not
    case.close(case.out(torch.from_numpy(case.io["t_fractional"])), "out_fractional", exact)


def test_time_features(case):
    if "time_features" in case.io:
        t = torch.from_numpy(case.io["t"])[0]
        close(sinusoidal(t, case.made["width"]), case.io["time_features"], 1e-6)


def test_every_layer(case):
    if case.dtype == torch.float64:
        return  # recorded in float32 only
    net, found = case.net, {}
    modules = {"time_embed": net.time_embed, "input_proj": net.lift, "ln_pre": net.norm_in}
    modules |= {f"backbone.resblocks.{k}": layer for k, layer in enumerate(net.layers)}
    modules |= {f"backbone.resblocks.{k}.attn": layer.proj for k, layer in enumerate(net.layers)}
    modules |= {"backbone": net.layers[-1], "cond_point_proj": net.point_embed}
    modules["clip_embed"] = net.cond_embed if net.token_embed is None else net.token_embed
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: found.update({name: out}))
        for name, module in modules.items()
        if module is not None
    ]
    case.out(torch.from_numpy(case.io["t"])[0])
    for hook in hooks:
        hook.remove()
    kinds = (net.config.time_as == "token") + (net.cond_embed is not None and net.config.cond_as == "token")
    kinds += (net.token_embed is not None) + (net.point_embed is not None)
    # the peer's kinds of prefix tokens stand in another order: there only what comes before them is compared
    names = set(found) if kinds <= 1 else set(found) & {"time_embed", "input_proj", "cond_point_proj", "clip_embed"}
    names = {name for name in names if f"mid/{name}" in case.io}
    assert len(names) >= 3
    for name in names:
        held, ours = case.io[f"mid/{name}"], found[name]
        stride = -(-ours.shape[1] // held.shape[1]) if ours.dim() == 3 else 1
        close(ours[:, ::stride], held, 1e-4)


def test_gradients(case, monkeypatch):
    if case.dtype == torch.float64:
        monkeypatch.setattr(set_transformer, "sinusoidal", exact_sinusoidal)
    case.net.zero_grad()
    (case.out(torch.from_numpy(case.io["t"])[0]) * case.given("upstream")).mean().backward()
    ours = {name: p.grad for name, p in case.net.named_parameters()}
    weights = {
        key: value for key, value in torch.load(case.path, weights_only=True).items() if key[:8] != "channel_"
    }
    first, where = 0, {}
    for key, value in weights.items():
        where[key] = torch.arange(first, first + value.numel(), dtype=torch.float64).view(value.shape)
        first += value.numel()
    flat = torch.empty(first, dtype=torch.float64)
    for name, index in pointe.translate(where, case.made["heads"]).items():
        flat[index.flatten().long()] = ours[name].double().flatten()
    theirs = {key: flat[index.long()].view(index.shape) for key, index in where.items()}
    suffix = "_f64" if case.dtype == torch.float64 else ""
    norms = [float(theirs[str(name)].norm()) for name in case.io["grad_names"]]
    close(norms, case.io[f"grad_norms{suffix}"], TOLERANCE[case.dtype])
    for key in (key for key in case.io if key.startswith("grad/") and not key.endswith("_f64")):
        close(theirs[key.removeprefix("grad/")], case.io[f"{key}{suffix}"], 10 * TOLERANCE[case.dtype])
