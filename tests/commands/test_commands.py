"""`python -m pcdiff` as a user runs it: each command on files, its units, its one line, its mistakes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from script_tools import ROOT, script, train

from pcdiff.commands.flags import COMMANDS, Reconstruct, Sample
from pcdiff.commands.units import read_clouds, restore_generated
from pcdiff.data import load_clouds
from pcdiff.errors import InputError
from pcdiff.models.sampling import reconstruct, sample_all
from pcdiff.ops.normalization import normalize
from pcdiff.training.checkpoint import load

PLACE = np.array([5.0, -2.0, 1.0], dtype=np.float32)


def command(*args):
    return script("pcdiff/__main__.py", *args, "--device", "cpu")


def done(capsys, *args):
    """Run a command that works; return its one line."""
    assert command(*args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return lines[0]


def made(path):
    assert path.with_suffix(".png").stat().st_size > 1000
    return np.load(path)


@pytest.fixture
def files(tmp_path):
    """Write clouds in a unit of their own, far from the model's."""
    rng = np.random.default_rng(0)
    shapes = 3 * rng.normal(size=(3, 40, 3)).astype(np.float32) * [1, 2, 0.5] + PLACE
    np.save(tmp_path / "three.npy", shapes.astype(np.float32))
    for name, cloud in zip("abc", shapes, strict=True):
        np.savetxt(tmp_path / f"{name}.xyz", cloud, fmt="%.6f")
    return tmp_path


def test_sample(generator_run, tmp_path, capsys):
    out = tmp_path / "new" / "s.npy"
    line = done(capsys, "sample", "--run", generator_run, "--output", out, "--num-samples", 3, "--num-points", 17)
    assert made(out).shape == (3, 17, 3)
    assert "sample: 3 clouds of 17 points in the model's normalization (shape_unit), 4 network evaluations" in line
    model = load(generator_run)
    expected = sample_all(model, 3, 17, 2020)
    assert np.array_equal(made(out), expected.numpy())
    few = ["--sampler", "dpmpp", "--num-steps", 2, "--seed", 5, "--truncate-std", 1]
    line = done(capsys, "sample", "--run", generator_run, "--output", out, "--num-samples", 1, *few)
    assert made(out).shape == (1, 32, 3)  # the run's own number of points
    assert "2 network evaluations" in line


def test_reconstruct_in_the_inputs_unit_and_again_the_same(autoencoder_run, files, capsys):
    common = ["reconstruct", "--run", autoencoder_run, "--input", files / "three.npy"]
    line = done(capsys, *common, "--output", files / "r.npy")
    assert "3 clouds of 40 points in the input's unit" in line
    done(capsys, *common, "--output", files / "again.npy")
    again, clouds = made(files / "again.npy"), made(files / "r.npy")
    assert np.array_equal(again, clouds)
    x, shift, scale = normalize(torch.from_numpy(np.load(files / "three.npy")), "shape_unit")
    (expected,) = reconstruct(load(autoencoder_run), x, 40, 2020)
    np.testing.assert_allclose(clouds, (expected * scale + shift).numpy(), rtol=1e-6)
    done(capsys, *common[:4], files / "a.xyz", "--output", files / "one.npy")
    np.testing.assert_allclose(made(files / "one.npy")[0], clouds[0], rtol=1e-3, atol=1e-3)


def test_upsample(generator_run, files, capsys):
    line = done(
        capsys, *["upsample", "--run", generator_run, "--input", files / "a.xyz"],
        "--num-points", 100, "--output", files / "u.npy",
    )  # fmt: skip
    assert line.startswith("upsample: 1 clouds of 100 points in the input's unit")
    assert made(files / "u.npy").shape == (1, 100, 3)
    assert np.abs(made(files / "u.npy").mean(axis=1) - PLACE).max() < 5


