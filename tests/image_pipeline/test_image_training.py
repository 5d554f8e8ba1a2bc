"""`train` of images: resumed equals uninterrupted, presets and flags, held-out images, and its mistakes."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from image_runs import TINY, command, train
from PIL import Image
from script_tools import assert_same, tensors
from small_models import small_model

from image_pipeline.commands.parsing import parse
from image_pipeline.configs import PRESETS, from_json, preset
from image_pipeline.data import ImageBatch, ImageBatches, load_images
from image_pipeline.data.splits import hold_out
from image_pipeline.model import ImageModel
from image_pipeline.models.loading import load_model
from pcdiff.config import to_json
from pcdiff.diffusion import PROCESSES
from pcdiff.errors import InputError
from pcdiff.training import checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with a validation in its middle."""
    return train(tmp_path_factory.mktemp("runs") / "whole", "--max-iters", 6, "--val-every", 3)


def test_resumed_equals_uninterrupted(whole, tmp_path):
    out = tmp_path / "parts"
    train(out, "--max-iters", 6, "--val-every", 3, "--max-minutes", 1e-6)  # stopped after a step
    assert tensors(out)["model.denoiser.net.conv_in.weight"].shape == (8, 1, 3, 3)
    assert json.loads((out / "training.json").read_text())["training"]["ended"] == "time is up"
    assert command("train", "--resume", out, "--max-minutes", 10) == 0
    assert_same(tensors(out), tensors(whole))
    assert np.array_equal(np.load(out / "samples.npz")["arr_0"], np.load(whole / "samples.npz")["arr_0"])
    _, metadata = checkpoint.read(whole / "checkpoints" / "last.safetensors")
    assert metadata["best"]["step"] in (3, 6)
    assert metadata["best"]["score"] == metadata["best"]["loss"]


