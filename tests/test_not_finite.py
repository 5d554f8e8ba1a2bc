"""A model that gives NaN: every command says so in one line, with a status that is not 0, and writes nothing."""

import shutil

import numpy as np
import pytest
import torch
from script_tools import TINY, script

from image_pipeline.data import to_bytes
from pcdiff.errors import InputError
from pcdiff.runtime.nonfinite import check_finite, not_finite
from pcdiff.runtime.run_folder import write_json
from pcdiff.training import checkpoint


def poisoned(run, folder, bias):
    """Copy a run; a bias of its last layer is NaN."""
    shutil.copytree(run, folder)
    for path in (folder / "checkpoints").glob("*.safetensors"):
        tensors, metadata = checkpoint.read(path)
        for name, tensor in tensors.items():
            if name.endswith(bias):
                tensor.fill_(torch.nan)
        checkpoint.save(path, tensors, metadata)
    for path in folder.iterdir():
        if path.name not in ("checkpoints", "config.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


@pytest.fixture(scope="module")
def clouds(generator_run, tmp_path_factory):
    there = tmp_path_factory.mktemp("clouds")
    np.save(there / "a.npy", np.random.default_rng(0).normal(size=(1, 16, 3)).astype(np.float32))
    return poisoned(generator_run, there / "run", "denoiser.net.layers.2.bias"), there / "a.npy"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    there = tmp_path_factory.mktemp("images")
    tiny = "--model.model-channels 8 --model.norm-groups 4 --batch-size 16 --val-every 0 --held-out 8".split()
    flags = [*tiny, *"--num-steps 2 --num-samples 1 --device cpu --max-iters 1".split(), "--out", there / "whole"]
    assert script("image_pipeline/__main__.py", "train", *flags) == 0
    return poisoned(there / "whole", there / "run", "conv_out.bias")


def refused(capsys, folder, program, *args):
    """Run a command; return the line with which it refuses. Nothing new lies in the folder."""
    capsys.readouterr()
    before = {path for path in folder.rglob("*") if path.is_file()}
    assert script(program, *args) == 2
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if line.startswith("error: ")]
    assert len(lines) == 1, said
    left = {path for path in folder.rglob("*") if path.is_file()} - before
    # the account of a stopped evaluation continues where it was, and holds no result
    results = {path.name for path in left if ".partial" not in path.name}
    assert not results - {"evaluation.json", "log.txt"}
    return lines[0]


CLOUDS = {
    "sample": ["--num-samples", 1, "--num-points", 8],
    "reconstruct": ["--input", "a.npy"],
    "upsample": ["--input", "a.npy", "--num-points", 20],
    "complete": ["--input", "a.npy", "--num-points", 20],
    "interpolate": ["--a", "a.npy", "--b", "a.npy", "--steps", 2],
    "arithmetic": ["--a", "a.npy", "--b", "a.npy", "--c", "a.npy"],
    "invert": ["--input", "a.npy"],
    "log-likelihood": ["--input", "a.npy"],
}


@pytest.mark.parametrize("name", CLOUDS)
def test_commands_of_clouds(name, clouds, tmp_path, capsys):
    run, cloud = clouds
    flags = [cloud if flag == "a.npy" else flag for flag in CLOUDS[name]]
    out = tmp_path / ("x.json" if name == "log-likelihood" else "x.npy")
    program = "pcdiff/__main__.py", name, "--run", run, "--output", out, "--device", "cpu"
    assert "finite" in refused(capsys, tmp_path, *program, *flags)


def test_evaluation_of_clouds(clouds, dataset, tmp_path, capsys):
    flags = ["--run", clouds[0], "--out", tmp_path, "--device", "cpu", "--dataset-path", dataset]
    assert "finite" in refused(capsys, tmp_path, "evaluate.py", *flags)


IMAGES = {
    "sample": ["--num-samples", 1],
    "class-conditional": ["--per-class", 1, "--classes", 0],
    "inpaint": ["--input", "x.npz"],
    "inverse": ["--input", "x.npz"],
    "interpolate": ["--a", "x.npz", "--b", "x.npz", "--steps", 2],
    "sdedit": ["--input", "x.npz"],
    "likelihood": ["--input", "x.npz"],
}


@pytest.mark.parametrize("name", IMAGES)
def test_commands_of_images(name, images, tmp_path, capsys):
    given = tmp_path / "x.npz"
    np.savez(given, np.zeros((1, 8, 8, 1), dtype=np.uint8))
    flags = [given if flag == "x.npz" else flag for flag in IMAGES[name]]
    out = tmp_path / ("y.json" if name == "likelihood" else "y.png")
    program = "image_pipeline/__main__.py", name, "--run", images, "--output", out, "--device", "cpu"
    assert "finite" in refused(capsys, tmp_path, *program, *flags)


def test_evaluation_of_images(images, tmp_path, capsys):
    flags = "--num-samples 2 --features pixels --split test --metrics fid --device cpu".split()
    program = "image_pipeline/__main__.py", "evaluate", "--run", images, "--out", tmp_path
    assert "2 of 2 images" in refused(capsys, tmp_path, *program, *flags)


def test_what_a_training_draws_in_the_end(dataset, tmp_path, capsys, monkeypatch):
    """Weights that were finite give what is not: the training is kept, its samples are not written."""
    import pcdiff.models.sampling

    draw = pcdiff.models.sampling.decode_chunk
    monkeypatch.setattr(
        pcdiff.models.sampling,
        "decode_chunk",
        lambda *args, **options: check_finite(draw(*args, **options) / 0, "clouds"),
    )
    flags = [*TINY, "--max-iters", 1, "--categories", "chair", "--dataset-path", dataset, "--out", tmp_path / "run"]
    assert script("train_gen.py", *flags) == 2
    assert "NaN or infinite numbers in " in capsys.readouterr().err
    kept = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert "last.safetensors" in kept
    assert not kept & {"samples.npy", "samples.png", "results.json"}


def test_no_level_and_no_json_stands_for_what_is_not_finite(tmp_path):
    with pytest.raises(InputError, match="NaN or infinite numbers in 1 of 2 images"):
        to_bytes(torch.tensor([0.0, torch.inf]).view(2, 1, 1, 1), "unit")
    assert not_finite({"scores": {"fid": 1.0, "kid": [0.5, float("nan")]}}) == "scores/kid/1"
    assert not_finite({"a": [1, "nan", None, True]}) is None
    with pytest.raises(InputError, match=r"x\.json: not written, since its scores/fid is not finite"):
        write_json(tmp_path / "x.json", {"scores": {"fid": float("inf")}})
    assert not list(tmp_path.iterdir())
