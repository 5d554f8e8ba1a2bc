"""Our own format: a denoiser comes back from its file to the bit, and damage is told in one line."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import pcdiff
from image_pipeline.interop import Imported, native
from image_pipeline.nets import MODELS, build_model, plain_config
from image_pipeline.nets.sigma_label import SigmaLabel
from pcdiff.diffusion import VE, VP, EDMProcess, NetDenoiser, discrete_process, parametrization
from pcdiff.errors import InputError

SMALL = {"nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "image_size": 8}
UNET = {"model_channels": 8, "channel_mult": [1, 2], "num_res_blocks": 1, "norm_groups": 4}
SONG = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
NETS = {
    "ncsn": {"nf": 4, "num_scales": 1000},
    "ncsnv2": {"nf": 4, "num_scales": 1000},
    "ddpm": {**SMALL, "nf": 32},
    "ddpmpp": SMALL,
    "ncsnpp": SMALL,
    "unet": {**UNET, "num_classes": 3, "null_class": True, "upsample": ["conv", "resblock"], "out_channels": 6},
    "song": {**SONG, "num_classes": 3, "encoder": "residual", "resample_filter": [1, 3, 3, 1]},
}
DENOISERS = {
    "ncsn": lambda net: NetDenoiser(net, VE(0.01, 50.0), "score", "level"),
    "ncsnv2": lambda net: NetDenoiser(net, VE(0.01, 50.0), "score", "level"),
    "ddpmpp": lambda net: NetDenoiser(net, VP(), "eps", "999t"),
    "ncsnpp": lambda net: NetDenoiser(net, VE(0.01, 50.0), "score", "sigma"),
    "unet": lambda net: NetDenoiser(net, discrete_process("cosine", 20), "x0", "step1000", "learned_range"),
    "song": lambda net: NetDenoiser(net, EDMProcess(), parametrization("edm", sigma_data=0.3), "edm"),
    "ddpm": lambda net: NetDenoiser(net, discrete_process("linear", 20), "v", "step", "large"),
}


def moved(net):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


def model_of(name):
    net = moved(build_model(name, **NETS[name]))
    classes = getattr(net.config, "num_classes", None)
    return Imported(DENOISERS[name](net).eval(), (-1.0, 1.0), (3, 8, None), name, classes)


def asked(model):
    """Return images, times and classes that a model may be asked with."""
    process = model.denoiser.process
    t = torch.tensor([1, 17]) if process.num_steps else torch.tensor([0.11, 0.93], dtype=torch.float64)
    return torch.randn(2, 3, 8, 8), t, torch.tensor([0, 2]) if model.num_classes else None


@pytest.mark.parametrize("name", MODELS)
def test_a_denoiser_comes_back_to_the_bit(name, tmp_path):
    model, path = model_of(name), tmp_path / "model.safetensors"
    native.save(path, model)
    before = torch.get_rng_state()
    again = native.load(path)
    assert torch.equal(torch.get_rng_state(), before)
    call = asked(model)
    with torch.no_grad():
        for method in ("forward", "eps", "score"):
            assert torch.equal(getattr(again.denoiser, method)(*call), getattr(model.denoiser, method)(*call))
    for fact in ("data_range", "image_shape", "name", "num_classes", "ema"):
        assert getattr(again, fact) == getattr(model, fact)
    for fact in ("time_input", "variance"):
        assert getattr(again.denoiser, fact) == getattr(model.denoiser, fact)
    assert not any(module.training for module in again.denoiser.modules())


def test_a_net_of_log_sigma_comes_back(tmp_path):
    net = SigmaLabel(moved(build_model("song", **SONG, embedding="fourier", noise_mult=2)), 0.5)
    model = Imported(NetDenoiser(net, VE(0.02, 100.0), "score", "sigma").eval(), (0.0, 1.0), None, "ve", ema=True)
    native.save(tmp_path / "model.safetensors", model)
    again = native.load(tmp_path / "model.safetensors")
    call = asked(model)
    with torch.no_grad():
        assert torch.equal(again.denoiser(*call), model.denoiser(*call))
    assert (again.image_shape, again.ema) == (None, True)


def test_a_torso_in_half_precision_stays_so(tmp_path):
    model = model_of("unet")
    model.denoiser.net.half_torso(torch.bfloat16)
    native.save(tmp_path / "model.safetensors", model)
    again = native.load(tmp_path / "model.safetensors").denoiser
    kinds = {parameter.dtype for parameter in again.parameters()}
    assert kinds == {torch.float32, torch.bfloat16}
    call = asked(model)
    with torch.no_grad():
        assert torch.equal(again(*call), model.denoiser(*call))


@pytest.mark.parametrize("name", ["unet", "song"])
def test_configs_go_through_json(name):
    net = build_model(name, **NETS[name])
    again = build_model(json.loads(json.dumps(plain_config(net.config))))
    assert type(again) is type(net) is MODELS[name]
    assert again.config == net.config
    assert build_model(net.config).config == net.config
    again.load_state_dict(net.state_dict())
    with pytest.raises(InputError, match=rf"config of {name}: unknown fields \['width'\]"):
        build_model(name, width=3)


def rewritten(path, change):
    """Change the tensors and the facts of a file in place."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
    facts = json.loads(header["json"])
    change(tensors, facts)
    save_file(tensors, path, {"format": header["format"], "json": json.dumps(facts)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, facts: tensors.pop("model.conv_in.bias"), r"missing: \['conv_in\.bias'\]"),
        (lambda tensors, facts: tensors.update({"model.a": torch.ones(1)}), r"left over: \['a'\]"),
        (lambda tensors, facts: facts["net"].update(model_channels=4), "does not fit this model"),
        (lambda tensors, facts: facts["net"].update(name="vit"), "name must be one of .*, got 'vit'"),
        (lambda tensors, facts: facts["net"].update(channel_mult="12"), "channel_mult must be tuple"),
        (lambda tensors, facts: facts["denoiser"]["process"].update(name="no"), "process must be one of"),
        (
            lambda tensors, facts: facts["denoiser"]["process"].update(betas="no"),
            "betas must be a sequence|its settings do not fit",
        ),
        (lambda tensors, facts: facts["denoiser"].update(variance="no"), "variance must be one of"),
        (lambda tensors, facts: facts.update(kind="classifier"), "expected an image denoiser, got classifier"),
        (lambda tensors, facts: facts.pop("kind"), "expected an image denoiser, got another kind of checkpoint"),
        (lambda tensors, facts: facts.pop("ema"), r"damaged: .* lacks \['ema'\]"),
    ],
)
def test_files_that_are_not_whole(change, message, tmp_path):
    path = tmp_path / "model.safetensors"
    native.save(path, model_of("unet"))
    rewritten(path, change)
    with pytest.raises(InputError, match=rf"model\.safetensors: .*{message}") as caught:
        native.load(path)
    assert "\n" not in str(caught.value)


def test_damage_and_other_files(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="no such checkpoint"):
        native.load(path)
    native.save(path, model_of("song"))
    with pytest.raises(InputError, match="expected the fields of RunConfig"):
        pcdiff.load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated or not a safetensors file"):
        native.load(path)


def test_what_cannot_be_rebuilt_is_not_written(tmp_path):
    denoiser = NetDenoiser(torch.nn.Identity(), VP(), "eps", "999t")
    with pytest.raises(InputError, match="config must be one of"):
        native.save(tmp_path / "model.safetensors", Imported(denoiser, (0.0, 1.0), None, "x"))
    assert not list(tmp_path.iterdir())
