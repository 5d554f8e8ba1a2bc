"""ADM's and Improved DDPM's nets and classifiers against outputs of the projects' own code."""

import json

import numpy as np
import pytest
import torch
from image_runs import command

from image_pipeline.data import to_bytes
from image_pipeline.interop import adm
from pcdiff import rng
from pcdiff.diffusion import ClassifierGuidance, sample

pytestmark = pytest.mark.golden


def arrays(path):
    return {key: torch.from_numpy(value) for key, value in np.load(path).items()}


def relative(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


def files(golden, *patterns):
    found = sorted(p for pattern in patterns for p in (golden / "2d/guided_diffusion").glob(pattern))
    if not found:
        pytest.skip(f"no {' or '.join(patterns)} under {golden / '2d/guided_diffusion'}")
    return found


def rounded_attention(q, k, v):
    """Attention with its softmax in float32, as ADM computes it even in a float64 net."""
    scale = q.shape[-1] ** -0.5
    return (q @ k.transpose(-1, -2) * scale).float().softmax(dim=-1).to(v.dtype) @ v


def test_unets(golden, monkeypatch):
    for path in files(golden, "guided_*.pt", "improved_*.pt"):
        io = arrays(path.with_name(f"{path.stem}_io.npz"))
        model = adm.load(path, path.with_suffix(".json"))
        net = model.denoiser.net
        with torch.no_grad():
            assert relative(net(io["x"], io["timesteps"], io.get("y")), io["out"]) < 1e-4, path.stem
            fractional = net(io["x"], io["timesteps_fractional"], io.get("y"))
            assert relative(fractional, io["out_fractional"]) < 1e-4, path.stem
            double = io["x"].double(), io["timesteps"], io.get("y")
            assert relative(net.double()(*double), io["out_f64"]) < 1e-7, path.stem
            with monkeypatch.context() as patch:
                patch.setattr(torch.nn.functional, "scaled_dot_product_attention", rounded_attention)
                assert relative(net(*double), io["out_f64"]) < 1e-12, path.stem


def test_unets_as_denoisers(golden):
    """Step k of ADM, counted from 0, is time k + 1; with a learned variance the net's second half is for it."""
    for path in files(golden, "guided_*.pt", "improved_*.pt"):
        io = arrays(path.with_name(f"{path.stem}_io.npz"))
        model = adm.load(path, path.with_suffix(".json"))
        channels = io["x"].shape[1]
        with torch.no_grad():
            eps = model.denoiser.eps(io["x"], io["timesteps"] + 1, io.get("y"))
        assert relative(eps, io["out"][:, :channels]) < 1e-4
        learned = io["out"].shape[1] == 2 * channels
        assert model.denoiser.variance == ("learned_range" if learned else "large")
        assert (model.num_classes is None) == ("y" not in io)


def test_classifiers(golden):
    for path in files(golden, "classifier_*.pt"):
        io = arrays(path.with_name(f"{path.stem}_io.npz"))
        net = adm.load_classifier(path, path.with_suffix(".json"))
        with torch.no_grad():
            assert relative(net(io["x"], io["timesteps"]), io["logits"]) < 1e-4, path.stem


def test_classifiers_gradients_through_guidance(golden):
    (unet, *_) = files(golden, "guided_*.pt")
    denoiser = adm.load(unet, unet.with_suffix(".json")).denoiser
    for path in files(golden, "classifier_*.pt"):
        io = arrays(path.with_name(f"{path.stem}_io.npz"))
        net = adm.load_classifier(path, path.with_suffix(".json"))
        guided = ClassifierGuidance(denoiser, adm.classifier_log_prob(net, denoiser))
        gradient = guided.gradient(io["x"], io["timesteps"] + 1, io["y"])
        assert relative(gradient, io["grad_log_prob_y"]) < 1e-4, path.stem


def test_classifiers_guide_by_command(golden, tmp_path):
    """The command draws what the guided checkpoints themselves do, with a net that is told classes and without."""
    guided = 0
    for path in files(golden, "classifier_*.pt"):
        config = path.with_suffix(".json")
        net, classifier = adm.load_classifier(path, config), json.loads(config.read_text())
        for unet in files(golden, "guided_*.pt"):
            model = adm.load(unet, unet.with_suffix(".json"))
            if model.image_shape != (classifier["in_channels"], *[classifier["image_size"]] * 2):
                continue
            ours, out = tmp_path / f"{unet.stem}.safetensors", tmp_path / "guided.png"
            convert = ["convert", "--kind", "adm", "--input", unet, "--config", unet.with_suffix(".json")]
            assert command(*convert, "--output", ours) == 0
            flags = ["--per-class", 2, "--classes", 0, 1, "--sampler", "ddim", "--num-steps", 4, "--seed", 1]
            flags += ["--classifier", path, "--classifier-config", config, "--classifier-scale", 1000]
            assert command("class-conditional", "--run", ours, "--output", out, *flags) == 0
            drawn = torch.from_numpy(np.load(out.with_suffix(".npz"))["arr_0"]).permute(0, 3, 1, 2)

            denoiser, classes = model.denoiser, torch.tensor([0, 0, 1, 1])
            own = classes if model.num_classes else None
            log_prob = adm.classifier_log_prob(net, denoiser)
            start = torch.randn(64, *model.image_shape, generator=rng.generator(1, "sample", 0))[:4]
            few = {"x_init": start, "step": "ddim", "num_steps": 4}
            expected = sample(
                ClassifierGuidance(denoiser, log_prob, 1000, told=own is not None), cond=classes, **few
            )
            assert (drawn.int() - to_bytes(expected, "symmetric").int()).abs().max() <= 1, (path.stem, unet.stem)
            assert not torch.equal(drawn, to_bytes(sample(denoiser, cond=own, **few), "symmetric"))
            guided += 1
    if not guided:
        pytest.skip("no guided_*.pt of a classifier's size")


def test_flags_mean_what_constructor_arguments_mean(golden):
    """The scripts name sizes where the constructors name factors, and widths and classes otherwise."""
    for path in files(golden, "guided_*.pt"):
        plain = json.loads(path.with_suffix(".json").read_text())
        size = plain["image_size"]
        same = "num_res_blocks num_heads num_head_channels num_heads_upsample use_scale_shift_norm resblock_updown \
use_new_attention_order image_size".split()
        flags = {key: plain[key] for key in same} | {
            "num_channels": plain["model_channels"],
            "channel_mult": ",".join(map(str, plain["channel_mult"])),
            "attention_resolutions": ",".join(str(size // factor) for factor in plain["attention_resolutions"]),
            "class_cond": plain["num_classes"] is not None,
            "learn_sigma": plain["out_channels"] == 2 * plain["in_channels"],
        }
        assert adm.load(path, flags).denoiser.net.config == adm.load(path, plain).denoiser.net.config
