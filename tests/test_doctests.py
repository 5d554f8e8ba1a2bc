"""The examples in docstrings run, and print what they say.

Each one runs in its module's own names and in those of `clouds_for` and `images_for` below: small tensors, a
denoiser, a model. An example that shows no output only has to run. Points are fewer than the examples say, so that
all take seconds.
"""

import dataclasses
import doctest
import importlib
import math
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import pcdiff
from image_pipeline.configs import preset
from image_pipeline.data import load_images
from image_pipeline.metrics import open_feature_net
from image_pipeline.nets import DDPMConfig, NCSNppConfig
from pcdiff import config, diffusion
from pcdiff.nets import UNetConfig

ROOT = Path(__file__).resolve().parent.parent
MOST_SKIPPED = 31
# what these examples need beside tensors; they are compiled only
NEED = {
    "image_pipeline.interop": "a checkpoint of other people's code",
    "image_pipeline.models.loading": "a trained run",
    "image_pipeline.models.noisy_classifier": "a trained classifier",
    "pcdiff.training.closing_phases": "a training that runs",
    "pcdiff.training.after_training": "a training that runs",
}
# where the sizes are those of a cloud to sample, fewer points do
FEWER = {"2048": "64", ":512": ":16", "500": "50", "6144": "192"}
SMALLER = ("pcdiff", "pcdiff.diffusion", "pcdiff.models", "pcdiff.runtime", "pcdiff.training")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules():
    """Return the dotted names of all modules with examples in their docstrings."""
    found = []
    for folder in ("pcdiff", "data", "image_pipeline"):
        for path in (ROOT / folder).rglob("*.py"):
            if ">>> " in path.read_text(encoding="utf-8"):
                parts = path.relative_to(ROOT).with_suffix("").parts
                parts = ("pcdiff", *parts) if parts[0] == "data" else parts
                found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(set(found))


MODULES = modules()


def examples(name):
    """Return a module's docstrings with examples, as doctest reads them."""
    module = importlib.import_module(name)
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module, name) if test.examples]


class Pull(torch.nn.Module):
    """A net for any tensor: a multiple of x, and a little of the condition."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.9))

    def forward(self, x, t, cond=None):
        share = (
            0 if cond is None else cond.float().reshape(len(cond), -1).mean(dim=1).view(-1, *[1] * (x.dim() - 1))
        )
        return self.scale * x + 0.01 * share


def left_out(name):
    return any(name == other or name.startswith(f"{other}.") for other in NEED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, generator_run):
    """Return a folder with a run of a tiny generator."""
    place = tmp_path_factory.mktemp("doctests")
    shutil.copytree(generator_run, place / "runs" / "airplane")
    return place


def clouds_for(module, folder):
    """Return what examples on clouds may take for given."""
    normal = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    chain = module.rpartition(".")[2] in {"editing", "loop", "objectives", "trajectory", "variational_bound"}
    process = diffusion.build_process("ddpm", num_steps=50) if chain else diffusion.VP(num_scales=25)
    names = {name: normal(4, 64, 3) for name in ("clouds", "x", "y", "x0", "noise", "eps")}
    names |= {name: normal(1, 64, 3) for name in ("with_arms", "without_arms", "other")}
    names |= {
        "chairs": names["clouds"],
        "shape": (4, 64, 3),
        "mask": normal(4, 64, 1) > 0,
        "z": normal(4, 256),
        "t": torch.full((4,), 25) if chain else torch.full((4,), 0.5),
        "net": Pull(),
        "process": process,
        "denoiser": diffusion.NetDenoiser(Pull(), process),
        "score_model": diffusion.NetDenoiser(Pull(), diffusion.VP(num_scales=25), "score"),
        "classifier": lambda x, t: x.flatten(1)[:, :10],
        "config": preset("digits/quick"),
        "DDPMConfig": DDPMConfig,
        "UNetConfig": UNetConfig,
        "make_and_write": lambda name: Path(name).write_bytes(b""),
        "work": lambda: time.sleep(0.01),
        "model": pcdiff.load(folder / "runs" / "airplane"),
    }
    match module.rpartition(".")[2]:
        case "measurement_guidance" | "constraints" | "constrained_corrector":
            names |= {"y": normal(4, 50), "matrix": normal(50, 192), "operator": normal(50, 192)}
            names |= {"gray": normal(4, 1, 32, 32), "small": normal(4, 3, 8, 8)}
        case "trajectory":
            names["z"] = normal(2, 256)
        case "guidance":
            names["y"] = torch.arange(4)
        case "dequantization":
            names["images"] = torch.randint(256, (2, 1, 4, 4), dtype=torch.uint8)
        case "variational_bound":
            names["images"] = torch.randint(256, (2, 1, 4, 4)) / 127.5 - 1
        case "base" | "editing" if module.startswith("pcdiff.models"):
            names["z"] = normal(4, 8)
        case "autoencoder":
            names["x"] = normal(1, 64, 3)
    return names


def images_for(module, folder):
    """Return what examples on images may take for given."""
    process = diffusion.VP(num_scales=25)
    names = {"x": torch.randn(4, 3, 32, 32), "t": torch.full((4,), 0.5), "process": process}
    names |= {"denoiser": diffusion.NetDenoiser(Pull(), process), "net": Pull(), "config": NCSNppConfig()}
    return names | {"load_images": load_images, "open_feature_net": open_feature_net, "preset": preset}


class AnythingWhereNothingIsShown(doctest.OutputChecker):
    """Accepts any output of an example that shows none."""

    def check_output(self, want, got, optionflags):
        return want == "" or super().check_output(want, got, optionflags)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_do_what_they_say(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "train_gen.py")])
    given = {name: getattr(diffusion, name) for name in diffusion.__all__}
    given |= {name: getattr(config, name) for name in ("RunConfig", "DataConfig", "ModelConfig")}
    given |= {"np": np, "torch": torch, "pcdiff": pcdiff, "math": math, "dataclasses": dataclasses}
    given |= (clouds_for if name.startswith("pcdiff") else images_for)(name, folder)
    for test in examples(name):
        if left_out(name):
            for example in test.examples:
                compile(example.source, name, "single")
            continue
        torch.manual_seed(0)
        test.globs = {**given, **test.globs}
        if ".".join(name.split(".")[:2]) in SMALLER:
            for example in test.examples:
                for long, short in FEWER.items():
                    example.source = example.source.replace(long, short)
        lines = []
        runner = doctest.DocTestRunner(AnythingWhereNothingIsShown(), optionflags=FLAGS)
        result = runner.run(test, out=lines.append)
        assert not result.failed, "".join(lines)


def test_few_examples_are_left_out():
    count, skipped = 0, []
    for name in MODULES:
        for example in (example for test in examples(name) for example in test.examples):
            count += 1
            if left_out(name) or example.options.get(doctest.SKIP):
                skipped.append(example.source)
    assert count > 150
    assert len(skipped) <= MOST_SKIPPED, skipped
