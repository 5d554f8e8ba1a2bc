"""The commands of `python -m image_pipeline` without a run of ours: presets, data sets, other people's weights."""

import json
import re
import zipfile

import pytest
import torch
from foreign_files import checkpoint_of
from image_runs import command, train
from PIL import Image
from refusals import refused

from image_pipeline.commands import convert
from image_pipeline.commands.parsing import COMMANDS
from image_pipeline.configs import PRESETS
from image_pipeline.interop import Imported, diffusers, native
from image_pipeline.models.loading import load_model, of_imported
from image_pipeline.nets import build_model
from image_pipeline.viz import grid, save_trajectory
from pcdiff.diffusion import VE, NetDenoiser, build_process
from pcdiff.errors import InputError, UnknownName

NAMES = set(COMMANDS)


def done(capsys, *args):
    assert command(*args) == 0
    return capsys.readouterr().out


def test_configs_lists_every_preset(capsys):
    shown = done(capsys, "configs").splitlines()
    assert [line.split()[0] for line in shown[1:]] == list(PRESETS)
    one = json.loads(done(capsys, "configs", "--preset", "ve/cifar10_ncsnpp_continuous"))
    assert one["process"]["sigma_max"] == 50.0
    assert one["train"]["max_iters"] == 1_300_000
    assert command("configs", "--preset", "none") == 2
    assert "--preset must be one of" in capsys.readouterr().err


def test_prepare_and_dump(tmp_path, capsys):
    (tmp_path / "few").mkdir()
    for number in range(7):
        Image.new("L", (8, 6), number).save(tmp_path / "few" / f"{number}.png")
    line = done(capsys, "prepare", "--source", tmp_path / "few", "--output", tmp_path / "d.zip", "--size", 4)
    assert "7 images 1x4x4" in line
    with zipfile.ZipFile(tmp_path / "d.zip") as archive:
        assert json.loads(archive.read("manifest.json"))["count"] == 7
    line = done(capsys, "dump", "--source", tmp_path / "d.zip", "--output", tmp_path / "loose")
    assert "6 images of split train (no split of its own: 1 of 7" in line
    assert "image_00000.png to image_00005.png" in line
    assert len(list((tmp_path / "loose").glob("*.png"))) == 6
    line = done(capsys, "dump", "--source", tmp_path / "d.zip", "--output", tmp_path / "all", "--split", "all")
    assert "7 images of split all" in line
    assert command("prepare", "--source", "digits", "--output", tmp_path / "d.tar") == 2
    assert "--output must end in .zip" in capsys.readouterr().err


def test_noise_scales(capsys):
    assert "21 levels at a ratio of" in done(capsys, "noise-scales", "--source", "digits")


def imported(process, image_shape=(1, 8, 8), data_range=(-1.0, 1.0), predicts="eps", label="log_snr"):
    torch.manual_seed(0)
    widths = {"model_channels": 8, "channel_mult": [1], "attention_factors": [], "norm_groups": 4}
    net = build_model("unet", in_channels=1, out_channels=1, **widths)
    return Imported(NetDenoiser(net, process, predicts, label), data_range, image_shape, "theirs")


@pytest.mark.parametrize("name", ["ddpm", "vp", "ve", "edm", "ncsn"])
def test_other_peoples_weights_sample(name, tmp_path, capsys):
    options = {"num_steps": 4} if name == "ddpm" else {"num_scales": 5 if name == "ncsn" else 30}
    native.save(tmp_path / "theirs.safetensors", imported(build_process(name, **options)))
    common = ["--run", tmp_path / "theirs.safetensors", "--output", tmp_path / "s.png", "--device", "cpu"]
    assert "1 images 1x8x8" in done(capsys, "sample", *common, "--num-samples", 1)
    assert command("likelihood", "--run", tmp_path / "theirs.safetensors") == 2
    assert "no record of what it was trained on; give --input" in capsys.readouterr().err


def test_what_an_imported_model_must_say(tmp_path):
    with pytest.raises(InputError, match="has no size of its images; convert it again with --size"):
        of_imported(imported(VE(), image_shape=(1, None, None)), tmp_path)
    with refused(UnknownName, name=(0.0, 255.0)):
        of_imported(imported(VE(), data_range=(0.0, 255.0)), tmp_path)


def test_convert(tmp_path, capsys):
    config, net, foreign = checkpoint_of("ddpm")
    torch.save(foreign, tmp_path / "x.pth")
    (tmp_path / "c.json").write_text(json.dumps(config))
    flags = ["--kind", "score_sde", "--input", tmp_path / "x.pth", "--config", tmp_path / "c.json", "--no-ema"]
    line = done(capsys, "convert", *flags, "--output", tmp_path / "y.safetensors")
    assert "score_sde ddpm, " in line
    assert "(weights), process DiscreteProcess, images 2x8x8 in [-1.0, 1.0], classes None" in line
    model = load_model(tmp_path / "y.safetensors")
    x, steps = torch.rand(2, 2, 8, 8), torch.tensor([1, 8])
    assert torch.equal(model.denoiser.eps(x, steps), net(x, steps.float() - 1))
    assert model.config.sampling.sampler == "ancestral"
    assert command("convert", *flags, "--size", 16, "--output", tmp_path / "z.safetensors") == 2
    assert "x.pth: its images are 8x8, got --size 16" in capsys.readouterr().err
    assert not (tmp_path / "z.safetensors").exists()


