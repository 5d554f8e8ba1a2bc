"""ADM's and Improved DDPM's nets and classifiers against outputs of the projects' own code."""

import json

import numpy as np
import pytest
import torch
from golden_files import adm_settings, arrays_of, classes_of, found
from image_runs import command

from image_pipeline.data import to_bytes
from image_pipeline.interop import adm
from pcdiff.diffusion import ClassifierGuidance, sample
from pcdiff.errors import InputError
from pcdiff.runtime import rng

pytestmark = pytest.mark.golden


def relative(got, expected):
    return float((got.detach() - expected).abs().max() / expected.abs().max())


def files(golden, *patterns):
    return found(golden, *(f"2d/guided_diffusion/{pattern}" for pattern in patterns))


def rounded_attention(q, k, v):
    """Attention with its softmax in float32, as ADM computes it even in a float64 net."""
    scale = q.shape[-1] ** -0.5
    return (q @ k.transpose(-1, -2) * scale).float().softmax(dim=-1).to(v.dtype) @ v


def test_unets(golden, monkeypatch):
    """In float64 the peer's softmax alone is float32, and how that rounds is each CPU's own affair.

    A float32 exp is right to a unit in the last place, not to the bit, so two CPUs differ by as much as float32
    differs from float64. That is measured here, on this CPU: the file may be no further off than a few times that.
    """
    for path in files(golden, "guided_*.pt", "improved_*.pt"):
        io = arrays_of(path)
        net, y = adm.load(path, adm_settings(path)).denoiser.net, classes_of(io)
        with torch.no_grad():
            assert relative(net(io["x"], io["timesteps"], y), io["out"]) < 1e-4, path.stem
            fractional = net(io["x"], io["timesteps_fractional"], y)
            assert relative(fractional, io["out_fractional"]) < 1e-4, path.stem
            double = io["x"].double(), io["timesteps"], y
            exact = net.double()(*double)
            with monkeypatch.context() as patch:
                patch.setattr(torch.nn.functional, "scaled_dot_product_attention", rounded_attention)
                rounding = relative(net(*double), exact)
        # weights of a softmax rounded to 2^-24, through a few attentions of a net of condition about 10
        assert 0 < rounding < 1e-6, path.stem
        assert relative(exact, io["out_f64"]) < 8 * rounding, path.stem


def test_unets_as_denoisers(golden):
    """Step k of ADM, counted from 0, is time k + 1; with a learned variance the net's second half is for it."""
    for path in files(golden, "guided_*.pt", "improved_*.pt"):
        io = arrays_of(path)
        model = adm.load(path, adm_settings(path))
        channels, y = io["x"].shape[1], classes_of(io)
        with torch.no_grad():
            eps = model.denoiser.eps(io["x"], io["timesteps"] + 1, y)
        assert relative(eps, io["out"][:, :channels]) < 1e-4
        learned = io["out"].shape[1] == 2 * channels
        assert model.denoiser.variance == ("learned_range" if learned else "large")
        assert (model.num_classes is None) == (y is None)


def test_classifiers(golden):
    for path in files(golden, "classifier_*.pt"):
        io = arrays_of(path)
        net = adm.load_classifier(path, adm_settings(path))
        with torch.no_grad():
            assert relative(net(io["x"], io["timesteps"]), io["logits"]) < 1e-4, path.stem


def test_classifiers_gradients_through_guidance(golden):
    (unet, *_) = files(golden, "guided_*.pt")
    denoiser = adm.load(unet, adm_settings(unet)).denoiser
    for path in files(golden, "classifier_*.pt"):
        io = arrays_of(path)
        net = adm.load_classifier(path, adm_settings(path))
        guided = ClassifierGuidance(denoiser, adm.classifier_log_prob(net, denoiser))
        gradient = guided.gradient(io["x"], io["timesteps"] + 1, io["y"])
        assert relative(gradient, io["grad_log_prob_y"]) < 1e-4, path.stem


def test_classifiers_guide_by_command(golden, tmp_path):
    """The command draws what the guided checkpoints themselves do, with a net of classes and without."""
    guided = 0
    for path in files(golden, "classifier_*.pt"):
        classifier = adm_settings(path)
        net, config = adm.load_classifier(path, classifier), tmp_path / "classifier.json"
        config.write_text(json.dumps(classifier))
        for unet in files(golden, "guided_*.pt"):
            model = adm.load(unet, adm_settings(unet))
            if model.image_shape != (classifier["in_channels"], *[classifier["image_size"]] * 2):
                continue
            ours, out = tmp_path / f"{unet.stem}.safetensors", tmp_path / "guided.png"
            convert = ["convert", "--kind", "adm", "--input", unet]
            (tmp_path / "unet.json").write_text(json.dumps(adm_settings(unet)))
            convert += ["--config", tmp_path / "unet.json"]
            assert command(*convert, "--output", ours) == 0
            flags = ["--per-class", 2, "--classes", 0, 1, "--sampler", "ddim", "--num-steps", 4, "--seed", 1]
            flags += ["--classifier", path, "--classifier-config", config, "--classifier-scale", 1000]
            status = command("class-conditional", "--run", ours, "--output", out, *flags)
            if model.num_classes not in (None, classifier["out_channels"]):
                assert status == 2  # a net that needs a class, and a classifier of others
                continue
            assert status == 0
            drawn = torch.from_numpy(np.load(out.with_suffix(".npz"))["arr_0"]).permute(0, 3, 1, 2)

            denoiser, classes = model.denoiser, torch.tensor([0, 0, 1, 1])
            own = classes if model.num_classes else None
            log_prob = adm.classifier_log_prob(net, denoiser)
            start = torch.randn(64, *model.image_shape, generator=rng.generator(1, "sample", 0))[:4]
            few = {"x_init": start, "sampler": "ddim", "num_steps": 4}
            expected = sample(
                ClassifierGuidance(denoiser, log_prob, 1000, conditional=own is not None), cond=classes, **few
            )
            assert (drawn.int() - to_bytes(expected, "symmetric").int()).abs().max() <= 1, (path.stem, unet.stem)
            assert not torch.equal(drawn, to_bytes(sample(denoiser, cond=own, **few), "symmetric"))
            guided += 1
    if not guided:
        pytest.skip("no guided_*.pt of a classifier's size")


def test_flags_mean_what_constructor_arguments_mean(golden):
    """The scripts name sizes where the constructors name factors, and widths and classes otherwise."""
    for path in files(golden, "guided_*.pt"):
        plain = adm_settings(path)
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
        # what the scripts fix has no flag: three channels are not in every file, nor resampling by convolution
        ours = adm.load(path, plain).denoiser.net.config
        if not plain.get("conv_resample", True):
            with pytest.raises(InputError, match="unknown settings"):
                adm.load(path, {**flags, "conv_resample": False})
            continue
        assert adm.load(path, {**flags, "in_channels": plain["in_channels"]}).denoiser.net.config == ours
