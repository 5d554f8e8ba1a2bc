"""`python -m image_pipeline` as a user runs it: each command with a model, end to end on a tiny digits run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from image_runs import command, train
from PIL import Image

from image_pipeline.commands.trained_model import merged
from image_pipeline.configs import SamplingConfig
from image_pipeline.data import load_images
from image_pipeline.models.loading import load_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("images") / "run")


@pytest.fixture(scope="module")
def color_run(tmp_path_factory):
    """A run on color images without classes."""
    place = tmp_path_factory.mktemp("color")
    (place / "data").mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / "data" / f"{i:02d}.png")
    data = ["--dataset-path", place / "data", "--held-out", 2]
    net = "--model.in-channels 3 --model.out-channels 3 --model.num-classes None --model.no-null-class".split()
    return train(place / "run", *data, *net, "--val-every", 2)


@pytest.fixture
def digits(tmp_path):
    """A few test digits as files, in two forms."""
    images = load_images("digits", "test").images[:3]
    np.savez(tmp_path / "digits.npz", images.permute(0, 2, 3, 1).numpy())
    np.save(tmp_path / "small.npy", images[:, :, ::2, ::2].permute(0, 2, 3, 1).contiguous().numpy())
    return tmp_path / "digits.npz"


def done(capsys, *args):
    """Run a command that works; return its one line."""
    assert command(*args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return lines[0]


def made(path):
    """Return the images beside a picture, uint8 `(n, H, W, C)`."""
    with Image.open(path) as picture:
        assert picture.width > 60
    return np.load(path.with_suffix(".npz"))["arr_0"]


def read(path):
    return np.load(path)["arr_0"]


def test_training_leaves_a_run(run):
    assert {"config.json", "checkpoints", "log.txt", "samples.npz", "samples.png", "training.json"} <= {
        path.name for path in run.iterdir()
    }
    assert read(run / "samples.npz").shape == (4, 8, 8, 1)
    training = json.loads((run / "training.json").read_text())
    assert training["training"]["steps"] == 4
    assert training["dataset"]["shape"] == [1, 8, 8]
    model = load_model(run)
    assert model.image_shape == (1, 8, 8)
    assert model.metadata["step"] == 4
    assert not model.training


def test_sample_and_its_way(run, tmp_path, capsys):
    out = tmp_path / "new" / "s.png"
    line = done(capsys, "sample", "--run", run, "--output", out, "--num-samples", 5, "--trajectory")
    assert "sample: 5 images 1x8x8, 5 network evaluations" in line  # Heun: two a step but the last
    assert made(out).shape == (5, 8, 8, 1)
    with Image.open(out.with_suffix(".gif")) as way:
        assert way.n_frames == 4
    again = tmp_path / "again.png"
    done(capsys, "sample", "--run", run, "--output", again, "--num-samples", 3)
    assert np.array_equal(made(again), made(out)[:3])  # an image does not depend on how many there are
    other = ["--sampler", "euler_maruyama", "--num-steps", 4, "--corrector", "langevin", "--snr", 0.1]
    line = done(capsys, "sample", "--run", run, "--output", again, "--num-samples", 2, *other)
    assert "8 network evaluations" in line


def test_a_samplers_own_options(run, tmp_path, capsys):
    def drawn(*flags):
        done(capsys, "sample", "--run", run, "--output", tmp_path / "s.png", "--num-samples", 2, *flags)
        return made(tmp_path / "s.png").astype(int)

    plain = drawn()
    assert not np.array_equal(drawn("--churn", 2), plain)
    assert np.array_equal(drawn("--churn", 2, "--churn-min", 1e6), plain)
    few = ["--num-steps", 4, "--grid", "edm"]
    ddim = drawn("--sampler", "ddim", *few)
    assert abs(drawn("--sampler", "dpmpp", "--order", 1, *few) - ddim).max() <= 1  # the same step (Lu et al., 2022)
    assert not np.array_equal(drawn("--sampler", "ddim", "--eta", 1, *few), ddim)


def test_class_conditional(run, tmp_path, capsys):
    out = tmp_path / "c.png"
    done(capsys, *["class-conditional", "--run", run, "--output", out], "--per-class", 2, "--classes", 3, 7)
    assert made(out).shape == (4, 8, 8, 1)
    done(capsys, "class-conditional", "--run", run, "--output", out, "--per-class", 1, "--guidance", 1)
    assert made(out).shape == (10, 8, 8, 1)


class Classifier(torch.nn.Module):
    """Two classes: bright and dark."""

    def forward(self, x, t):
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([mean, -mean], dim=1) + 0 * t[:, None]


def test_a_classifier_guides(color_run, tmp_path, capsys):
    example = torch.zeros(2, 3, 8, 8), torch.zeros(2)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(Classifier(), example, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, tmp_path / "bright.pt2")
    out = tmp_path / "g.png"
    base = ["class-conditional", "--run", color_run, "--output", out, "--per-class", 3]
    guide = ["--classifier", tmp_path / "bright.pt2", "--classes", 0, 1, "--classifier-scale", 5]
    done(capsys, *base, *guide, "--sampler", "ddim", "--num-steps", 12, "--grid", "edm")
    images = made(out).astype(float)
    assert images[:3].mean() > images[3:].mean() + 20
    assert command(*base) == 2
    assert "this model is not conditioned on classes; give --classifier" in capsys.readouterr().err


@pytest.mark.parametrize("mask", ["upper", "file", "drawn"])
def test_inpaint_keeps_the_known(run, digits, tmp_path, capsys, mask):
    known = np.zeros((8, 8), dtype=bool)
    known[:4] = True
    given = {"upper": "upper", "file": tmp_path / "m.npy", "drawn": tmp_path / "m.png"}[mask]
    np.save(tmp_path / "m.npy", known)
    Image.fromarray((known * 255).astype(np.uint8)).save(tmp_path / "m.png")
    out = tmp_path / "i.png"
    few = ["--sampler", "ancestral", "--num-steps", 3, "--settle", 1]
    done(capsys, "inpaint", "--run", run, "--input", digits, "--mask", given, "--output", out, *few)
    assert np.array_equal(made(out)[:, :4], read(digits)[:, :4])
    assert not np.array_equal(made(out)[:, 4:], read(digits)[:, 4:])


def test_restoring_in_the_place_of_a_deterministic_sampler(run, digits, tmp_path, capsys):
    common = ["inpaint", "--run", run, "--input", digits, "--output", tmp_path / "i.png"]
    assert "3 images 1x8x8, 5 network evaluations" in done(capsys, *common, "--num-steps", 5)
    assert "100 network evaluations" in done(capsys, *common, "--label", 3)
    assert "2 network evaluations" in done(capsys, *common, "--sampler", "ddim", "--num-steps", 2)
    none, plain = (
        done(capsys, *common, "--num-steps", 4, "--seed", 1) and made(tmp_path / "i.png") for _ in range(2)
    )
    dropped = done(capsys, *common, "--num-steps", 4, "--seed", 1, "--label", 3, "--guidance", 0)
    assert "4 network evaluations" in dropped
    assert np.array_equal(none, plain)
    assert np.array_equal(made(tmp_path / "i.png"), none)  # guidance 0 drops the class


def test_colorize(color_run, run, digits, tmp_path, capsys):
    out = tmp_path / "c.png"
    gray = read(digits)
    few = ["--sampler", "ancestral", "--num-steps", 3]
    done(capsys, "colorize", "--run", color_run, "--input", digits, "--output", out, *few)
    colors = made(out)
    assert colors.shape == (3, 8, 8, 3)
    inside = ((colors > 0) & (colors < 255)).all(axis=-1)  # what is cut to the range loses its mean
    assert inside.any()
    assert np.abs(colors.mean(axis=-1) - gray[..., 0])[inside].max() < 1
    assert command("colorize", "--run", run, "--input", digits, "--output", out) == 2
    assert "this model's images are gray" in capsys.readouterr().err


def test_super_resolution_keeps_the_means(run, digits, tmp_path, capsys):
    out = tmp_path / "s.png"
    common = ["inverse", "--run", run, "--output", out, "--sampler", "ancestral", "--num-steps", 3]
    done(capsys, *common, "--input", digits)
    assert made(out).shape == (3, 8, 8, 1)
    done(capsys, *common, "--input", tmp_path / "small.npy")  # already measured
    assert made(out).shape == (3, 8, 8, 1)
    assert command(*common, "--input", digits, "--factor", 3) == 2
    assert "--factor must divide the images' 8x8, got 3" in capsys.readouterr().err


def test_compressed_sensing(run, digits, tmp_path, capsys):
    out = tmp_path / "s.png"
    common = ["inverse", "--run", run, "--output", out, "--sampler", "ancestral", "--num-steps", 3]
    sense = ["--problem", "compressed-sensing", "--input", digits, "--measurements"]
    line = done(capsys, *common, *sense, 64)
    assert "64 of 64 numbers known, RMS error 0.000" in line
    assert np.abs(made(out).astype(int) - read(digits)).max() <= 1
    done(capsys, *common, *sense, 20)
    assert command(*common, *sense, 65) == 2


def test_measurements_are_followed_by_their_gradient(run, digits, tmp_path, capsys):
    """All numbers measured with little error: the images come back, closer than a model of a few steps draws."""
    out = tmp_path / "g.png"
    common = ["inverse", "--run", run, "--input", digits, "--output", out, "--sampler", "dpmpp", "--num-steps", 12]
    done(capsys, *common, "--problem", "compressed-sensing", "--measurements", 64, "--noise", 0.02)
    assert np.abs(made(out).astype(int) - read(digits)).mean() < 20
    done(capsys, *common, "--factor", 2, "--noise", 0.02)
    pooled = [v.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)) for v in (made(out).astype(float), read(digits))]
    assert np.abs(pooled[0] - pooled[1]).mean() < 20
    for flags in (["--settle", 1], ["--strength", 0.5]):
        assert command(*common, "--noise", 0.1, *flags) == 2
        assert "--settle and --strength are of replacement" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sampler", "steps", "gray_levels"),
    [
        ("ddim", 60, 12),
        ("dpmpp", 20, 2),
        *(pytest.param(name, 20, 2, marks=pytest.mark.slow) for name in ("heun", "unipc")),
    ],
)
def test_interpolate_ends_in_the_images(run, digits, tmp_path, capsys, sampler, steps, gray_levels):
    images = read(digits)
    np.savez(tmp_path / "a.npz", images[:1])
    np.savez(tmp_path / "b.npz", images[1:2])
    out = tmp_path / "i.png"
    ends = ["--a", tmp_path / "a.npz", "--b", tmp_path / "b.npz"]
    few = ["--steps", 3, "--sampler", sampler, "--num-steps", steps]
    done(capsys, "interpolate", "--run", run, *ends, "--output", out, *few)
    frames = made(out).astype(int)
    assert frames.shape == (3, 8, 8, 1)
    assert np.abs(frames[0] - images[0]).mean() < gray_levels
    assert np.abs(frames[2] - images[1]).mean() < gray_levels
    assert command("interpolate", "--run", run, "--a", digits, "--b", tmp_path / "b.npz", "--output", out) == 2
    assert "--a and --b must hold as many images, got 3 and 1" in capsys.readouterr().err


def test_sdedit_leaves_more_of_the_input_the_less_it_noises(run, digits, tmp_path, capsys):
    out, off = tmp_path / "e.png", []
    for strength in (0.1, 1.0):
        common = ["sdedit", "--run", run, "--input", digits, "--output", out, "--num-steps", 10]
        done(capsys, *common, "--strength", strength, "--label", 3)
        off.append(np.abs(made(out).astype(int) - read(digits)).mean())
    assert off[0] < off[1] / 2


def test_likelihood(run, digits, tmp_path, capsys):
    out = tmp_path / "l.json"
    loose = ["--tolerance", 0.1]
    line = done(capsys, "likelihood", "--run", run, "--num-images", 3, "--output", out, *loose)
    assert "bits/dim (standard error" in line
    assert "over 3 images of digits of scikit-learn, test split" in line
    result = json.loads(out.read_text())
    assert len(result["bits_per_dim"]) == 3
    assert result["mean"] == pytest.approx(np.mean(result["bits_per_dim"]))
    labeled = done(capsys, "likelihood", "--run", run, "--num-images", 3, "--labeled", *loose)
    assert labeled != line
    beside = digits.with_suffix(".json")  # of the same name as what is read, and no harm to it
    plain = done(capsys, "likelihood", "--run", run, "--input", digits, *loose, "--output", beside)
    assert "digits.npz" in plain
    assert done(capsys, "likelihood", "--run", run, "--input", digits, "--label", 3, *loose) != plain


def test_likelihood_by_the_bound_and_with_learned_noise(run, digits, tmp_path, capsys):
    out, common = tmp_path / "l.json", ["likelihood", "--run", run, "--input", digits, "--num-images", 2]
    done(capsys, *common, "--tolerance", 0.01, "--output", out)
    flow = json.loads(out.read_text())
    line = done(capsys, *common, "--method", "bound", "--num-times", 60, "--output", out)
    assert "at most" in line
    assert "61 network evaluations" in line
    bound = json.loads(out.read_text())
    assert (bound["method"], bound["trace"], bound["tolerance"], bound["num_times"]) == ("bound", None, None, 60)
    assert bound["mean"] > flow["mean"] - 1  # of two models, the SDE's and the flow's
    learned = ["--dequantization", "variational", "--dequantization-steps"]
    few = done(capsys, *common, "--method", "bound", *learned, 1)
    assert done(capsys, *common, "--method", "bound", *learned, 1) == few
    done(capsys, *common, "--tolerance", 0.01, *learned, 3, "--output", out)
    assert json.loads(out.read_text())["dequantization"] == "variational, 1 draws"


def test_what_is_asked_takes_the_place_of_the_runs_own():
    own = SamplingConfig(sampler="reverse_diffusion", corrector="langevin", snr=0.1, num_steps=9, guidance=2.0)
    assert merged(own, SamplingConfig(num_steps=5)) == replace(own, num_steps=5)
    assert merged(own, SamplingConfig(sampler="reverse_diffusion")) == own
    assert merged(own, SamplingConfig(sampler="ddim")) == SamplingConfig(sampler="ddim", guidance=2.0)
    without = replace(own, corrector="none", snr=None)
    assert merged(own, SamplingConfig(corrector="none")) == without


def test_guidance_needs_a_model_that_is_told_classes(color_run, tmp_path, capsys):
    assert command("sample", "--run", color_run, "--output", tmp_path / "s.png", "--guidance", 2) == 2
    assert "--guidance stresses a class, and this model is not conditioned on classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ("sample --output x.jpg", "--output must end in .png, got x.jpg"),
        ("sample --num-samples 0", "--num-samples must be at least 1, got 0"),
        ("sample --sampler magic", "predictor must be one of "),
        ("sample --eta 1", "predictor 'heun' takes ['churn', "),
        ("sample --sampler dpmpp --order 4", "order must be one of 1, 2, 3, got 4"),
        ("sample --snr 1 --sampler ddim", "snr goes with a corrector, got none"),
        ("sample --classes 3 10", "--classes must be in 0..9, got [3, 10]"),
        ("inpaint --input {digits} --mask {mask}", "must be 8x8 as the images, got 8x7"),
        ("inpaint --input {digits} --mask {gray}", "a mask must hold 0 and 1 only"),
        ("inpaint --input {digits} --mask top", "--mask must be one of upper, lower, "),
        ("inpaint --input {mixed}", "is 9 x 8 where"),
        ("inpaint --input {small}", "images must be 1x8x8 here, got 1x4x4"),
        ("inpaint --input none.npz", "none.npz: cannot be read as images"),
        ("sdedit --input {digits} --strength 0", "--strength must be in (0, 1], got 0"),
        ("sdedit --input {digits} --label 12", "--label must be in 0..9, got 12"),
        (
            "interpolate --a {digits} --b {digits} --churn 1",
            "interpolate goes there and back without it: leave out --churn",
        ),
        ("interpolate --a {digits} --b {digits} --guidance 2", "leave out --guidance"),
        ("sample --sampler none", "sampler none leaves the samples to a corrector"),
        ("sample --sampler ode --num-steps 4", "--num-steps does nothing where the sampler chooses its own steps"),
        ("class-conditional --classes 3 10", "--classes must be in 0..9, got [3, 10]"),
        (
            "class-conditional --classifier-scale 2",
            "--classifier-config and --classifier-scale go with --classifier",
        ),
        ("class-conditional --classifier none.pt2", "none.pt2: no such file; expected a classifier"),
        ("inpaint --input {digits} --output {over}", "would write over --input"),
        ("interpolate --a {digits} --b {digits} --guidance 0", "leave out --guidance"),
        ("likelihood --label 3", "--label goes with --input"),
        ("likelihood --num-times 3", "--num-times does nothing without --method bound"),
        ("likelihood --dequantization-steps 3", "does nothing without --dequantization variational"),
        ("likelihood --method bound --trace exact", "--trace does nothing without --method flow"),
        ("likelihood --input {digits} --labeled", "--labeled goes with the run's own data"),
    ],
)
def test_a_mistake_is_one_line(run, digits, tmp_path, capsys, monkeypatch, args, match):
    monkeypatch.chdir(tmp_path)
    np.save("mask.npy", np.zeros((8, 7), dtype=np.uint8))
    np.save("gray.npy", np.full((8, 8), 2, dtype=np.uint8))
    (tmp_path / "mixed").mkdir()
    for width in (8, 9):
        Image.new("L", (width, 8)).save(tmp_path / "mixed" / f"{width}.png")
    places = {
        "digits": digits,
        "over": digits.with_suffix(".png"),
        "mask": "mask.npy",
        "gray": "gray.npy",
        "mixed": "mixed",
        "small": "small.npy",
    }
    name, *flags = args.format(**places).split()
    output = [] if "--output" in flags or name == "likelihood" else ["--output", "x.png"]
    assert command(name, "--run", run, *flags, *output) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert match in error
    assert not (tmp_path / "x.png").exists()


def test_a_missing_run_is_one_line(tmp_path, capsys):
    assert command("sample", "--run", tmp_path / "none", "--output", tmp_path / "x.png") == 2
    assert "none: no checkpoint (best or last) in this run; expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ("sample --churn-min 1", "churn_min goes with churn, got None; give --churn"),
        ("sample --churn-noise 1 --churn-max 2 --churn 0", "churn_max, churn_noise goes with churn, got 0"),
        ("inpaint --input {digits} --settle-snr 0.1", "--settle-snr does nothing without --settle"),
        (
            "inpaint --input {digits} --settle 1 --settle-snr 0.1 --corrector langevin",
            "--settle-snr is not for the corrector langevin; give --snr",
        ),
        ("inverse --input {digits} --measurements 3", "--measurements does nothing without --problem compressed"),
        (
            "inverse --input {digits} --factor 2 --problem compressed-sensing",
            "--factor does nothing without --problem super-resolution",
        ),
        ("likelihood --input {digits} --split train", "--split is of the run's own data"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(run, digits, tmp_path, capsys, args, match):
    name, *flags = args.format(digits=digits).split()
    output = [] if name == "likelihood" else ["--output", tmp_path / "x.png"]
    assert command(name, "--run", run, *flags, *output) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert match in error


@pytest.mark.parametrize("name", ["inpaint", "sdedit", "inverse"])
def test_some_images_of_a_split_are_taken(run, tmp_path, capsys, name):
    out = tmp_path / "x.png"
    common = [name, "--run", run, "--output", out, "--sampler", "ancestral", "--num-steps", 2]
    line = done(capsys, *common, "--input", "digits", "--split", "test", "--num-images", 3)
    assert f"{name}: 3 images 1x8x8" in line
    if name == "inpaint":
        test = load_images("digits", "test").images[:3].permute(0, 2, 3, 1).numpy()
        assert np.array_equal(made(out)[:, :4], test[:, :4])


def test_one_image_has_no_split(run, tmp_path, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    flags = ["--input", tmp_path / "one.png", "--output", tmp_path / "x.png", "--split", "test"]
    assert command("inpaint", "--run", run, *flags) == 2
    assert "one.png: is one image; --split is of data sets" in capsys.readouterr().err
