"""Checkpoints of score_sde, NCSN and NCSNv2 opened here give the outputs and scores of their own code."""

import json

import numpy as np
import pytest
import torch

from image_pipeline.interop import ncsn, score_sde

pytestmark = pytest.mark.golden


def cases(golden, folder):
    """Yield name, checkpoint, config and recorded arrays of every net in a folder."""
    found = sorted((golden / "2d" / folder).glob("*_io.npz"))
    for path in found:
        checkpoint = path.with_name(path.name.replace("_io.npz", ".pth"))
        if checkpoint.is_file():  # annealed Langevin and the like have no net
            io = {key: torch.as_tensor(value) for key, value in np.load(path).items()}
            yield checkpoint.stem, checkpoint, checkpoint.with_suffix(".json"), io
    assert found, f"no golden net in {folder}"


def close(ours, theirs, rtol):
    """Compare within rtol of each image's largest value."""
    assert ours.shape == theirs.shape
    error, size = ((v.double()).abs().flatten(1).amax(dim=1) for v in (ours.double() - theirs, theirs))
    assert (error <= rtol * size).all(), float((error / size).max())


@pytest.mark.parametrize("which", ["model", "ema"])
def test_score_sdes_nets_and_scores(golden, which):
    tested = set()
    for _, checkpoint, config, io in cases(golden, "score_sde"):
        found = score_sde.load(checkpoint, json.loads(config.read_text()), ema=which == "ema")
        denoiser, x, labels = found.denoiser, io["x"], io["labels_used"]
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
        assert found.image_shape == tuple(x.shape[1:])
        assert found.ema == (which == "ema")
        assert found.num_classes is None
        assert not denoiser.training
        settings = json.loads(config.read_text())
        assert found.data_range == ((-1, 1) if settings["data"]["centered"] else (0, 1))
        tested.add((type(process).__name__, denoiser.time_input))
    assert tested >= {
        ("VE", "sigma"),
        ("VE", "level"),
        ("VP", "999t"),
        ("SubVP", "999t"),
        ("DiscreteProcess", "step"),
    }


@pytest.mark.parametrize("folder", ["ncsn", "ncsnv2"])
@pytest.mark.parametrize("which", ["model", "ema"])
def test_ncsns_scores(golden, folder, which):
    for name, checkpoint, config, io in cases(golden, folder):
        settings = json.loads(config.read_text())
        found = ncsn.load(checkpoint, config, ema=which == "ema")
        key = f"out_{which}" if "out_ema" in io else "out"
        assert found.ema == (key == "out_ema")
        denoiser, x = found.denoiser, io["x"]
        with torch.no_grad():
            close(denoiser.net(x, io["labels"]), io[key], 1e-4)
            t = len(io["sigmas"]) - io["labels"]
            close(denoiser.score(x, t), io[key], 1e-4)
            torch.testing.assert_close(denoiser.process.sigma(t).float(), io["sigmas"][io["labels"]])
            close(denoiser.net.double()(x.double(), io["labels"]), io[f"{key}_f64"], 1e-8)
        assert found.image_shape == tuple(x.shape[1:]), name
        assert found.data_range == ((-1, 1) if settings["data"].get("rescaled") else (0, 1))
        if not settings["data"].get("rescaled") and (settings["model"]["sigma_begin"] == 1 or "sigmas" in io):
            bare = ncsn.load(checkpoint, ema=which == "ema")
            with torch.no_grad():
                close(bare.denoiser.net(x, io["labels"]), io[key], 1e-4)
            assert bare.image_shape == (x.shape[1], None, None)


def test_what_the_files_are_opened_with(golden):
    """Among them are numpy's numbers under both names, and the format before torch 1.6."""
    texts = [checkpoint.read_bytes() for _, checkpoint, _, _ in cases(golden, "score_sde")]
    assert any(b"numpy.core.multiarray" in text for text in texts)
    assert any(b"numpy._core.multiarray" in text for text in texts)
    assert any(not text.startswith(b"PK") for text in texts)
