"""Signals while images are validated, drawn or scored: what is done is kept, and continuing ends alike."""

import json
import os
import signal

import numpy as np
import pytest
from image_runs import TINY, command, train
from script_tools import assert_same, tensors

import image_pipeline.commands.evaluate as evaluating
from image_pipeline.data import splits
from image_pipeline.models import sampling
from pcdiff.training import checkpoint

FLAGS = ["--max-iters", 3, "--val-every", 3]


def told_at(monkeypatch, count, target, name):
    """Send this process SIGTERM at the start of a function's `count`-th call."""
    calls, function = [], getattr(target, name)

    def signalled(*args, **options):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*args, **options)

    monkeypatch.setattr(target, name, signalled)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "whole", *FLAGS)


@pytest.mark.parametrize("phase", [1, 2])  # the pictures of the last validation, and the samples
def test_after_a_signal_past_the_last_step_going_on_ends_alike(phase, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        told_at(patched, phase, sampling, "draw_chunk")
        run = train(tmp_path / "run", *FLAGS)  # status 0
    assert (run / "log.txt").read_text().rstrip().endswith(f"resume with: --resume {run}")
    assert not (run / "samples.npz").exists()
    metadata = checkpoint.read(run / "checkpoints" / "last.safetensors")[1]
    assert (metadata["step"], metadata["validated"]) == (3, 0 if phase == 1 else 3)
    assert command("train", "--resume", run) == 0
    for which in ("last", "best"):
        assert_same(tensors(run, which), tensors(whole, which))
    assert np.array_equal(np.load(run / "samples.npz")["arr_0"], np.load(whole / "samples.npz")["arr_0"])


def test_a_signal_before_anything_is_there_leaves_nothing(tmp_path, monkeypatch, capsys):
    told_at(monkeypatch, 1, splits, "load_images")
    assert command("train", *TINY, "--out", tmp_path / "run") == 0
    assert "stopped before any work began" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_where_the_time_is_over_samples_are_left_out_with_a_line(tmp_path):
    run = train(tmp_path / "run", *FLAGS, "--max-minutes", 1e-6)
    log = (run / "log.txt").read_text()
    assert "step 1: not validated, since the time is up" in log
    assert "drawing 4 images: left out: 0.0 seconds of --max-minutes are left" in log
    assert json.loads((run / "training.json").read_text())["training"]["ended"] == "time is up"


@pytest.mark.parametrize(("count", "name"), [(2, "draw_chunk"), (1, "score_images")])
def test_a_stopped_evaluation_goes_on_to_the_same_result(count, name, whole, tmp_path, monkeypatch, capsys):
    flags = ["--run", whole, "--num-samples", 6, "--batch-size", 3, "--features", "random", "--metrics", "fid"]
    flags += ["--split", "test", "--device", "cpu", "--out"]
    assert command("evaluate", *flags, tmp_path / "one") == 0
    with monkeypatch.context() as patched:
        told_at(patched, count, evaluating, name)
        assert command("evaluate", *flags, tmp_path / "two") == 0
    assert f"resume with: --resume {tmp_path / 'two'}" in capsys.readouterr().err
    assert not (tmp_path / "two" / "results.json").exists()
    assert command("evaluate", *flags, tmp_path / "two") == 0
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert one["fid"] == two["fid"]
