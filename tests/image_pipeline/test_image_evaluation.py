"""`evaluate` of images: killed and continued it gives the same images and scores; its mistakes."""

import json

import numpy as np
import pytest
import torch
from image_runs import command, train
from PIL import Image

from image_pipeline.commands import evaluate as evaluating
from image_pipeline.data import load_images, stored_images
from pcdiff.errors import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("images") / "run")


FLAGS = "--features random --metrics fid kid prc --split test --num-samples 40 --batch-size 8 --device cpu".split()


def evaluate(run, out, *args):
    return command("evaluate", "--run", run, "--out", out, *FLAGS, *args)


def scores(out):
    result = json.loads((out / "results.json").read_text())
    return {key: result[key] for key in ("fid", "kid", "prc", "num_samples", "num_reference", "feature_net")}


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert evaluate(run, out) == 0
    return out


def test_scores_of_a_run(run, whole, capsys):
    assert np.load(whole / "samples.npy").shape == (40, 8, 8, 1)
    assert {path.name for path in whole.iterdir()} == {"results.json", "results.png", "samples.npy", "log.txt"}
    found = scores(whole)
    assert found["fid"] > 0
    assert found["num_samples"] == 40
    assert found["num_reference"] == 299
    assert found["feature_net"]["name"] == "random"
    result = json.loads((whole / "results.json").read_text())
    assert result["trained_on"]["name"] == "digits of scikit-learn"
    assert result["sampling"]["sampler"] == "heun"


def test_stopped_and_resumed_equals_uninterrupted(run, whole, tmp_path, capsys):
    out = tmp_path / "parts"
    assert evaluate(run, out, "--max-iters", 16) == 0
    assert "stopped; finished blocks are in" in capsys.readouterr().err
    assert not (out / "results.json").exists()
    assert (out / "samples.partial.npy").exists()
    assert command("evaluate", "--resume", out, "--max-iters", 8) == 0
    assert command("evaluate", "--resume", out, "--max-iters", 100) == 0
    assert np.array_equal(np.load(out / "samples.npy"), np.load(whole / "samples.npy"))
    assert scores(out) == scores(whole)
    assert not (out / "samples.partial.npy").exists()
    assert command("evaluate", "--resume", out) == 2
    assert "no stopped evaluation there" in capsys.readouterr().err


class Killed(BaseException):
    """What no code catches."""


def test_killed_while_drawing_and_started_again_equals_uninterrupted(run, whole, tmp_path, monkeypatch, capsys):
    out, drawn, original = tmp_path / "killed", [], evaluating.draw_chunk

    def dies(model, k, *args, **options):
        drawn.append(k)
        if len(drawn) == 4:
            raise Killed
        return original(model, k, *args, **options)

    monkeypatch.setattr(evaluating, "draw_chunk", dies)
    with pytest.raises(Killed):
        evaluate(run, out)
    # the machine died with it: of the second batch nothing reached the disk
    torn = np.load(out / "samples.partial.npy", mmap_mode="r+")
    torn[8:16] = 7
    torn.flush()
    del torn
    drawn.clear()
    drawn.extend([0] * 10)
    assert evaluate(run, out) == 0
    assert drawn[10:] == [1, 3, 4]
    assert np.array_equal(np.load(out / "samples.npy"), np.load(whole / "samples.npy"))
    assert scores(out) == scores(whole)


def test_other_flags_do_not_go_on_with_it(run, tmp_path, capsys):
    out = tmp_path / "parts"
    assert evaluate(run, out, "--max-iters", 8) == 0
    capsys.readouterr()
    assert evaluate(run, out, "--seed", 1) == 2
    assert "holds stopped work with seed = 2020, not 1" in capsys.readouterr().err


