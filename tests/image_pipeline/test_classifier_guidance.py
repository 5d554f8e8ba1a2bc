"""A classifier must fit the model that it guides: images, chain, label of time, classes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from image_runs import command, train
from script_tools import assert_same, tensors
from test_adm import CLASSIFIER, written

from image_pipeline.configs.classifier import ClassifierNetConfig
from image_pipeline.interop import Imported, adm, native
from image_pipeline.models.loading import load_model
from image_pipeline.models.noisy_classifier import Guided, NoisyClassifier, load_classifier
from image_pipeline.nets import build_model
from pcdiff.diffusion import NetDenoiser, build_process
from pcdiff.diffusion.serialization import process_to_dict


class Bright(torch.nn.Module):
    """Logits that fall from class to class as the image grows dark."""

    def __init__(self, classes):
        super().__init__()
        self.register_buffer("slopes", torch.linspace(1, -1, classes))

    def forward(self, x, t):
        return x.mean(dim=(1, 2, 3))[:, None] * self.slopes + 0 * t[:, None]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained models of 1 x 8 x 8 images: without classes, and one that needs one of three."""
    folder = tmp_path_factory.mktemp("models")
    widths = {"model_channels": 8, "channel_mult": [1], "attention_factors": [], "norm_groups": 4}
    process = build_process("ddpm", num_steps=1000)
    for name, classes in (("plain", None), ("conditional", 3)):
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
    assert guided(models / "conditional-step.safetensors", out, "--classifier", two) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "2.pt2: has 2 classes, the net must be conditioned on one of 3" in error
    assert guided(models / "conditional-step.safetensors", out, "--classifier", three) == 0
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
        assert "ADM's classifiers are conditioned on the chain's step" in capsys.readouterr().err


SMALL = (
    "--model.model-channels 8 --model.norm-groups 4 --model.num-head-channels 4 --model.num-res-blocks 1".split()
)
SMALL += "--batch-size 16 --log-every 2 --val-every 3 --held-out 20 --device cpu --warmup-iters 0".split()


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("digits") / "run")


def classifier(run, out, *flags):
    assert command("train-classifier", "--run", run, "--out", out, *SMALL, *flags) == 0
    return out


@pytest.fixture(scope="module")
def trained(digits_run, tmp_path_factory):
    return classifier(digits_run, tmp_path_factory.mktemp("classifier") / "c", "--max-iters", 6)


def test_a_classifier_is_trained_on_the_runs_own_process_and_guides_it(digits_run, trained, tmp_path, capsys):
    found, model = load_classifier(trained), load_model(digits_run)
    assert found.guided == Guided.of(model)
    assert (found.guided.process["name"], found.guided.time_input) == ("edm", "edm")
    assert (found.num_classes, found.guided.image_shape, found.guided.data_range) == (10, (1, 8, 8), (-1.0, 1.0))
    config = json.loads((trained / "config.json").read_text())
    assert config["objective"] == {"time_draw": "log_normal", "time_mean": -0.8, "time_std": 1.2}  # the run's own
    out = tmp_path / "s.png"
    flags = ["--run", digits_run, "--output", out, "--classifier", trained, "--num-steps", 2, "--device", "cpu"]
    assert command("sample", *flags, "--num-samples", 3, "--classes", 4) == 0
    assert command("class-conditional", *flags, "--per-class", 1, "--classifier-scale", 3) == 0
    assert np.load(out.with_suffix(".npz"))["arr_0"].shape == (10, 8, 8, 1)
    capsys.readouterr()
    assert command("sample", *flags, "--classes", 10) == 2
    assert "--classes must be in 0..9, got [10]" in capsys.readouterr().err


def test_a_classifiers_training_goes_on_to_the_bit(digits_run, trained, tmp_path, capsys):
    out = classifier(digits_run, tmp_path / "parts", "--max-iters", 6, "--max-minutes", 1e-6)
    assert command("train-classifier", "--resume", out, "--max-minutes", 10) == 0
    assert_same(tensors(out), tensors(trained))
    capsys.readouterr()
    assert command("train-classifier", "--resume", out, "--lr", 0.1) == 2
    assert "would change nothing" in capsys.readouterr().err
    assert command("train-classifier", "--resume", out, "--model.pool", "spatial", "--max-iters", 9) == 2
    assert "model cannot change in a run" in capsys.readouterr().err


