"""Every golden image checkpoint goes through our own format, and answers as before to the bit."""

import pytest
import torch
from golden_files import adm_settings, arrays_of, found

from image_pipeline.interop import LOADERS, load, native

pytestmark = pytest.mark.golden

# by kind: where its files lie, and what they are called
PLACES = {
    "score_sde": [("score_sde", "*.pth")],
    "ncsn": [("ncsn", "*.pth"), ("ncsnv2", "*.pth")],
    "adm": [("guided_diffusion", "guided_*.pt"), ("guided_diffusion", "improved_*.pt")],
    "diffusers": [("diffusers", "unet_*")],
    "abarankab": [("extras", "abarankab_*.pth")],
}


def checkpoints(golden, kind):
    """Yield every checkpoint with its config, if it has one beside it, and the images it was asked with."""
    for path in found(golden, *(f"2d/{folder}/{name}" for folder, name in PLACES[kind])):
        if path.is_dir() or path.suffix in (".pth", ".pt"):
            config = path.with_suffix(".json")
            settings = adm_settings(path) if kind == "adm" else config if config.is_file() else None
            yield path, settings, arrays_of(path)["x"]


@pytest.mark.parametrize("kind", PLACES)
def test_every_checkpoint_comes_back(golden, kind, tmp_path):
    for number, (path, config, x) in enumerate(checkpoints(golden, kind)):
        # the weights' average and the weights in turn: which are taken, test_golden_score_nets.py compares
        for ema in (number % 2 == 0,) if LOADERS[kind].both else (True,):
            model = load(kind, path, config, ema)
            native.save(tmp_path / "ours.safetensors", model)
            again = native.load(tmp_path / "ours.safetensors")
            process = model.denoiser.process
            t = torch.linspace(0.05, 1, len(x), dtype=torch.float64) * process.T
            t = t if process.num_steps is None else t.ceil().long()
            s = t / 2 if t.is_floating_point() else t - 1
            cond = torch.arange(len(x)) % model.num_classes if model.num_classes else None
            with torch.no_grad():
                assert torch.equal(again.denoiser(x, t, cond), model.denoiser(x, t, cond)), path.name
                kernels = [m.denoiser.reverse_kernel(x, t, s, cond) for m in (again, model)]
            for got, expected in zip(*kernels, strict=True):
                assert torch.equal(got, expected), path.name
            for fact in ("data_range", "image_shape", "name", "num_classes", "ema"):
                assert getattr(again, fact) == getattr(model, fact)