def test_a_run_cannot_end_before_where_it_is(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = (run / "config.json").read_text()
    assert command("train", "--resume", run, "--max-iters", 2) == 2
    assert "max_iters 2: " in (error := capsys.readouterr().err)
    assert error.rstrip().endswith("last.safetensors is at step 6 already")
    assert (run / "config.json").read_text() == before


def test_parts_of_a_batch_make_the_same_step(tmp_path):
    flags = ["--max-iters", 2, "--model.dropout", 0, "--num-samples", 1]
    out, plain = train(tmp_path / "parts", *flags, "--accumulate", 2), train(tmp_path / "plain", *flags)
    for name, value in tensors(plain).items():
        if name.startswith("model."):
            torch.testing.assert_close(tensors(out)[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_model_is_rebuilt_from_its_own_config(whole):
    model = load_model(whole, "last")
    averaged = tensors(whole)
    for name, value in model.state_dict().items():
        assert torch.equal(value, averaged[f"ema.{name}"])
    rebuilt = from_json(model.metadata["config"], "here")
    assert rebuilt == model.config
    assert type(rebuilt.model) is type(preset("digits/quick").model)
    raw = load_model(whole / "checkpoints" / "last.safetensors", ema=False)
    assert torch.equal(raw.denoiser.net.conv_in.weight, averaged["model.denoiser.net.conv_in.weight"])


def test_held_out_images_are_not_trained_on():
    dataset = load_images("digits")
    used, kept = hold_out(dataset, 100)
    assert (len(used), len(kept)) == (1398, 100)
    again = torch.cat([used.labels, kept.labels]).bincount()
    assert torch.equal(again, dataset.labels.bincount())
    assert len(hold_out(dataset, 10**6)[1]) == 149  # a tenth at most


def test_dry_run_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("train", *TINY, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("preset digits/quick, but ")
    assert "model.model_channels 8" in shown
    assert "images found: 1490 to train on, 8 held out (digits of scikit-learn, " in shown
    assert '"preset"' not in shown
    assert "batch: 16 images" in shown
    assert "dry run: nothing was written" in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_rebuilt_from_its_json(name):
    config = PRESETS[name]
    assert config.preset == name
    assert from_json(json.loads(to_json(config)), name) == config


@pytest.mark.parametrize("name", sorted(name for name in PRESETS if "/" in name or name == "mnist"))
def test_a_presets_parts_go_together(name):
    """With a narrow net of the same kind: what decides whether the parts fit stays."""
    config = PRESETS[name]
    width, narrow = ("model_channels", 8) if config.net == "song" else ("nf", 4)
    if config.net in ("unet", "ddpm"):
        width, narrow = ("model_channels" if config.net == "unet" else "nf"), 32
    blocks = [key for key in ("num_res_blocks", "num_blocks") if hasattr(config.model, key)]
    net = dataclasses.replace(config.model, **{width: narrow}, **dict.fromkeys(blocks, 1))
    levels = len(getattr(net, "ch_mult", getattr(net, "channel_mult", "four")))
    shape = (net_channels(net), *[max(8, 2 ** (levels - 1))] * 2)
    model = ImageModel(dataclasses.replace(config, model=net), shape)
    labels = torch.tensor([1, 2]) if model.num_classes else None
    augmentation = torch.zeros(2, 9) if config.data.augment is not None else None
    batch = ImageBatch(torch.rand(2, *shape), labels, augmentation)
    terms = model.loss_terms(batch, **model.draw(batch, 2, torch.Generator().manual_seed(0)))
    assert terms["loss"].isfinite()
    model.check_sampling()


def net_channels(config):
    return getattr(config, "num_channels", getattr(config, "in_channels", None))


def test_flags_override_a_preset():
    config = parse(
        ["train", "--preset", "vp/cifar10_ddpmpp_continuous", "--model.nf", "64", "--process.beta-max", "10"]
    )
    assert (config.model.nf, config.process.beta_max, config.train.lr) == (64, 10.0, 2e-4)
    config = parse(["train", "--net", "ddpm", "--model.nf", "32", "--lr", "1e-4", "--objectives", "dsm"])
    assert (config.net, config.model.nf, config.train.lr) == ("ddpm", 32, 1e-4)
    assert config.objective.objectives == ("dsm",)


@pytest.mark.parametrize("predicts", [None, "eps"])
@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_another_process_or_prediction_drops_what_does_not_belong(name, predicts):
    """As --net does: neither the old one's options nor a sampler that does not fit are in the way."""
    asked = [] if predicts is None else ["--process.predicts", predicts]
    config = parse(["train", *TINY[:4], "--process.name", name, *asked])
    model = ImageModel(config, (1, 8, 8))
    if (name, predicts) == ("rectified_flow", "eps"):  # it would train, and never give an image
        with pytest.raises(InputError, match="does not determine the data at the start of RectifiedFlow"):
            model.check_sampling()
    else:
        model.check_sampling()
    own = preset("digits/quick")
    assert config.process.predicts == (predicts or "edm")
    assert config.process.sigma_data == (None if predicts else own.process.sigma_data)
    assert config.process.sigma_max == (own.process.sigma_max if name == own.process.name else None)
    assert config.sampling.guidance == own.sampling.guidance
    assert config.sampling.sampler == (
        None if name == "rectified_flow" else "heun"
    )  # without variable="t" it has no start


def test_a_prediction_that_cannot_start_is_replaced_with_the_process():
    config = parse(["train", "--preset", "vp/cifar10_ddpmpp_continuous", "--process.name", "rectified_flow"])
    assert (config.process.predicts, config.process.time_input) == ("velocity", "999t")


def test_what_a_refusal_asks_for_has_a_flag():
    straight = ["train", *TINY[:4], "--process.name", "rectified_flow", "--num-steps", "4"]
    for flags in (["--sampler", "heun", "--variable", "t"], ["--sampler", "euler_maruyama", "--flow", "True"]):
        ImageModel(parse([*straight, *flags]), (1, 8, 8)).check_sampling()


def test_a_net_told_of_augmentations_draws_without_them(tmp_path):
    out = tmp_path / "run"
    narrow = "--net song --model.model-channels 8 --model.channel-mult 1 1 --model.num-blocks 1".split()
    narrow += "--model.in-channels 1 --model.out-channels 1 --model.augment-dim 9 --augment 0.5".split()
    assert command("train", *TINY[4:], *narrow, "--max-iters", 2, "--out", out) == 0
    model = load_model(out, "last")
    assert model.denoiser.net.augment_embed.weight.shape == (8, 9)
    assert np.load(out / "samples.npz")["arr_0"].shape == (4, 8, 8, 1)


def test_several_objectives_are_weighted():
    flags = "--objectives simple edm --weights 1 0.25 --model.model-channels 8 --model.norm-groups 4".split()
    model = ImageModel(parse(["train", *flags]), (1, 8, 8))
    batch = ImageBatches(load_images("digits"), 4, 0)(0)
    terms = model.loss_terms(batch, **model.draw(batch, 4, torch.Generator().manual_seed(0)))
    assert float(terms["loss"].detach()) == pytest.approx(float((terms["simple"] + 0.25 * terms["edm"]).detach()))


def test_compile_means_the_net(monkeypatch):
    model, asked = ImageModel(preset("digits/quick"), (1, 8, 8)), []
    monkeypatch.setattr(model.denoiser.net, "compile", lambda **options: asked.append(options))
    model.compile(mode="default")  # a loss is no forward pass: compiling the model itself would do nothing
    assert asked == [{"mode": "default"}]


def test_labels_are_dropped_for_the_share_asked_for():
    model = ImageModel(preset("digits/quick"), (1, 8, 8))
    seen = []
    model.denoiser.net.register_forward_pre_hook(lambda net, args: seen.append(args[2]))
    batch = ImageBatches(load_images("digits"), 512, 0)(0)
    model.loss_terms(batch, **model.draw(batch, 512, torch.Generator().manual_seed(0)))
    (cond,) = seen
    dropped = cond == 10
    assert abs(float(dropped.float().mean()) - 0.1) < 0.05
    assert torch.equal(cond[~dropped], batch.labels[~dropped])


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--preset", "mnist9"], "--preset must be one of bedroom, celeba, "),
        (["--net", "vgg"], "--net must be one of ddpm, "),
        (["--process.name", "vq"], "process must be one of ddpm, edm, ncsn, "),
        (["--objectives", "hinge"], "objective must be one of "),
        (["--weights", "1", "2"], "weights must be one for each of the objectives ['regression']"),
        (["--process.beta-min", "0.1"], "process 'edm' takes ['sigma_min', "),
        (["--process.name", "ddpm", "--process.sigma-max", "9"], "process 'ddpm' takes ['schedule', "),
        (["--process.predicts", "previous"], "predicts 'previous' does not fit the process EDMProcess"),
        (["--process.name", "rectified_flow", "--sampler", "heun"], "take variable='t', without churn"),
        (["--process.name", "rectified_flow", "--sampler", "euler_maruyama"], "take flow=True"),
        (
            ["--model.num-classes", "7"],
            "the net is conditioned on 7 classes, the images have 10; take --model.num-classes 10",
        ),
        (["--model.in-channels", "3"], "the net unet is for 3 channels, the images have 1"),
        (["--augment", "0.1"], "takes augmentation labels: --net song with --model.augment-dim 9"),
        (["--augment", "1.1"], "augment must be a probability in [0, 1], got 1.1"),
        (["--sampler", "nope"], "predictor must be one of "),
        (["--sampler", "heun", "--eta", "0.5"], "predictor 'heun' takes ['churn', "),
        (["--grid", "nope"], "grid must be one of "),
        (
            ["--dataset-path", "digits", "--labels", "none"],
            "take --model.num-classes None, and --model.no-null-class",
        ),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (
            ["--held-out", "0", "--val-every", "5"],
            "no image is held out for the validation: --held-out 0 leaves none",
        ),
        (["--dataset-path", "{tmp}/none"], "none does not exist; give a folder, a zip, or one of: digits"),
        (["--dataset-path", "{tmp}/mixed"], "is 9 x 8 where"),
        (["--resume", "{tmp}/none"], "none: not a run's folder (no config.json)"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, monkeypatch, args, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mixed").mkdir()
    for number in range(12):
        Image.new("L", (9 if number == 3 else 8, 8)).save(tmp_path / "mixed" / f"{number}.png")
    given = [arg.format(tmp=tmp_path) for arg in args]
    assert command("train", *([] if "--resume" in args else TINY), *given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert match in error
    assert not (tmp_path / "runs").exists()


def test_a_run_keeps_what_it_is(whole, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    assert command("train", "--resume", copy, "--process.sigma-max", 30) == 2
    assert "process cannot change in a run" in capsys.readouterr().err
    assert command("train", "--out", copy, *TINY) == 2
    assert "holds a run already; --resume" in capsys.readouterr().err


def test_a_checkpoint_that_does_not_fit_is_told(whole, tmp_path, capsys):
    file = tmp_path / "other.safetensors"
    read, metadata = checkpoint.read(whole / "checkpoints" / "last.safetensors")
    metadata["config"]["model"]["model_channels"] = 12
    checkpoint.save(file, read, metadata)
    with pytest.raises(InputError, match=r"other.safetensors: does not fit this model; left over: \[\]"):
        load_model(file)
    metadata["config"] = json.loads(json.dumps({"model": {}, "data": {}}))
    checkpoint.save(file, read, metadata)
    assert command("sample", "--run", file, "--output", tmp_path / "x.png") == 2
    assert "expected an image run's config with net and model" in capsys.readouterr().err
    clouds = small_model({"kind": "gaussian", "encoder_widths": (8,), "latent_dim": 4, "num_steps": 2})
    checkpoint.save(file, clouds.state_dict(), {"config": {"model": {"kind": "gaussian"}}, "step": 1})
    assert command("likelihood", "--run", file) == 2
    assert "expected an image run's config" in capsys.readouterr().err
