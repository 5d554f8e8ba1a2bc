"""Runs of class-conditional models: flags, resuming, commands that take classes by name, scores of each class."""

import json
import re

import numpy as np
import pytest
import torch
from script_tools import assert_same, script, tensors
from torch import nn

import pcdiff
from pcdiff.commands import cli
from pcdiff.config import run_from_dict, to_json
from pcdiff.config.presets import AUTOENCODER_PRESETS, GENERATOR_PRESETS
from pcdiff.errors import InputError
from pcdiff.models import build_model

NAMES = ("airplane", "chair")
TINY = """--preset demo --latent-dim 4 --encoder.widths 8 --encoder.head-widths 8 --class-conditional --class-dim 3
    --val-every 0 --num-points 16 --batch-size 4 --num-samples 3 --sample-points 8 --val-clouds 4 --val-points 8
    --categories chair,airplane --net.widths 8 8 --prior.depth 2 --prior.hidden-dim 8 --device cpu --lr 1e-2
    --process vp""".split()


@pytest.fixture(scope="module", params=[pytest.param("direct", marks=pytest.mark.slow), "latent"])
def run(request, dataset, tmp_path_factory):
    """A class-conditional run of four steps."""
    kind, out = request.param, tmp_path_factory.mktemp("classes") / request.param
    flags = ["--kind", kind, "--dataset-path", dataset, "--out", out, "--max-iters", 4, "--guidance", 1.5]
    assert script("train_gen.py", *TINY, *flags) == 0
    return out


def test_a_run_keeps_its_classes_and_is_resumed_exactly(run, dataset, tmp_path):
    model = pcdiff.load(run)
    assert model.classes.names == NAMES
    assert model.class_counts.tolist() == [10, 10]
    assert model.sampling_config.guidance == 1.5
    assert np.load(run / "samples.npy").shape == (3, 8, 3)
    assert run_from_dict(json.loads((run / "config.json").read_text()), "run").model.class_names == NAMES
    flags = [*TINY, "--kind", model.kind, "--dataset-path", dataset, "--out", tmp_path / "parts", "--guidance", 1.5]
    assert script("train_gen.py", *flags, "--max-iters", 2) == 0
    assert script("train_gen.py", "--resume", tmp_path / "parts", "--max-iters", 4) == 0
    assert_same(tensors(run), tensors(tmp_path / "parts"))


def test_commands_take_classes_by_name(run, tmp_path, capsys):
    kind = pcdiff.load(run).kind
    out = tmp_path / "new.npy"
    sample = ["sample", "--run", run, "--output", out, "--num-samples", 5, "--num-steps", 2, "--device", "cpu"]
    assert command(*sample, "--classes", "chair", "airplane", "--guidance", 2) == 0
    both = np.load(out)
    assert command(*sample, "--classes", "chair", "--guidance", 2) == 0
    np.testing.assert_array_equal(both[::2], np.load(out)[::2])
    assert np.abs(both[1] - np.load(out)[1]).max() > 0
    assert command(*sample, "--classes", "mug") == 2
    assert "classes must be of airplane, chair, got 'mug'" in capsys.readouterr().err
    if kind == "direct":
        return
    np.save(tmp_path / "in.npy", np.random.default_rng(0).normal(size=(2, 16, 3)).astype(np.float32))
    again = ["reconstruct", "--run", run, "--input", tmp_path / "in.npy", "--output", out, "--num-steps", 2]
    assert command(*again, "--classes", "chair", "airplane", "--guidance", 2) == 0
    chair, airplane = np.load(out)
    assert command(*again, "--classes", "airplane", "--guidance", 2) == 0
    np.testing.assert_array_equal(np.load(out)[1], airplane)
    assert np.abs(np.load(out)[0] - chair).max() > 0
    assert command(*again) == 0  # of no class
    for flags, message in (
        (["--guidance", 2], "guidance 2 stresses a class, and none is given"),
        (["--classes", "chair", "chair", "chair"], "classes must be 2, one for each cloud (or one name), got 3"),
    ):
        assert command(*again, *flags) == 2
        assert message in capsys.readouterr().err


def command(*args):
    return script("pcdiff/__main__.py", *args)


def test_scores_are_pooled_and_of_each_class(run, tmp_path):
    """Each class is scored against its own clouds: 4 of 12 test clouds asked for are 2 and 2."""
    flags = ["--device", "cpu", "--resamples", 0, "--num-samples", 4, "--num-steps", 2, "--sampler", "dpmpp"]
    assert script("evaluate.py", "--run", run, "--out", tmp_path, *flags) == 0
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["counts"]["reference"] == 4
    assert list(result["classes"]) == list(NAMES)
    samples = torch.from_numpy(np.load(tmp_path / "samples.npy"))
    for label, name in enumerate(NAMES):
        part = result["classes"][name]
        assert part["counts"]["samples"] == part["counts"]["reference"] == 2
        test = pcdiff.data.load_raw(run_from_dict_of(run).data.dataset_path, name, "test")[:2, :8]
        mine = pcdiff.evaluate(samples[2 * label : 2 * label + 2], test, resamples=0)["scores"]
        assert mine == pytest.approx(part["scores"])
        assert f"of class {name} (2)" in (tmp_path / "results.md").read_text()


def run_from_dict_of(run):
    return run_from_dict(json.loads((run / "config.json").read_text()), str(run))


def test_a_model_without_classes_says_nothing_of_them(generator_run):
    assert not [name for name in tensors(generator_run) if "class" in name]
    model = pcdiff.load(generator_run)
    with pytest.raises(InputError, match=r"not conditioned on classes, got 'chair'; leave them out"):
        model.sample(2, 8, classes="chair")
    with pytest.raises(InputError, match="guidance 2 needs a net conditioned on classes"):
        model.sample(2, 8, guidance=2.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kind", "direct", "--categories", "chair"], r"needs two or more --categories, got chair alone"),
        (
            ["--kind", "latent", "--prior", "gaussian"],
            r"prior gaussian takes no condition, .* those that do: cnf, ",
        ),
        (["--label-dropout", "1"], r"label_dropout must be in \[0, 1\), got 1"),
        (["--class-dim", "0"], "class_dim must be at least 1, got 0"),
        (["--guidance", "2", "--label-dropout", "0"], "sampling.guidance 2 needs .* got label_dropout 0"),
        (["--guidance", "2", "--no-class-conditional"], "sampling.guidance 2 needs .* got no classes"),
    ],
)
def test_what_a_training_refuses(flags, message, dataset, tmp_path, capsys):
    tiny = without_prior(TINY) if "gaussian" in flags else TINY
    out = tmp_path / "run"
    assert script("train_gen.py", *tiny, "--dataset-path", dataset, "--out", out, "--max-iters", 1, *flags) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (out / "checkpoints").exists()


def without_prior(flags):
    pairs = [i for i, flag in enumerate(flags) if flag.startswith("--prior.")]
    return [flag for i, flag in enumerate(flags) if i not in pairs and i - 1 not in pairs]


def test_an_autoencoder_has_no_classes():
    with pytest.raises(InputError, match="class_conditional goes with kind latent or direct, got autoencoder"):
        cli.parse_run(AUTOENCODER_PRESETS, ["--preset", "demo", "--class-conditional"])


def test_configs_of_runs_without_classes_are_as_they_were():
    config = cli.parse_run(GENERATOR_PRESETS, ["--preset", "demo"])
    assert run_from_dict(json.loads(to_json(config)), "here") == config
    assert not any(isinstance(part, nn.Embedding) for part in build_model(config).modules())
