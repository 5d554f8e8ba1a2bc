"""`--dry-run`: what it tells, and that it writes nothing."""

import json
import re

import h5py
import numpy as np
import pytest
from script_tools import TINY, script

from pcdiff.data import count_clouds
from pcdiff.training.dry_run import tally

SCRIPTS = ["train_gen.py", "train_ae.py"]


def rehearsed(capsys, *argv):
    """Return what a dry run prints, and its config."""
    capsys.readouterr()
    assert script(*argv, "--dry-run", "--show-config") == 0
    text = capsys.readouterr().out
    return text, json.loads(text[: text.index("\n}\n") + 2])


@pytest.fixture
def flags(dataset):
    return [*TINY, "--categories", "chair", "--dataset-path", dataset]


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_tells_what_a_training_would_be(name, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text, config = rehearsed(capsys, name, *flags, "--accumulate", 2)
    assert config["train"]["batch_size"] == 4
    assert config["model"]["latent_dim"] == 8
    total, parts = re.search(r"parameters: ([\d,]+) \((.*)\)", text).groups()
    sizes = [int(size.replace(",", "")) for size in re.findall(r"[\w.]+ ([\d,]+\d)", parts)]
    assert sum(sizes) == int(total.replace(",", "")) > 0
    assert "batch: 4 clouds; processes: 1, parts of each: 2, in fp32 on cpu" in text
    assert float(re.search(r"memory: ([\d.]+) GiB at the peak", text)[1]) > 0.05
    assert "steps per epoch: 2.5" in text  # ten clouds
    seconds, rate = re.search(r"a step: ([\d.]+) s \(([\d.]+) steps/s, \d+ clouds/s\)", text).groups()
    assert float(seconds) * float(rate) == pytest.approx(1, rel=0.3)
    assert re.search(r"all 1,000 steps: [\d.]+ (seconds|minutes), without validations", text)
    assert text.endswith("dry run: nothing was written\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_tells_what_differs_from_the_preset_and_what_data_there_are(name, flags, capsys):
    assert script(name, *flags, "--dry-run", "--categories", "chair,airplane") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("preset quick, but ")
    for change in ("model.latent_dim 8", "data.categories chair,airplane", "train.batch_size 4"):
        assert change in lines[0]
    assert "model.beta_T" not in lines[0]  # the preset's own
    counts = "20 train (10 airplane, 10 chair), 12 val (6 airplane, 6 chair), 12 test (6 airplane, 6 chair)"
    assert lines[1] == f"clouds found: {counts}"
    assert len(lines) < 12


def test_a_split_that_is_missing_counts_nothing(tmp_path):
    with h5py.File(tmp_path / "few.hdf5", "w") as file:
        file["03001627/train"] = np.zeros((3, 8, 3), np.float32)
    counts = count_clouds(tmp_path / "few.hdf5", "chair")
    assert tally(counts) == "3 train, 0 val, 0 test"


def test_with_an_out_folder_it_is_not_made(flags, tmp_path, capsys):
    rehearsed(capsys, "train_gen.py", *flags, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "kind"), [(SCRIPTS[0], "generator_run"), (SCRIPTS[1], "autoencoder_run")])
def test_a_resumed_run_stays_as_it_is(name, kind, request, capsys):
    run = request.getfixturevalue(kind)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    _, config = rehearsed(capsys, name, "--resume", run, "--max-iters", 77)
    assert config["train"]["max_iters"] == 77
    assert config["data"]["num_points"] == 32  # the run's own
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_called_dry_run_is_not_touched(generator_run, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "dry-run").symlink_to(generator_run)
    before = (generator_run / "config.json").read_bytes()
    rehearsed(capsys, "train_gen.py", *flags, "--latent-dim", 9)
    assert (generator_run / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--batch-size", 1], "batch_size must be at least 2"),
        (["--accumulate", 3], "batch_size must be a multiple of processes x accumulate = 1 x 3"),
        (["--num-points", 66], "num_points must be at most 64"),
        (["--resume", "nowhere"], "not a run's folder"),
    ],
)
def test_mistakes_are_refused_as_by_the_training(wrong, message, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert script("train_gen.py", *flags, *wrong, "--dry-run") == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in error
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_it_rehearses_uncompiled(flags, monkeypatch, capsys, caplog):
    monkeypatch.setattr("pcdiff.training.trainer.can_compile", lambda device: False)
    monkeypatch.setattr("torch.nn.Module.compile", None)
    text, _ = rehearsed(capsys, "train_gen.py", *flags, "--compile")
    assert "nothing was written" in text
