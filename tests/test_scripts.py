"""The scripts as a user runs them: runs, resumes, results, and mistakes that end in one clear line."""

import json
import re
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from script_tools import ROOT, TINY, TINY_MODEL, assert_same, logged, script, tensors, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pcdiff


@pytest.mark.parametrize("kind", ["generator_run", "autoencoder_run"])
def test_a_run_leaves_what_it_promises(kind, request):
    run = request.getfixturevalue(kind)
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["latent_dim"] == 8
    assert config["train"]["max_iters"] == 12
    results = json.loads((run / "results.json").read_text())
    assert results["dataset"]["name"] == "shapenet.hdf5 layout: small.hdf5"
    assert results["dataset"]["stand_in"] is False
    assert results["split"] == "val"
    assert results["training"]["steps"] == 12
    expected = {"MMD-CD", "COV-CD", "1-NNA-CD", "JSD"} if kind == "generator_run" else {"CD", "CD-median"}
    assert expected <= set(results["scores"])
    assert np.load(run / "samples.npy").shape[2] == 3
    picture = np.asarray(Image.open(run / "samples.png"))
    assert picture.std() > 5
    if kind == "generator_run":  # a row of training shapes above the two samples, in cells of 256 pixels
        assert picture.shape[1] == 2 * 256
        assert 2 * 256 < picture.shape[0] < 3 * 256
    assert "finished at step 12" in (run / "log.txt").read_text()
    best = tensors(run, "best")
    assert all(key.startswith("model.") for key in best)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/reconstruction", "train/learning_rate"} <= set(tags["scalars"])
    assert any("val/" in tag for tag in tags["scalars"])
    assert any("VERTEX" in tag for tag in tags["tensors"])  # the mesh plugin's clouds
    model = pcdiff.load(run)
    assert model.metadata["dataset"] == results["dataset"]
    assert not list(run.rglob(".*"))


@pytest.mark.parametrize("name", ["train_gen.py", pytest.param("train_ae.py", marks=pytest.mark.slow)])
def test_resumed_equals_uninterrupted(name, dataset, tmp_path):
    whole = train(name, dataset, tmp_path / "whole", "--max-iters", 60)
    first = train(name, dataset, tmp_path / "halves", "--max-iters", 30)
    assert script(name, "--resume", first, "--max-iters", 60) == 0
    assert_same(tensors(first), tensors(whole))
    assert np.array_equal(np.load(first / "samples.npy"), np.load(whole / "samples.npy"))


def test_resumed_with_random_rotations_equals_uninterrupted(dataset, tmp_path):
    whole = train("train_gen.py", dataset, tmp_path / "whole", "--max-iters", 14, "--rotate")
    first = train("train_gen.py", dataset, tmp_path / "halves", "--max-iters", 5, "--rotate")
    assert script("train_gen.py", "--resume", first, "--max-iters", 14) == 0
    assert_same(tensors(first), tensors(whole))


