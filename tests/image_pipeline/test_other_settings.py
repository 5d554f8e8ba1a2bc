"""Checkpoints of settings that the golden files do not have, against the plain account of the peers' nets."""

import json

import pytest
import torch
from golden_files import arrays_of
from golden_set_nets import write_abarankab, write_diffusers, write_refinenet

from image_pipeline.interop import abarankab, diffusers, native, ncsn
from pcdiff.diffusion import sample
from pcdiff.errors import InputError


def near(ours, plain, rtol=1e-4):
    assert (ours - plain).abs().max() <= rtol * plain.abs().max()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": None, "initial_pad": 0, "activation": "silu"},
        {"num_classes": 4, "initial_pad": 0, "activation": "silu"},
        {"num_classes": None, "initial_pad": 1, "activation": "silu"},
        {"num_classes": None, "initial_pad": 0, "activation": "mish", "time_emb_scale": 0.5},
        {"num_classes": 3, "initial_pad": 3, "activation": "relu", "img_channels": 2},
    ],
)
def test_abarankabs_options(changes, tmp_path):
    """Classes have an embedding in every block; zeros around the image are cut off again."""
    write_abarankab(tmp_path, "abarankab_other", size=8 if changes["initial_pad"] % 2 == 0 else 6, **changes)
    path = tmp_path / "abarankab_other.pth"
    model, io = abarankab.load(path, path.with_suffix(".json")), arrays_of(path)
    assert model.num_classes == changes["num_classes"]
    native.save(tmp_path / "ours.safetensors", model)
    for each in (model, native.load(tmp_path / "ours.safetensors")):
        with torch.no_grad():
            near(each.denoiser.net(io["x"], io["t"], io.get("y")), io["out_ema"])
    if changes["num_classes"]:
        with pytest.raises(InputError, match="cond must be class indices"):
            model.denoiser.net(io["x"], io["t"])
        with torch.no_grad():
            other = model.denoiser.net(io["x"], io["t"], (io["y"] + 1) % changes["num_classes"])
        assert (other - io["out_ema"]).abs().max() > 1e-2


def test_what_abarankabs_config_cannot_be(tmp_path):
    write_abarankab(tmp_path, "abarankab_other")
    path = tmp_path / "abarankab_other.pth"
    settings = json.loads(path.with_suffix(".json").read_text())
    for key, value, message in (
        ("activation", "glu", "activation must be one of .*, got 'glu'"),
        ("norm", "bn", "norm must be 'gn', got 'bn'"),
        ("initial_pad", -1, "pad must be an integer of at least 0, got -1"),
        ("time_emb_scale", 0, "time_scale must be positive and finite, got 0"),
        ("num_classes", None, "left over: .*class_bias"),
    ):
        with pytest.raises(InputError, match=message):
            abarankab.load(path, {**settings, "unet": {**settings["unet"], key: value}})
    model = abarankab.load(path, settings)
    with pytest.raises(InputError, match="divisible by 2 with 1 zeros on every side"):
        model.denoiser.net(torch.zeros(1, 1, 7, 7), torch.zeros(1), torch.zeros(1).long())


@pytest.mark.parametrize(
    ("kind", "variant", "changes"),
    [
        ("ncsn", "deeper", {}),
        ("ncsn", "base", {"normalization": "VarianceNorm", "nonlinearity": "elu"}),
        ("ncsn", "deeper", {"normalization": "VarianceNorm", "channels": 3, "rescaled": True}),
        ("ncsnv2", "base", {"normalization": "VarianceNorm"}),
        ("ncsnv2", "deepest", {"normalization": "VarianceNorm", "nonlinearity": "lrelu"}),
    ],
)
def test_ncsns_variants_and_norms(kind, variant, changes, tmp_path):
    write_refinenet(tmp_path, "other", kind, variant, **changes)
    path = tmp_path / "other.pth"
    model, io = ncsn.load(path, path.with_suffix(".json")), arrays_of(path)
    config = model.denoiser.net.config
    assert (config.variant, config.normalization) == (variant, changes.get("normalization", "InstanceNorm++"))
    with torch.no_grad():
        near(model.denoiser.net(io["x"], io["labels"]), io["out_ema"])
        near(model.denoiser.net.double()(io["x"].double(), io["labels"]), io["out_ema_f64"], 1e-8)
    said = json.loads(path.with_suffix(".json").read_text())
    said["model"]["normalization"] = "InstanceNorm++" if "normalization" in changes else "VarianceNorm"
    with pytest.raises(InputError, match=r"model\.normalization is .*, the weights are of"):
        ncsn.load(path, said)
    said["model"]["normalization"] = "NoneNorm"
    with pytest.raises(InputError, match=r"model\.normalization must be one of"):
        ncsn.load(path, said)


