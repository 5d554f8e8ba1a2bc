"""Checkpoints of score_sde, NCSN and NCSNv2 opened here give the outputs and scores of their own code."""

import json

import pytest
import torch
from cases import first
from golden_files import arrays_of, found

from image_pipeline.interop import ncsn, score_sde

pytestmark = pytest.mark.golden


def cases(golden, folder):
    """Yield name, checkpoint, config and recorded arrays of every net in a folder."""
    for checkpoint in found(golden, f"2d/{folder}/*.pth"):
        yield checkpoint.stem, checkpoint, checkpoint.with_suffix(".json"), arrays_of(checkpoint)


def close(ours, theirs, rtol):
    """Compare within rtol of each image's largest value."""
    assert ours.shape == theirs.shape
    error, size = ((v.double()).abs().flatten(1).amax(dim=1) for v in (ours.double() - theirs, theirs))
    assert (error <= rtol * size).all(), float((error / size).max())


@pytest.mark.parametrize("which", first(1, ["ema", "model"]))
def test_score_sdes_nets_and_scores(golden, which):
    for _, checkpoint, config, io in cases(golden, "score_sde"):
        model = score_sde.load(checkpoint, json.loads(config.read_text()), ema=which == "ema")
        denoiser, x, labels = model.denoiser, io["x"], io["labels_used"]
        process = denoiser.process
        with torch.no_grad():
            close(denoiser.net(x, labels), io[f"raw_{which}"], 1e-4)
            if process.num_steps is None:
                score = denoiser.score(x, io["t"])
            else:
                # between two steps of the chain score_sde feeds the fraction, but divides by the first one's sigma
                t = io["t"].double() * (int(io["N"]) - 1) + 1
                score = -denoiser.eps(x, t) / process.sigma(t.floor())[:, None, None, None]
            close(score, io[f"score_{which}"], 1e-4)
            close(denoiser.net.double()(x.double(), labels), io[f"raw_{which}_f64"], 1e-8)
        assert model.image_shape == tuple(x.shape[1:])
        assert model.ema == (which == "ema")
        assert model.num_classes is None
        assert not denoiser.training
        settings = json.loads(config.read_text())
        assert model.data_range == ((-1, 1) if settings["data"]["centered"] else (0, 1))


@pytest.mark.parametrize("folder", ["ncsn", "ncsnv2"])
@pytest.mark.parametrize("which", first(1, ["ema", "model"]))
def test_ncsns_scores(golden, folder, which):
    for name, checkpoint, config, io in cases(golden, folder):
        settings = json.loads(config.read_text())
        model = ncsn.load(checkpoint, config, ema=which == "ema")
        key = f"out_{which}" if "out_ema" in io else "out"
        assert model.ema == (key == "out_ema")
        denoiser, x = model.denoiser, io["x"]
        with torch.no_grad():
            close(denoiser.net(x, io["labels"]), io[key], 1e-4)
            t = len(io["sigmas"]) - io["labels"]
            close(denoiser.score(x, t), io[key], 1e-4)
            torch.testing.assert_close(denoiser.process.sigma(t).float(), io["sigmas"][io["labels"]])
            close(denoiser.net.double()(x.double(), io["labels"]), io[f"{key}_f64"], 1e-8)
        assert model.image_shape == tuple(x.shape[1:]), name
        assert model.data_range == ((-1, 1) if settings["data"].get("rescaled") else (0, 1))
        said = settings["model"]
        # without a config ours takes what every published one says; NCSN's file does not hold its levels either
        usual = not settings["data"].get("rescaled") and said.get("nonlinearity", "elu").lower() == "elu"
        in_file = model.name != "ncsn"
        if usual and (in_file or (said["sigma_begin"], said["sigma_end"]) == (1, 0.01)):
            bare = ncsn.load(checkpoint, ema=which == "ema")
            with torch.no_grad():
                close(bare.denoiser.net(x, io["labels"]), io[key], 1e-4)
            assert bare.image_shape == (x.shape[1], None, None)


def test_what_the_files_are_opened_with(golden):
    """Among them are numpy's numbers under both names, and the format before torch 1.6."""
    texts = [checkpoint.read_bytes() for _, checkpoint, _, _ in cases(golden, "score_sde")]
    forms = {
        "numpy.core": any(b"numpy.core.multiarray" in text for text in texts),
        "numpy._core": any(b"numpy._core.multiarray" in text for text in texts),
        "not a zip": any(not text.startswith(b"PK") for text in texts),
    }
    if not all(forms.values()):
        pytest.skip(f"no file of the form {', '.join(name for name, there in forms.items() if not there)}")