def test_a_seed_repeats_and_another_differs(dataset, tmp_path):
    a, b, c = (
        train("train_gen.py", dataset, tmp_path / name, "--max-iters", 4, "--seed", seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert_same(tensors(a), tensors(b))
    assert np.array_equal(np.load(a / "samples.npy"), np.load(b / "samples.npy"))
    assert not torch.equal(
        tensors(a)["model.prior.layers.0.net.0.weight"], tensors(c)["model.prior.layers.0.net.0.weight"]
    )


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number, nursery, dataset, tmp_path):
    out, whole, errors = tmp_path / "run", tmp_path / "whole", tmp_path / "errors"
    flags = [*TINY, "--categories", "chair", "--dataset-path", dataset]
    process = nursery.start(errors, "train_gen.py", *flags, "--out", out, "--max-iters", 1_000_000)
    deadline = time.monotonic() + 60
    while not ((out / "tensorboard").is_dir() and logged(out / "tensorboard")) and time.monotonic() < deadline:
        time.sleep(0.1)
    nursery.send(process, number)
    assert nursery.wait(process) == 0
    error = errors.read_text()
    assert f"resume with: --resume {out}" in error
    assert "Traceback" not in error
    step = pcdiff.load(out, "last").metadata["step"]
    assert step > 0
    assert nursery.run(errors, "train_gen.py", "--resume", out, "--max-iters", step + 3) == 0
    assert nursery.run(errors, "train_gen.py", *flags, "--out", whole, "--max-iters", step + 3) == 0
    assert_same(tensors(out), tensors(whole))


def test_a_time_limit_stops_and_saves(dataset, tmp_path):
    run = train("train_gen.py", dataset, tmp_path / "run", "--max-iters", 1_000_000, "--max-minutes", 0.01)
    assert json.loads((run / "results.json").read_text())["training"]["ended"] == "time is up"
    assert pcdiff.load(run).metadata["step"] > 0


def test_the_stand_in_says_so_everywhere(tmp_path, caplog):
    run = tmp_path / "run"
    few = ["--val-clouds", 4, "--max-iters", 1]
    assert script("train_gen.py", *TINY, *few, "--categories", "airplane", "--out", run) == 0
    assert "NO DATA SET FOUND" in (run / "log.txt").read_text()
    assert json.loads((run / "results.json").read_text())["dataset"]["stand_in"] is True
    assert pcdiff.load(run).metadata["dataset"]["name"] == "procedural stand-in"


def test_paper_preset_without_gpu_says_how_long_and_what_else(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    flags = [*TINY_MODEL, "--batch-size", 4, "--num-points", 32, "--sample-points", 16, "--num-samples", 1]
    flags += ["--categories", "chair", "--dataset-path", dataset, "--out", tmp_path / "run", "--max-iters", 2]
    assert script("train_gen.py", *flags) == 0
    text = (tmp_path / "run" / "log.txt").read_text()
    assert re.search(r"NO GPU: the `paper` preset would take about [\d.]+ (seconds|minutes|hours|days)", text)
    assert "--preset quick" in text


def damage(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "garbage":
        path.write_bytes(b"\x80\x04not a checkpoint")


def mistakes(dataset, generator_run, autoencoder_run, tmp_path):
    """Each mistake: the command and what the one line must say."""
    half = tmp_path / "half.hdf5"
    half.write_bytes(dataset.read_bytes()[:3000])
    nan = tmp_path / "nan.hdf5"
    empty = tmp_path / "empty.hdf5"
    with h5py.File(nan, "w") as file, h5py.File(empty, "w") as hollow:
        for split in ("train", "val", "test"):
            clouds = np.zeros((3, 64, 3), np.float32) + np.arange(64)[:, None]
            clouds[1, 5] = np.nan if split == "train" else 1
            file[f"03001627/{split}"] = clouds
            hollow[f"03001627/{split}"] = np.zeros((0, 64, 3), np.float32)
    out = ["--out", tmp_path / "never"]
    gen = ["train_gen.py", *TINY, *out, "--max-iters", 1]
    return {
        "missing file": ([*gen, "--dataset-path", tmp_path / "no.hdf5"], r"no\.hdf5 does not exist"),
        "truncated file": ([*gen, "--dataset-path", half], r"half\.hdf5.*(truncated|damaged|HDF5)"),
        "unknown category": ([*gen, "--dataset-path", dataset, "--categories", "char"], r"'char'.*chair"),
        "absent category": ([*gen, "--dataset-path", dataset, "--categories", "car"], r"car .*airplane, chair"),
        "empty split": ([*gen, "--dataset-path", empty, "--categories", "chair"], r"empty"),
        "NaN": ([*gen, "--dataset-path", nan, "--categories", "chair"], r"nan\.hdf5.*train.*1.*(NaN|inf|finite)"),
        "too few points": (
            [*gen, "--dataset-path", dataset, "--categories", "chair", "--num-points", 66],
            r"num_points must be at most 64.*got 66",
        ),
        "unknown preset": (
            ["train_gen.py", "--preset", "fast"],
            r"--preset must be one of .*paper.*, got 'fast'",
        ),
        "unknown device": ([*gen, "--dataset-path", dataset, "--device", "tpu9"], r"--device tpu9"),
        "wrong kind": ([*gen, "--kind", "autoencoder"], r"train_ae\.py trains autoencoders"),
        "wrong kind ae": (["train_ae.py", *TINY, *out, "--kind", "flow"], r"train_gen\.py trains generators"),
        "not a run": (["train_gen.py", "--resume", tmp_path], r"not a run's folder"),
        "taken folder": (
            ["train_gen.py", *TINY, "--dataset-path", dataset, "--categories", "chair", "--out", generator_run],
            r"holds a run already",
        ),
        "changed model": (["train_gen.py", "--resume", generator_run, "--latent-dim", 9], r"model cannot change"),
        "normalization": (
            [*gen, "--dataset-path", dataset, "--normalization", "best"],
            r"normalization must be one of",
        ),
        "times per cloud": (
            [*gen, "--dataset-path", dataset, "--categories", "chair", "--times-per-cloud", 5],
            r"times_per_cloud must divide",
        ),
        "no steps": ([*gen, "--max-iters", -1], r"max_iters must be at least 1, got -1"),
        "bad beta": ([*gen, "--beta-T", 1.5], r"beta_T must be in \(0, 1\), got 1.5"),
        "bad width": ([*gen, "--net-widths", 0], r"net\.widths must be at least 1, got 0"),
        "bad lr": ([*gen, "--lr", "nan"], r"lr must be above 0, got nan"),
        "batch of one": ([*gen, "--batch-size", 1], r"batch_size must be at least 2.*got 1"),
        "latent of one": ([*gen, "--latent-dim", 1], r"latent_dim must be at least 2 for a coupling flow, got 1"),
        "one to validate": ([*gen, "--val-every", 1, "--val-clouds", 1], r"val_clouds must be at least 2.*got 1"),
        "huge seed": ([*gen, "--seed", 10**20], r"seed must be in 0\.\.2\^63 - 1"),
        "odd device": ([*gen, "--dataset-path", dataset, "--device", "meta"], r"--device meta: not available"),
        "moved run": (
            ["train_gen.py", "--resume", generator_run, "--out", tmp_path / "b"],
            r"cannot be given with --resume",
        ),
        "two runs": (["evaluate.py", "--run", "a", "--resume", "b"], r"--resume b: no stopped evaluation there"),
        "minus samples": (
            ["evaluate.py", "--run", generator_run, "--num-samples", -1],
            r"num_samples must be at least 1",
        ),
        "out is a file": (
            ["evaluate.py", "--run", generator_run, "--out", dataset],
            r"small\.hdf5: cannot write there",
        ),
        "nothing to score": (["evaluate.py"], r"nothing to score: give --run RUN, --samples A --reference B"),
        "both to score": (
            ["evaluate.py", "--run", generator_run, "--samples", "a.npy"],
            r"give one of --run, --samples, .*, got --run and --samples",
        ),
        "no such samples": (
            ["evaluate.py", "--samples", tmp_path / "a.npy", "--reference", tmp_path / "b.npy"],
            r"a\.npy: no such file",
        ),
        "protocol": (
            ["evaluate.py", "--run", generator_run, "--protocol", "mine", "--out", tmp_path / "log"],
            r"protocol.*mine",
        ),
        "more points": (
            ["evaluate.py", "--run", generator_run, "--num-points", 100, "--out", tmp_path / "log"],
            r"only 64 points",
        ),
    }


@pytest.fixture(scope="module")
def all_mistakes(dataset, generator_run, autoencoder_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    return folder, mistakes(dataset, generator_run, autoencoder_run, folder)


NAMES = """missing file, truncated file, unknown category, absent category, empty split, NaN, too few points,
unknown preset, unknown device, wrong kind, wrong kind ae, not a run, taken folder, changed model, normalization,
times per cloud, nothing to score, both to score, no such samples, protocol, more points,
no steps, bad beta, bad width, bad lr, batch of one, latent of one, one to validate, huge seed, odd device,
moved run, two runs, minus samples, out is a file"""
NAMES = [name.strip() for name in NAMES.replace("\n", " ").split(",")]


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_is_one_clear_line(name, all_mistakes, capsys):
    folder, commands = all_mistakes
    assert set(commands) == set(NAMES)
    command, message = commands[name]
    capsys.readouterr()
    assert script(*command) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert re.search(message, error[0]), error[0]
    assert not (folder / "never").exists()
    assert {path.name for path in (folder / "log").glob("*")} <= {"log.txt"}


@pytest.mark.parametrize("how", ["truncated", "garbage"])
def test_a_damaged_checkpoint_is_one_clear_line(how, dataset, tmp_path, capsys):
    run = train("train_gen.py", dataset, tmp_path / "run", "--max-iters", 1)
    damage(run / "checkpoints" / "last.safetensors", how)
    for command in (["evaluate.py", "--run", run], ["train_gen.py", "--resume", run, "--max-iters", 2]):
        capsys.readouterr()
        assert script(*command, "--device", "cpu") == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert re.search(r"last\.safetensors: truncated or not a safetensors file", errors[0])


def test_an_autoencoders_checkpoint_does_not_pass_for_a_generators(
    generator_run, autoencoder_run, tmp_path, capsys
):
    run = tmp_path / "mixed"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text((generator_run / "config.json").read_text())
    source = autoencoder_run / "checkpoints" / "last.safetensors"
    (run / "checkpoints" / "last.safetensors").write_bytes(source.read_bytes())
    assert script("train_gen.py", "--resume", run, "--max-iters", 20) == 2
    assert "does not fit this model" in capsys.readouterr().err


def test_a_refused_resume_leaves_the_run_as_it_was(dataset, tmp_path, capsys):
    run = train("train_gen.py", dataset, tmp_path / "run", "--max-iters", 2)
    (run / "checkpoints" / "last.safetensors").rename(tmp_path / "away")
    whole = (tmp_path / "away").read_bytes()
    (run / "checkpoints" / "last.safetensors").write_bytes(whole[:-9])
    before = (run / "config.json").read_text()
    assert script("train_gen.py", "--resume", run, "--max-iters", 5) == 2
    assert (run / "config.json").read_text() == before


def test_a_resumed_run_loses_no_point_in_tensorboard(dataset, tmp_path):
    run = train("train_gen.py", dataset, tmp_path / "run", "--max-iters", 10)
    assert script("train_gen.py", "--resume", run, "--max-iters", 20) == 0
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [5, 10, 15, 20]


def test_flexibility_reaches_reconstructions(dataset, tmp_path):
    a, b = (
        train("train_ae.py", dataset, tmp_path / str(value), "--max-iters", 1, "--flexibility", value)
        for value in (0, 1)
    )
    assert not np.array_equal(np.load(a / "samples.npy"), np.load(b / "samples.npy"))


def test_interop_is_there_after_a_plain_import():
    code = "import pcdiff; print(pcdiff.interop.dpm.load.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "load"


def test_a_diverged_training_is_one_line(dataset, tmp_path, capsys):
    flags = [*TINY, "--dataset-path", dataset, "--categories", "chair", "--out", tmp_path / "run"]
    assert script("train_gen.py", *flags, "--lr", 1e38, "--max-iters", 50, "--warmup-iters", 0) == 1
    assert re.search(r"error: .*not finite at step", capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own doings
def test_compiled_bf16_training_resumes_bit_for_bit(dataset, tmp_path):
    flags = ["--compile", "--precision", "bf16"]
    whole = train("train_gen.py", dataset, tmp_path / "whole", "--max-iters", 4, *flags)
    first = train("train_gen.py", dataset, tmp_path / "halves", "--max-iters", 2, *flags)
    assert script("train_gen.py", "--resume", first, "--max-iters", 4) == 0
    assert_same(tensors(first), tensors(whole))


def test_unknown_flag_exits_with_2():
    assert script("train_gen.py", "--no-such-flag", "1") == 2


@pytest.mark.parametrize("name", ["train_gen.py", "train_ae.py", "evaluate.py"])
def test_flags_that_others_script_against(name, capsys):
    assert script(name, "--help") == 0
    text = capsys.readouterr().out
    flags = "categories dataset-path preset seed out max-iters max-minutes save-every device resume".split()
    for flag in flags + (["run", "samples", "reference", "output"] if name == "evaluate.py" else []):
        assert re.search(rf"--{flag}\b", text), flag


def test_a_resumed_run_tells_what_changes_and_refuses_what_would_do_nothing(dataset, tmp_path, capsys):
    run = train("train_gen.py", dataset, tmp_path / "run", "--max-iters", 2)
    before = (run / "config.json").read_text()
    assert script("train_gen.py", "--resume", run, "--lr", 0.5, "--warmup-iters", 1) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ")
    assert "the run has ended at step 2, so lr 0.002 -> 0.5, warmup_iters 50 -> 1 would change nothing" in error
    assert (run / "config.json").read_text() == before
    assert script("train_gen.py", "--resume", run, "--lr", 0.001, "--max-iters", 3) == 0
    assert "changed from step 2 on: max_iters 2 -> 3, lr 0.002 -> 0.001" in (run / "log.txt").read_text()
    assert json.loads((run / "config.json").read_text())["train"]["lr"] == 0.001