def test_variance_norm_in_closed_form():
    """A channel 0, 2, 4, 6 has variance 20/3 over three: its mean stays, and its shape."""
    from image_pipeline.nets.instance_norm import ConditionalVarianceNorm, VarianceNorm

    x = torch.tensor([0.0, 2.0, 4.0, 6.0]).view(1, 1, 2, 2)
    norm, own = VarianceNorm(1), ConditionalVarianceNorm(1, 2)
    with torch.no_grad():
        norm.alpha.fill_(3.0)
        own.embed.weight.copy_(torch.tensor([[1.0], [-2.0]]))
    expected = x / (20 / 3 + 1e-5) ** 0.5
    torch.testing.assert_close(norm(x, None), 3 * expected)
    torch.testing.assert_close(
        own(x.expand(2, 1, 2, 2), torch.tensor([0, 1])), torch.cat([expected, -2 * expected])
    )


def test_diffusers_centered_input_and_learned_variance(tmp_path):
    """The net sees 2 x - 1, and a bare folder of twice the channels learned its variance."""
    write_diffusers(tmp_path, "unet_other")
    model, io = diffusers.load(tmp_path / "unet_other"), arrays_of(tmp_path / "unet_other")
    with torch.no_grad():
        near(model.denoiser.net(io["x"], io["timesteps"], io["class_labels"]), io["out"])
    assert model.denoiser.variance == "learned_range"
    x = sample(model.denoiser, (2, 1, 8, 8), cond=torch.tensor([0, 1]), sampler="kernel", num_steps=2)
    assert x.shape == (2, 1, 8, 8)
    assert x.isfinite().all()
    diffusers.save(model, tmp_path / "saved")
    assert json.loads((tmp_path / "saved/unet/config.json").read_text())["center_input_sample"] is True
    scheduler = json.loads((tmp_path / "saved/scheduler/scheduler_config.json").read_text())
    assert scheduler["variance_type"] == "learned_range"
    again = diffusers.load(tmp_path / "saved")
    with torch.no_grad():
        near(again.denoiser.net(io["x"], io["timesteps"], io["class_labels"]), io["out"])


def test_a_skip_nets_input_is_centered_too(tmp_path):
    from test_diffusers_folders import SKIP

    from image_pipeline.interop.imported import Imported
    from image_pipeline.nets.sigma_label import SigmaLabel
    from image_pipeline.nets.song_unet import SongUNet, SongUNetConfig
    from pcdiff.diffusion import VE, NetDenoiser

    torch.manual_seed(0)
    plain, centered = (SongUNet(SongUNetConfig(**SKIP, center_input=center)).eval() for center in (False, True))
    centered.load_state_dict(plain.state_dict())
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.1, 0.9])
    denoiser = NetDenoiser(SigmaLabel(centered).eval(), VE(0.02, 30.0, 500), "score", "sigma")
    diffusers.save(Imported(denoiser, (0.0, 1.0), (3, 8, 8), "ours"), tmp_path / "saved")
    again = diffusers.load(tmp_path / "saved").denoiser.net.net
    with torch.no_grad():
        near(again(x, t), plain(2 * x - 1, t), 1e-6)


def test_diffusers_cannot_have_abarankabs_options(tmp_path):
    write_abarankab(tmp_path, "abarankab_other", num_classes=None, initial_pad=0, activation="relu")
    path = tmp_path / "abarankab_other.pth"
    model = abarankab.load(path, path.with_suffix(".json"))
    with pytest.raises(InputError, match="diffusers cannot express this net: activation must be 'silu'"):
        diffusers.save(model, tmp_path / "saved")
