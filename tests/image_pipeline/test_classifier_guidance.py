"""A classifier must fit the model that it guides: images, chain, label of time, classes."""

import json

import numpy as np
import pytest
import torch
from image_runs import command
from test_adm import CLASSIFIER, written

from image_pipeline.interop import Imported, adm, native
from image_pipeline.models import build_model
from pcdiff.diffusion import NetDenoiser, build_process


class Bright(torch.nn.Module):
    """Logits that fall from class to class as the image grows dark."""

    def __init__(self, classes):
        super().__init__()
        self.register_buffer("slopes", torch.linspace(1, -1, classes))

    def forward(self, x, t):
        return x.mean(dim=(1, 2, 3))[:, None] * self.slopes + 0 * t[:, None]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained models of 1 x 8 x 8 images: without classes, and one that must be told one of three."""
    folder = tmp_path_factory.mktemp("models")
    widths = {"model_channels": 8, "channel_mult": [1], "attention_factors": [], "norm_groups": 4}
    process = build_process("ddpm", num_steps=1000)
    for name, classes in (("plain", None), ("told", 3)):
        net = build_model("unet", in_channels=1, out_channels=1, num_classes=classes, **widths)
        for time_input in ("step", "log_snr"):
            denoiser = NetDenoiser(net, process, "eps", time_input)
            found = Imported(denoiser, (-1.0, 1.0), (1, 8, 8), "theirs", classes)
            native.save(folder / f"{name}-{time_input}.safetensors", found)
    return folder


def exported(path, classes, shape=(1, 8, 8), net=None):
    batch = torch.export.Dim("batch", min=2)
    example = torch.zeros(2, *shape), torch.zeros(2)
    program = torch.export.export(net or Bright(classes), example, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, path)
    return path


def guided(run, out, *flags):
    return command(
        *["class-conditional", "--run", run, "--output", out, "--device", "cpu", "--per-class", 1],
        *["--sampler", "ddim", "--num-steps", 2, *flags],
    )


def test_a_classifier_of_another_class_count_is_refused_where_the_net_is_told(models, tmp_path, capsys):
    two, three = (exported(tmp_path / f"{n}.pt2", n) for n in (2, 3))
    out = tmp_path / "g.png"
    assert guided(models / "told-step.safetensors", out, "--classifier", two) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "2.pt2: knows 2 classes, the net must be told one of 3" in error
    assert guided(models / "told-step.safetensors", out, "--classifier", three) == 0
    assert np.load(out.with_suffix(".npz"))["arr_0"].shape == (3, 8, 8, 1)
    # a net without classes follows either; how many there are is found out
    assert guided(models / "plain-step.safetensors", out, "--classifier", two) == 0
    assert np.load(out.with_suffix(".npz"))["arr_0"].shape == (2, 8, 8, 1)


class Means(torch.nn.Module):
    """No logits: one number an image."""

    def forward(self, x, t):
        return x.mean(dim=(1, 2, 3)) + 0 * t


def test_a_program_of_other_images_or_without_logits_is_refused(models, tmp_path, capsys):
    run, out = models / "plain-step.safetensors", tmp_path / "g.png"
    assert guided(run, out, "--classifier", exported(tmp_path / "c.pt2", 2, (3, 8, 8))) == 2
    assert "c.pt2: does not take this model's images 1x8x8" in capsys.readouterr().err
    assert guided(run, out, "--classifier", exported(tmp_path / "m.pt2", 0, net=Means())) == 2
    assert "m.pt2: must give logits (B, classes) of images 1x8x8, got (2,) for B = 2" in capsys.readouterr().err


def test_a_classifier_of_adm_needs_adms_label_of_time_and_the_models_images(models, tmp_path, capsys):
    torch.manual_seed(0)
    for channels, size, refused in ((1, 8, None), (3, 8, "takes"), (1, 16, "takes")):
        config = CLASSIFIER | {"in_channels": channels, "image_size": size, "out_channels": 2}
        net = adm.EncoderClassifier(adm.adm_config.classifier_config(config))
        flags = ["--classifier", written(tmp_path, net, adm._classifier_modules), "--classifier-config"]
        flags.append(tmp_path / "classifier.json")
        flags[-1].write_text(json.dumps(config))
        assert guided(models / "plain-step.safetensors", tmp_path / "g.png", *flags) == (2 if refused else 0)
        error = capsys.readouterr().err
        if refused:
            assert "does not take this model's images 1x8x8" in error
            continue
        assert guided(models / "plain-log_snr.safetensors", tmp_path / "g.png", *flags) == 2
        assert "ADM's classifiers are told the chain's step" in capsys.readouterr().err
