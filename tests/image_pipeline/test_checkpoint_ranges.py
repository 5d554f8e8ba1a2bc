"""The loss and the scores of a run's checkpoints in a range: as one by one, continued, and their mistakes."""

import json

import numpy as np
import pytest
import torch
from image_runs import command, train

from image_pipeline.commands import evaluate
from image_pipeline.commands.checkpoint_sweep import checkpoints_of, table
from image_pipeline.data import ImageBatch, load_images, to_range
from image_pipeline.models.loading import load_model
from pcdiff.errors import InputError
from pcdiff.runtime import rng

SCORES = "--features pixels --metrics fid --split test --num-samples 8 --batch-size 4 --device cpu".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that kept its checkpoints of steps 2, 4 and 6."""
    out = tmp_path_factory.mktemp("images") / "run"
    return train(out, "--max-iters", 6, "--save-every", 2, "--keep", 9)


def test_checkpoints_by_range(run):
    assert [saved.step for saved in checkpoints_of(run, "all")] == [2, 4, 6]
    assert [saved.step for saved in checkpoints_of(run, "3:")] == [4, 6]
    assert [saved.step for saved in checkpoints_of(run, ":4")] == [2, 4]
    assert [saved.file.name for saved in checkpoints_of(run, "6:6")] == ["last.safetensors"]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("2-4", "--checkpoints must be all or FIRST:LAST in steps, such as 1000:5000, got '2-4'"),
        ("7:", "has no checkpoint in 7:; --keep of train sets how many stay"),
    ],
)
def test_no_such_range_is_refused(run, wanted, says):
    with pytest.raises(InputError, match=says):
        checkpoints_of(run, wanted)


def test_losses_are_the_objectives_own(run, tmp_path, capsys):
    out = tmp_path / "l.json"
    flags = ["--split", "test", "--num-images", 20, "--batch-size", 8, "--repeats", 2, "--device", "cpu"]
    assert command("loss", "--run", run, "--checkpoints", "all", *flags, "--output", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines[:3]] == [f"loss: step {step}" for step in (2, 4, 6)]
    losses = json.loads(out.read_text())["losses"]
    dataset = load_images("digits", "test")
    for saved in checkpoints_of(run, "all"):
        model, means = load_model(saved.file), []
        for first, count in ((0, 8), (8, 8), (16, 4)):
            rows = torch.arange(first, first + count)
            batch = ImageBatch(to_range(dataset.images[rows], "symmetric"), dataset.labels[rows])
            draws = (
                model.draw(batch, count, rng.generator(2020, "loss", first, repeat, device="cpu"))
                for repeat in range(2)
            )
            with torch.no_grad():
                means.append(np.mean([float(model.loss_terms(batch, **draw)["loss"]) for draw in draws]))
        found = losses[str(saved.file)]
        assert found["step"] == saved.step
        # of float64 means in another order
        assert found["terms"]["loss"] == pytest.approx(np.average(means, weights=[8, 8, 4]), rel=1e-12)
    assert command("loss", "--run", run, *flags) == 0
    shown = capsys.readouterr().out
    assert f"loss {losses[str(run / 'checkpoints' / 'last.safetensors')]['terms']['loss']:.5g}" in shown


def test_a_stopped_loss_goes_on(run, tmp_path, capsys):
    flags = ["--checkpoints", "4:", "--num-images", 12, "--batch-size", 8, "--device", "cpu", "--output"]
    assert command("loss", "--run", run, *flags, tmp_path / "whole.json") == 0
    capsys.readouterr()
    for _ in range(9):
        assert command("loss", "--run", run, *flags, tmp_path / "parts.json", "--max-minutes", 1e-9) == 0
        if (tmp_path / "parts.json").exists():
            break
        assert (tmp_path / "parts.partial").exists()
    assert (tmp_path / "parts.json").read_text() == (tmp_path / "whole.json").read_text()


def test_scores_of_a_range_are_those_of_each(run, tmp_path, capsys):
    out = tmp_path / "range"
    assert command("evaluate", "--run", run, "--checkpoints", "2:4", *SCORES, "--out", out) == 0
    shown = capsys.readouterr().err
    assert "step 2: " in shown
    assert "* best of its column" in shown
    scores = json.loads((out / "checkpoints.json").read_text())["scores"]
    assert sorted(scores) == ["2", "4"]
    file = run / "checkpoints" / "step-00000002.safetensors"
    assert command("evaluate", "--run", file, *SCORES, "--out", tmp_path / "one") == 0
    one = json.loads((tmp_path / "one" / "results.json").read_text())
    assert scores["2"]["fid"] == one["fid"]
    assert (out / "step-00000004" / "samples.npy").exists()
    # another range adds to what is there
    capsys.readouterr()
    assert command("evaluate", "--run", run, "--checkpoints", "all", *SCORES, "--out", out) == 0
    assert "step 2: scored already" in capsys.readouterr().err
    assert sorted(json.loads((out / "checkpoints.json").read_text())["scores"]) == ["2", "4", "6"]
    assert not (out / "evaluation.json").exists()
    assert command("evaluate", "--run", run, "--checkpoints", "all", *SCORES, "--seed", 1, "--out", out) == 2
    assert "was scored with seed = 2020, not 1" in capsys.readouterr().err


def test_a_stopped_range_goes_on(run, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = ["--run", run, "--checkpoints", "all", *SCORES]
    assert command("evaluate", *flags, "--out", whole) == 0
    drawn = evaluate.draw_chunk
    calls = []

    def dies(*args, **options):
        calls.append(1)
        if len(calls) == 4:  # in the second checkpoint's second batch
            raise KeyboardInterrupt
        return drawn(*args, **options)

    monkeypatch.setattr(evaluate, "draw_chunk", dies)
    assert command("evaluate", *flags, "--out", parts) == 130
    monkeypatch.setattr(evaluate, "draw_chunk", drawn)
    assert command("evaluate", "--resume", parts) == 0
    a, b = (json.loads((out / "checkpoints.json").read_text())["scores"] for out in (whole, parts))
    assert {step: score["fid"] for step, score in a.items()} == {step: score["fid"] for step, score in b.items()}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--output", "x.json"], "--output does not go with --checkpoints; give --out"),
        (["--max-iters", 3], "--max-iters does not go with --checkpoints; give --max-minutes"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, capsys, flags, says):
    assert command("evaluate", "--run", run, "--checkpoints", "all", *SCORES, *flags) == 2
    assert capsys.readouterr().err == f"error: {says}\n"


def test_damaged_scores_are_refused(run, tmp_path, capsys):
    for content in ("[]", "{", '{"format": "pcdiff checkpoint scores 1", "flags": {}, "scores": {"2": 1}}'):
        (tmp_path / "checkpoints.json").write_text(content)
        assert command("evaluate", "--run", run, "--checkpoints", "all", *SCORES, "--out", tmp_path) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "checkpoints.json: " in error


def test_the_table_marks_the_best():
    lines = table({"10": {"fid": 2.0, "kid": {"mean": 0.1}}, "20": {"fid": 1.0, "kid": {"mean": 0.2}}}).splitlines()
    assert lines[0].split() == ["step", "FID", "KID"]
    assert lines[1].split() == ["10", "2", "0.1*"]
    assert lines[2].split() == ["20", "1*", "0.2"]