CHAIN = "--process.name ddpm --process.num-steps 6 --process.sigma-min None --process.sigma-max None".split()
CHAIN += "--process.predicts eps --process.time-input step --process.sigma-data None --time-draw uniform".split()
CHAIN += "--objectives simple --sampler ancestral --num-steps None --guidance None".split()
CHAIN += "--model.num-classes None --model.no-null-class".split()


def test_a_run_becomes_a_folder_of_diffusers(tmp_path, capsys):
    run = train(tmp_path / "run", *CHAIN)
    capsys.readouterr()
    flags = ["convert", "--input", run, "--to", "diffusers"]
    line = done(capsys, *flags, "--output", tmp_path / "theirs")
    assert "pcdiff digits/quick" in line
    assert "(moving average), process DiscreteProcess, images 1x8x8 in [-1.0, 1.0]" in line
    index = json.loads((tmp_path / "theirs" / "model_index.json").read_text())
    assert index["_class_name"] == "DDPMPipeline"
    ours, theirs = load_model(run).denoiser, diffusers.load(tmp_path / "theirs").denoiser
    torch.testing.assert_close(theirs.process.betas, ours.process.betas, rtol=1e-10, atol=0)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 6])
    with torch.no_grad():
        assert torch.equal(theirs.eps(x, t), ours.eps(x, t))
        plain = load_model(run, ema=False).denoiser.eps(x, t)
    done(capsys, *flags, "--no-ema", "--output", tmp_path / "plain")
    with torch.no_grad():
        assert torch.equal(diffusers.load(tmp_path / "plain").denoiser.eps(x, t), plain)
        assert not torch.equal(plain, ours.eps(x, t))
    done(capsys, "convert", "--input", run, "--output", tmp_path / "one.safetensors")  # or one file of ours
    done(
        capsys, "convert", "--input", tmp_path / "one.safetensors", "--to", "diffusers", "--output", tmp_path / "b"
    )
    for name in ("unet/config.json", "scheduler/scheduler_config.json"):
        assert (tmp_path / "b" / name).read_text() == (tmp_path / "theirs" / name).read_text()


def test_what_diffusers_cannot_express_is_refused(tmp_path, capsys):
    edm, unit = train(tmp_path / "edm"), train(tmp_path / "unit", *CHAIN, "--data-range", "unit")
    capsys.readouterr()
    for run, says in (
        (edm, "EDMProcess"),
        (unit, "DDPMPipeline takes images in [-1.0, 1.0], the model's are in [0.0"),
    ):
        assert command("convert", "--input", run, "--to", "diffusers", "--output", tmp_path / "no") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert says in error
        assert not (tmp_path / "no").exists()
    assert command("convert", "--input", edm, "--size", 8, "--output", tmp_path / "x.safetensors") == 2
    assert "--size is for other people's checkpoints, with --kind" in capsys.readouterr().err
    assert command("convert", "--input", edm, "--output", tmp_path / "x.bin") == 2
    assert "--output must end in .safetensors" in capsys.readouterr().err


def test_a_size_that_no_file_says_must_be_given(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(convert, "load", lambda *args: imported(VE(), image_shape=(1, None, None)))
    flags = ["convert", "--kind", "ncsn", "--input", "x.pth", "--output", tmp_path / "y.safetensors"]
    assert command(*flags) == 2
    assert "x.pth: has no size of its images; give --size" in capsys.readouterr().err
    assert "images 1x16x16 in" in done(capsys, *flags, "--size", 16)
    assert load_model(tmp_path / "y.safetensors").image_shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--kind", "theirs", "--input", "x.pth"], "kind must be one of abarankab, adm, "),
        (["--kind", "ncsn", "--input", "x.pth"], "x.pth: no such file"),
        (["--kind", "ncsn", "--input", "wrong.pth"], "wrong.pth"),
        (["--kind", "score_sde", "--input", "x.pth"], "score_sde needs a config"),
    ],
)
def test_a_wrong_weight_file_is_one_line(tmp_path, monkeypatch, capsys, args, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.pth").write_bytes(b"no checkpoint")
    assert command("convert", *args, "--output", "y.safetensors") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert match in error


def test_grids_and_trajectories(tmp_path):
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 2, 2) * 50
    sheet = grid(images, columns=3)
    assert sheet.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    assert [int(sheet[y, x, 0]) for y, x in ((4, 4), (4, 70), (70, 4))] == [0, 50, 150]
    assert (sheet[70, 140] == 255).all()  # paper
    save_trajectory(tmp_path / "t.gif", [images, images + 1])
    with Image.open(tmp_path / "t.gif") as way:
        assert way.n_frames == 2
    with pytest.raises(InputError, match=r"images must be uint8 \(n, 1 or 3, H, W\)"):
        grid(torch.zeros(2, 2, 2))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_help_speaks_of_images(name, capsys):
    assert command(name, "--help") == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    shown = re.sub(r"--val-(clouds|points) INT Of point clouds; .*?\)", "", text)  # accepted, and without effect
    assert not re.search("cloud|encoder", shown, re.IGNORECASE)


def test_help_lists_every_command(capsys):
    shown = done(capsys, "--help")
    for name in (
        "train sample evaluate likelihood inpaint colorize interpolate sdedit class-conditional inverse configs "
        "convert prepare dump noise-scales"
    ).split():
        assert name in shown
    assert "python -m image_pipeline" in shown