def test_a_classifier_of_another_chain_range_or_label_is_refused(trained, models, digits_run, tmp_path, capsys):
    assert guided(models / "plain-step.safetensors", tmp_path / "g.png", "--classifier", trained) == 2
    assert (
        "was trained for a model of time input edm, not step; train one for this model" in capsys.readouterr().err
    )
    other = train(tmp_path / "other", "--process.sigma-max", 5)
    capsys.readouterr()
    assert guided(other, tmp_path / "g.png", "--classifier", trained) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "of process name edm, sigma_min 0.002, sigma_max 20.0" in error
    assert "not name edm, sigma_min 0.002, sigma_max 5.0" in error
    model = load_model(digits_run)
    for change in ({"data_range": (0.0, 1.0)}, {"image_shape": (3, 8, 8)}):
        assert replace(Guided.of(model), **change).differs(Guided.of(model)) is not None


def test_other_peoples_weights_get_a_classifier_too(models, tmp_path, capsys):
    run = models / "plain-step.safetensors"
    assert command("train-classifier", "--run", run) == 2
    assert "no record of what it was trained on; give --dataset-path" in capsys.readouterr().err
    out = classifier(run, tmp_path / "c", "--max-iters", 2, "--dataset-path", "digits", "--val-every", 0)
    assert guided(run, tmp_path / "g.png", "--classifier", out) == 0


def test_a_classifier_is_no_model_and_a_model_no_classifier(trained, digits_run, tmp_path, capsys):
    assert command("sample", "--run", trained, "--output", tmp_path / "x.png") == 2
    assert "is a classifier of train-classifier" in capsys.readouterr().err
    assert guided(digits_run, tmp_path / "x.png", "--classifier", digits_run) == 2
    assert "expected a classifier of train-classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--labels none", "a classifier needs images of two classes or more"),
        ("--data-range unit", "--data-range must be the model's, [-1, 1], got unit"),
        ("--augment 0.1", "--augment needs a net that takes augmentation labels"),
        ("--size 16", "images must be 1x8x8 here, got 1x16x16"),
        ("--model.channel-mult 1 2 4 8 16", "image_size must be positive and divisible by 16, got 8"),
        ("--budget-minutes 3", "--budget-minutes plans score models"),
    ],
)
def test_a_mistake_in_training_a_classifier_is_one_line(digits_run, tmp_path, capsys, flags, says):
    out = tmp_path / "c"
    assert command("train-classifier", "--run", digits_run, "--out", out, *SMALL, *flags.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert not out.exists()


def test_what_a_classifier_sees_has_the_datas_scale():
    """x_t at sigma 40 of data of unit variance reaches the net with unit variance; its label is ln(sigma) / 4."""
    process = build_process("edm", sigma_min=0.002, sigma_max=80.0)
    facts = Guided(process_to_dict(process), "edm", (-1.0, 1.0), (1, 8, 8))
    config = ClassifierNetConfig(model_channels=8, norm_groups=4, num_head_channels=4)
    torch.manual_seed(0)
    model, seen = NoisyClassifier(config, facts, 2).eval(), []
    model.net.register_forward_pre_hook(lambda net, args: seen.append(args))
    x0, t = torch.randn(512, 1, 8, 8), torch.full((512,), 40.0)
    log_probs = model.log_probs(process.perturb(x0, t, torch.randn_like(x0)), t)
    x, label = seen[0]
    # 32,768 numbers of unit variance: the sample variance has the deviation sqrt(2 / 32768) = 0.008
    assert abs(float(x.var()) - 1) < 5 * 0.008
    torch.testing.assert_close(label, torch.full((512,), 40.0).log() / 4)
    torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(512))