def test_files_and_statistics(run, whole, tmp_path, capsys):
    images = load_images("digits", "train").images[:60]
    np.savez(tmp_path / "some.npz", images.permute(0, 2, 3, 1).numpy())
    base = ["evaluate", "--samples", tmp_path / "some.npz", "--features", "random", "--device", "cpu"]
    here = ["--reference", "digits", "--split", "test", "--output", tmp_path / "s.json", "--metrics", "fid"]
    assert command(*base, *here, "--save-statistics", tmp_path / "digits.npz") == 0
    direct = json.loads((tmp_path / "s.json").read_text())
    named_alike = [*here[:4], "--output", tmp_path / "some.json", "--metrics", "fid"]
    assert command(*base, *named_alike) == 0
    assert json.loads((tmp_path / "some.json").read_text())["fid"] == direct["fid"]
    assert direct["fid"] < scores(whole)["fid"]  # real digits are nearer to real digits
    there = ["--statistics", tmp_path / "digits.npz", "--output", tmp_path / "t.json", "--metrics", "fid"]
    assert command(*base, *there) == 0
    assert json.loads((tmp_path / "t.json").read_text())["fid"] == pytest.approx(direct["fid"])
    assert "STAND-IN: these scores compare with nothing published" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ([], "give one of --run, to generate, and --samples"),
        (["--run", "{run}", "--metrics", "lpips"], "--metrics must be of fid, kid, is, prc, got lpips"),
        (
            ["--run", "{run}", "--features", "vgg"],
            "unknown feature network vgg; known are inception, random, pixels",
        ),
        (["--samples", "x.npz", "--features", "random"], "--samples needs --reference or --statistics"),
        (["--run", "{tmp}/none", "--features", "random"], "none: no checkpoint (best or last) in this run"),
        (
            ["--run", "{run}", "--features", "random", "--metrics", "is"],
            "gives no logits, which the Inception Score",
        ),
        (
            ["--run", "{run}", "--features", "random", "--sampler", "nope"],
            "predictor must be one of ",
        ),
        (["--run", "{run}", "--features", "random", "--grid", "nope"], "grid must be one of "),
        (
            ["--run", "{run}", "--features", "random", "--reference", "{tmp}/small"],
            "small: images must be 1x8x8 here, got 1x4x4",
        ),
        (
            ["--samples", "x.npz", "--reference", "digits", "--features", "random", "--num-steps", "3"],
            "how images are drawn goes with --run",
        ),
        (["--run", "{run}", "--weights", "{tmp}/w.pth"], "w.pth"),
        (["--run", "{run}", "--features", "random", "--output", "x.npz"], "--output must end in .json, got x.npz"),
        (["--resume", "{tmp}"], "no stopped evaluation there"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, capsys, monkeypatch, args, match):
    monkeypatch.chdir(tmp_path)
    few = ["--num-samples", 4, "--out", tmp_path / "out"] if "--run" in args else []
    (tmp_path / "small").mkdir()
    for number in range(20):
        Image.new("L", (4, 4)).save(tmp_path / "small" / f"{number}.png")
    assert command("evaluate", *(arg.format(run=run, tmp=tmp_path) for arg in args), *few) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ")
    assert match in error.splitlines()[-1]
    assert not list((tmp_path / "out").glob("samples*"))  # before anything is drawn


def test_what_was_drawn_can_be_scored_again(run, whole, tmp_path):
    scored = ["--samples", whole / "samples.npy", "--reference", "digits", "--split", "test", "--device", "cpu"]
    result = tmp_path / "again.json"
    assert command("evaluate", *scored, "--features", "random", "--batch-size", 8, "--output", result) == 0
    again, first = json.loads(result.read_text()), scores(whole)
    for name in ("fid", "kid", "prc"):
        assert again[name] == pytest.approx(first[name])
    themselves = ["--samples", whole / "samples.npy", "--reference", whole / "samples.npy", "--device", "cpu"]
    assert command("evaluate", *themselves, "--features", "pixels", "--metrics", "fid", "--output", result) == 0
    same = json.loads(result.read_text())
    assert same["fid"] == pytest.approx(0, abs=1e-6)
    assert same["reference"]["name"] == "samples.npy"
    assert same["num_reference"] == 40


def test_stored_images_are_read_where_they_are_asked_for(tmp_path):
    np.save(tmp_path / "s.npy", np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1))
    images = stored_images.StoredImages(tmp_path / "s.npy")
    assert len(images) == 6
    assert isinstance(images.array, np.memmap)
    assert images.shape == (6, 1, 2, 2)
    assert images[torch.tensor([5, 0])].flatten(1).tolist() == [[20, 21, 22, 23], [0, 1, 2, 3]]
    colors = stored_images.StoredImages(tmp_path / "s.npy", (3, 2, 2))
    assert colors.shape == (6, 3, 2, 2)
    assert torch.equal(colors[torch.tensor([1])], images[torch.tensor([1])].expand(-1, 3, -1, -1))
    with pytest.raises(InputError, match="images must be 1x4x4 here, got 1x2x2"):
        stored_images.StoredImages(tmp_path / "s.npy", (1, 4, 4))


def test_a_fid_of_few_images_says_what_that_means(whole):
    result = json.loads((whole / "results.json").read_text())
    (line,) = [line for line in evaluating.table(result).splitlines() if "biased" in line]
    assert line.startswith("fid of 40 images is biased upwards")
    assert "kid, which has no bias" in line
    many = result | {"num_samples": 10_000, "num_reference": None}  # of statistics that do not say
    assert "biased" not in evaluating.table(many)
    assert "fid of 9,999 images" in evaluating.table(many | {"num_reference": 9_999})


def test_a_reference_brought_to_more_pixels_is_said_aloud(tmp_path, capsys):
    out = train(tmp_path / "run", "--size", 16)
    assert "images of 8x8 are brought to 16x16 (center crop" in (out / "log.txt").read_text()
    flags = ["--features", "pixels", "--metrics", "fid", "--num-samples", 4, "--split", "test", "--device", "cpu"]
    assert command("evaluate", "--run", out, "--reference", "digits", *flags) == 0
    assert "reference: digits of scikit-learn: images of 8x8 are brought to 16x16" in capsys.readouterr().err
