"""Models of diffusers against outputs of its own code, and written back as they were."""

import json

import pytest
import torch
from golden_files import arrays_of as arrays
from golden_files import classes_of, found
from safetensors.torch import load_file

from image_pipeline.interop import diffusers

pytestmark = pytest.mark.golden


def relative(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


def folders(golden):
    return [path for path in found(golden, "2d/diffusers/unet_*") if path.is_dir()]


def parts(folder):
    """Return the model's own folder, and the scheduler's."""
    return (folder / "unet", folder / "scheduler") if (folder / "model_index.json").is_file() else (folder, None)


def test_outputs(golden):
    for folder in folders(golden):
        io = arrays(folder)
        net = diffusers.load(folder).denoiser.net
        with torch.no_grad():
            out = net(io["x"], io["timesteps"], classes_of(io))
            assert relative(out, io["out"]) < 1e-4, folder.name
            labels = io["timesteps"]
            labels = labels.double() if labels.is_floating_point() else labels
            out = net.double()(io["x"].double(), labels, classes_of(io))
        assert relative(out, io["out_f64"]) < 1e-8, folder.name


def test_saved_folders_hold_the_same_weights_and_settings(golden, tmp_path):
    for folder in folders(golden):
        model, scheduler = parts(folder)
        diffusers.save(diffusers.load(folder), tmp_path / folder.name)
        before = load_file(model / diffusers.WEIGHTS)
        after = load_file(tmp_path / folder.name / "unet" / diffusers.WEIGHTS)
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert value.dtype == after[key].dtype
            assert torch.equal(value, after[key]), key
        pairs = [(model / "config.json", "unet/config.json")]
        if scheduler is not None:
            pairs.append((scheduler / "scheduler_config.json", "scheduler/scheduler_config.json"))
            pairs.append((folder / "model_index.json", "model_index.json"))
        for path, name in pairs:
            expected, got = (json.loads(p.read_text()) for p in (path, tmp_path / folder.name / name))
            assert expected == got


def test_saved_folders_open_again(golden, tmp_path):
    for folder in folders(golden):
        io = arrays(folder)
        model = diffusers.load(folder)
        diffusers.save(model, tmp_path / folder.name)
        again = diffusers.load(tmp_path / folder.name)
        assert (again.image_shape, again.data_range) == (model.image_shape, model.data_range)
        asked = io["x"], io["timesteps"], classes_of(io)
        with torch.no_grad():
            assert torch.equal(model.denoiser.net(*asked), again.denoiser.net(*asked))


def test_diffusers_itself_opens_what_is_saved(golden, tmp_path):
    theirs = pytest.importorskip("diffusers", reason="diffusers is not installed: its own reading is untested")
    for folder in folders(golden):
        io = arrays(folder)
        diffusers.save(diffusers.load(folder), tmp_path / folder.name)
        net = theirs.UNet2DModel.from_pretrained(tmp_path / folder.name / "unet")
        with torch.no_grad():
            out = net(io["x"], io["timesteps"], classes_of(io)).sample
        assert relative(out, io["out"]) < 1e-4
