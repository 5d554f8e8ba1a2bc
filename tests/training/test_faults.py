"""Kills, full disks, places that cannot be written and torn files, on the real train_gen.py."""

import json
import os
import random
import re
import signal
import time

import pytest
from script_tools import TINY, assert_same, logged, script, tensors, train

from pcdiff.training import checkpoint

SCRIPT = "train_gen.py"
STEPS, SAVE_EVERY = 80, 10
FLAGS = [*TINY, "--categories", "chair", "--log-every", 1, "--save-every", SAVE_EVERY, "--val-every", 20]
FLAGS += ["--ema-decay", 0.9, "--max-iters", STEPS]


@pytest.fixture(scope="module")
def flags(dataset):
    return [*FLAGS, "--dataset-path", dataset]


@pytest.fixture(scope="module")
def whole(nursery, flags, tmp_path_factory):
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    errors = folder / "errors.txt"
    assert nursery.run(errors, SCRIPT, *flags, "--out", folder / "run") == 0, errors.read_text()
    return folder / "run"


def points(run, tag="train/loss"):
    return [step for step, _ in logged(run / "tensorboard", tag)]


def cloned(run):
    """Return the tensors of `last`, not as views of its file."""
    return {name: value.clone() for name, value in tensors(run).items()}


def identity(path):
    """Return what changes with every checkpoint that is written."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def kill_at_random(nursery, run, errors, argv, chance, saves):
    """Start the script and kill it some time after it has written `saves` checkpoints; None: at its start."""
    last = run / "checkpoints" / "last.safetensors"
    pid = nursery.start(errors, SCRIPT, *argv)
    deadline = time.monotonic() + 60
    if saves is None:
        time.sleep(chance.random() * 0.3)
    else:
        seen = [identity(last) if last.exists() else None]
        while len(seen) <= saves and nursery.status(pid) is None and time.monotonic() < deadline:
            if last.exists() and identity(last) != seen[-1]:
                seen.append(identity(last))
            time.sleep(0.0005)
        time.sleep(chance.random() * 0.02)  # some steps, or part of the next save
    os.kill(pid, signal.SIGKILL)
    return nursery.wait(pid)


@pytest.mark.parametrize(
    "tried",
    [[None, 1, 2], pytest.param([None, 0, None, 1, 2, 0, 1, 3, 0, 2], marks=pytest.mark.slow)],
    ids=["three times", "ten times"],
)
def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(tried, nursery, flags, whole, tmp_path):
    run, errors, chance = tmp_path / "run", tmp_path / "errors.txt", random.Random(7)
    file = run / "checkpoints" / "last.safetensors"
    steps = []
    for saves in tried:
        argv = ["--resume", run] if (run / "config.json").exists() else [*flags, "--out", run]
        started = int(time.time())
        status = kill_at_random(nursery, run, errors, argv, chance, saves)
        assert status == -signal.SIGKILL, errors.read_text()
        steps.append(checkpoint.read(file)[1]["step"] if file.exists() else 0)
        if file.exists():  # all up to the checkpoint can be read, and nothing twice
            assert points(run)[: steps[-1]] == list(range(1, steps[-1] + 1))
        while int(time.time()) == started:  # event files are put in order by the second they were made in
            time.sleep(0.01)
    assert len(set(steps)) >= min(4, len(tried) - 1), steps  # it did get on between the kills
    assert steps == sorted(steps)
    assert nursery.run(errors, SCRIPT, "--resume", run) == 0, errors.read_text()
    for which in ("last", "best"):
        assert_same(tensors(run, which), tensors(whole, which))
    files = [folder / "checkpoints" / "best.safetensors" for folder in (run, whole)]
    assert checkpoint.read(files[0])[1]["best"] == checkpoint.read(files[1])[1]["best"]
    assert points(run) == list(range(1, STEPS + 1))
    assert sorted(set(points(run, "val/MMD-CD"))) == list(range(20, STEPS + 1, 20))
    assert not list((run / "checkpoints").glob(".*"))  # no drafts of the killed ones


def test_killed_between_its_checkpoint_and_its_validation_it_validates_first(whole, flags, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*args):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("pcdiff.training.validation.GeneratorValidation.__call__", killed)
        with pytest.raises(Killed):
            script("train_gen.py", *flags, "--max-iters", 20, "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "best.safetensors").exists()
    assert script("train_gen.py", "--resume", tmp_path / "run") == 0
    assert points(tmp_path / "run", "val/MMD-CD") == [20]
    assert (tmp_path / "run" / "checkpoints" / "best.safetensors").exists()


def test_a_run_that_was_killed_before_its_first_checkpoint_takes_new_flags(dataset, tmp_path):
    run = train("train_gen.py", dataset, tmp_path / "run", "--max-iters", 5, "--log-every", 1)
    (run / "checkpoints" / "last.safetensors").unlink()
    assert script("train_gen.py", "--resume", run, "--max-iters", 3) == 0
    assert json.loads((run / "config.json").read_text())["train"]["max_iters"] == 3
    assert points(run) == [1, 2, 3]  # of the second start alone


def test_a_full_disk_costs_checkpoints_and_scalars_but_not_the_training(nursery, flags, whole, tmp_path):
    run, errors = tmp_path / "run", tmp_path / "errors.txt"
    assert nursery.run(errors, SCRIPT, *flags, "--max-iters", 20, "--val-every", 0, "--out", run) == 0
    before = (run / "checkpoints" / "last.safetensors").read_bytes()
    limit = 12_000
    assert len(before) > (whole / "checkpoints" / "best.safetensors").stat().st_size > limit
    again = ["--resume", run, "--val-every", 20]
    assert nursery.run(errors, SCRIPT, *again, "--max-iters", 60, limit=limit) == 2
    told = errors.read_text()
    assert re.search(r"step 30: \S*last\.safetensors: cannot write .*the training continues and tries again", told)
    assert re.search(r"step 40: \S*best\.safetensors: cannot write .*the training continues and tries again", told)
    assert "step 50: " in told  # it went on to the end
    assert told.count("TensorBoard: cannot write") == 1
    (last,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert re.search(r"last\.safetensors: cannot write .*; what was there is untouched", last)
    assert "Traceback" not in told
    assert (run / "checkpoints" / "last.safetensors").read_bytes() == before
    assert not list(run.rglob(".*"))
    assert nursery.run(errors, SCRIPT, *again, "--max-iters", STEPS) == 0
    assert "resumed at step 20" in errors.read_text()
    for which in ("last", "best"):
        assert_same(tensors(run, which), tensors(whole, which))
    assert points(run) == list(range(1, STEPS + 1))


def test_a_log_that_cannot_be_written_is_told_once(dataset, tmp_path, capfd):
    run = tmp_path / "run"
    run.mkdir()
    (run / "log.txt").symlink_to("/dev/full")
    train("train_gen.py", dataset, run, "--max-iters", 1)
    told = capfd.readouterr().err
    assert told.count("log.txt: cannot write (No space left on device)") == 1
    assert "Traceback" not in told
    assert (run / "results.json").is_file()


def test_tensorboard_that_cannot_be_written_does_not_end_a_training(dataset, tmp_path, capfd):
    run = tmp_path / "run"
    run.mkdir()
    (run / "tensorboard").write_text("a file where a folder should be")
    train("train_gen.py", dataset, run, "--max-iters", 5)
    assert "TensorBoard: cannot write" in capfd.readouterr().err
    assert (run / "results.json").is_file()


@pytest.mark.parametrize("place", ["read-only folder", "beneath a file"])
def test_where_nothing_can_be_written_nothing_begins(place, dataset, tmp_path, capfd):
    there = tmp_path / "there"
    if place == "read-only folder":
        if os.geteuid() == 0:
            pytest.skip("root may write to a read-only folder; the other place cannot be made by anyone")
        there.mkdir(mode=0o500)
    else:
        there.write_text("a file")
    argv = [*TINY, "--categories", "chair", "--dataset-path", dataset, "--out", there / "run", "--max-iters", 5]
    assert script("train_gen.py", *argv) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(r"there/run\S*: cannot write", line)


def test_a_torn_checkpoint_is_passed_over_aloud(dataset, tmp_path, capfd):
    run = train("train_gen.py", dataset, tmp_path / "run", "--save-every", 5, "--max-iters", 10)
    expected, file = cloned(run), run / "checkpoints" / "last.safetensors"
    content, older = file.read_bytes(), run / "checkpoints" / "step-00000005.safetensors"
    kept = older.read_bytes()
    for size in (7, len(content) - 1):  # more of them: test_checkpoint.py
        file.write_bytes(content[:size])
        older.write_bytes(kept)
        capfd.readouterr()
        assert script("train_gen.py", "--resume", run, "--num-samples", 1) == 0
        told = capfd.readouterr().err
        assert re.search(r"last\.safetensors: truncated .* going back to \S*step-00000005\S* \(step 5\)", told)
        assert "resumed at step 5" in told
        assert_same(tensors(run), expected)