@pytest.mark.parametrize("sampler", ["ancestral", "dpmpp"])
def test_complete_keeps_what_the_file_holds(generator_run, files, capsys, sampler):
    given = np.load(files / "three.npy")
    common = ["complete", "--run", generator_run, "--input", files / "three.npy", "--sampler", sampler]
    done(capsys, *common, "--num-points", 64, "--output", files / "c.npy")
    whole = made(files / "c.npy")
    assert whole.shape == (3, 64, 3)
    assert np.array_equal(whole[:, :40], given)


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_interpolate_ends_in_the_reconstructions(generator_run, files, capsys, path):
    for name in "ab":
        done(
            capsys, "reconstruct", "--run", generator_run, "--input", files / f"{name}.xyz",
            "--output", files / f"{name}.npy",
        )  # fmt: skip
    done(
        capsys, "interpolate", "--run", generator_run, "--a", files / "a.xyz", "--b", files / "b.xyz",
        "--steps", 3, "--path", path, "--output", files / "i.npy",
    )  # fmt: skip
    frames = made(files / "i.npy")
    assert frames.shape == (3, 40, 3)
    np.testing.assert_allclose(frames[:1], made(files / "a.npy"), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(frames[2:], made(files / "b.npy"), rtol=1e-5, atol=1e-5)


def test_arithmetic(generator_run, files, capsys):
    sets = [part for name in "abc" for part in (f"--{name}", files / f"{name}.xyz")]
    line = done(capsys, "arithmetic", "--run", generator_run, *sets, "--output", files / "z.npy")
    assert "1 clouds of 40 points in the model's normalization (shape_unit)" in line
    assert made(files / "z.npy").shape == (1, 40, 3)


def test_invert(generator_run, files, capsys):
    line = done(
        capsys, "invert", "--run", generator_run, "--input", files / "three.npy", "--output", files / "back.npy"
    )
    assert "round-trip CD" in line
    assert "7 network evaluations" in line  # three up, four down
    assert made(files / "back.npy").shape == (3, 40, 3)
    with np.load(files / "back.npz") as found:
        assert found["code"].shape == (3, 8)
        assert found["noise"].shape == (3, 40, 3)


def test_log_likelihood(generator_run, autoencoder_run, files, capsys):
    common = ["--input", files / "three.npy", "--output", files / "s.json"]
    line = done(capsys, "log-likelihood", "--run", generator_run, *common)
    assert "3 clouds" in line
    scores = json.loads((files / "s.json").read_text())
    assert len(scores["nats_per_dim"]) == len(scores["latent_log_prob"]) == 3
    # 40 points of 3 coordinates
    assert scores["log_p_x_given_z"] == pytest.approx([-120 * nats for nats in scores["nats_per_dim"]])
    assert set(scores["meaning"]) == {"log_p_x_given_z", "nats_per_dim", "latent_log_prob"}
    means = {name: np.mean(scores[name]) for name in scores["meaning"]}
    assert f"log p(x | z) = {means['log_p_x_given_z']:.2f} nats a cloud, of the points given the code" in line
    assert f"negative log-likelihood {means['nats_per_dim']:.4f} nats a coordinate, lower is better" in line
    assert f"log p(z) = {means['latent_log_prob']:.2f} nats a cloud, of the code under the prior" in line
    assert scores["normalization"] == "shape_unit"
    line = done(capsys, "log-likelihood", "--run", autoencoder_run, "--input", files / "a.xyz")
    assert "log p(z)" not in line


def test_clouds_of_several_sizes_need_a_rule(generator_run, files, capsys):
    folder = files / "mixed"
    folder.mkdir()
    for points in (12, 20):
        np.savetxt(folder / f"{points}.xyz", np.random.default_rng(points).normal(size=(points, 3)))
    common = ["reconstruct", "--run", generator_run, "--input", folder, "--output", files / "m.npy"]
    assert command(*common) == 2
    assert "12 to 20 points; cut them with --input-points N --point-rule" in capsys.readouterr().err
    done(capsys, *common, "--input-points", 10, "--point-rule", "farthest")
    assert made(files / "m.npy").shape == (2, 10, 3)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["sample", "--output", "x.ply"], "--output must end in .npy, got x.ply"),
        (["sample", "--output", "x.npy", "--num-samples", "0"], "--num-samples must be at least 1, got 0"),
        (["sample", "--output", "x.npy", "--sampler", "magic"], "predictor must be one of "),
        (["sample", "--output", "x.npy", "--grid", "bent"], "grid must be one of "),
        (["sample", "--output", "x.npy", "--flexibility", "2"], "--flexibility must be in [0, 1], got 2"),
        (["sample", "--output", "x.npy", "--std", "2"], "which takes none"),
        (["sample", "--output", "x.npy", "--seed", "-1"], "--seed must be in 0..2^63 - 1, got -1"),
        (["reconstruct", "--output", "x.npy", "--input", "none.npy"], "none.npy: no such file or folder"),
        (
            ["complete", "--output", "x.npy", "--input", "{a}", "--num-points", "40"],
            "more than the 40 points",
        ),
        (["interpolate", "--output", "x.npy", "--a", "{a}", "--b", "{three}"], "got a 1, b 3"),
        (
            ["interpolate", "--output", "x.npy", "--a", "{a}", "--b", "{a}", "--steps", "1"],
            "--steps must be at least 2",
        ),
        (["log-likelihood", "--output", "x.npy", "--input", "{a}"], "--output must end in .json, got x.npy"),
    ],
)
def test_a_mistake_is_one_line(generator_run, files, capsys, monkeypatch, args, match):
    monkeypatch.chdir(files)
    places = {"a": files / "a.xyz", "three": files / "three.npy"}
    assert command(args[0], "--run", generator_run, *[arg.format(**places) for arg in args[1:]]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert match in error
    assert not (files / "x.npy").exists()


def test_an_autoencoder_cannot_sample(autoencoder_run, tmp_path, capsys):
    assert command("sample", "--run", autoencoder_run, "--output", tmp_path / "x.npy") == 2
    assert "an autoencoder has no prior to sample; take reconstruct" in capsys.readouterr().err


def test_global_normalizations_need_their_statistics(files):
    place = {"run": files, "output": files / "x.npy"}
    given = {"input": files / "three.npy"}
    with pytest.raises(InputError, match="its normalization is global; give --mean and --std of its training"):
        read_clouds(given["input"], Reconstruct(**place, **given), "global")
    with pytest.raises(InputError, match="global_unit; give --std"):
        read_clouds(given["input"], Reconstruct(**place, **given, mean=(0, 0, 0)), "global_unit")
    known = Reconstruct(**place, **given, mean=(1.0, 2.0, 3.0), std=2.0)
    clouds = read_clouds(given["input"], known, "global")
    torch.testing.assert_close(clouds.points, (clouds.raw - torch.tensor([1.0, 2.0, 3.0])) / 2)
    torch.testing.assert_close(clouds.restore(clouds.points), clouds.raw)
    new, unit = restore_generated(torch.ones(1, 2, 3), Sample(**place, mean=(1.0, 2.0, 3.0), std=2.0), "global")
    assert unit == "the data's unit"
    assert new[0, 0].tolist() == [3.0, 4.0, 5.0]
    assert restore_generated(new, Sample(**place), "global")[1] == "the model's normalization (global)"
    assert restore_generated(new, Sample(**place), "none") == (new, "the data's unit")


def test_a_global_run_knows_its_own_statistics(dataset, files, capsys):
    run = train("train_gen.py", dataset, files / "run", "--max-iters", 1, "--normalization", "global")
    line = done(capsys, "sample", "--run", run, "--num-samples", 2, "--output", files / "s.npy")
    assert "in the data's unit" in line
    split = load_clouds(dataset, "chair", "train", "global")
    own = split.denormalize_generated(sample_all(load(run), 2, 32, 2020))
    np.testing.assert_allclose(made(files / "s.npy"), own.numpy(), rtol=1e-5, atol=1e-5)
    common = ["sample", "--run", run, "--num-samples", 2, "--output", files / "s.npy"]
    done(capsys, *common, "--mean", 0, 0, 0, "--std", 1)
    np.testing.assert_allclose(made(files / "s.npy"), sample_all(load(run), 2, 32, 2020).numpy())


def test_help_lists_every_command():
    args = [sys.executable, "-m", "pcdiff", "--help"]
    shown = subprocess.run(args, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert "python -m pcdiff" in shown
    for name, command in COMMANDS.items():
        assert f"  {name} " in shown
        assert command.__doc__.split()[0] in shown


@pytest.mark.parametrize("name", "sample interpolate log-likelihood".split())
def test_help_of_a_command(name, capsys):
    assert script("pcdiff/__main__.py", name, "--help") == 0
    assert "--run" in capsys.readouterr().out
