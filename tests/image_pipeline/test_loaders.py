"""One call opens every kind of checkpoint, and says what it lacks."""

import pytest
import torch
from foreign_files import checkpoint_of
from refusals import refused

from image_pipeline.interop import LOADERS, load
from pcdiff.errors import InputError, UnknownName


def test_a_kind_is_opened_by_name(tmp_path):
    config, net, checkpoint = checkpoint_of("ncsn")
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    found = load("score_sde", tmp_path / "checkpoint.pth", config, ema=False)
    assert (found.name, found.ema) == ("score_sde ncsn", False)
    assert torch.equal(found.denoiser.net.head.weight, net.head.weight)
    assert load("score_sde", tmp_path / "checkpoint.pth", config).ema


def test_an_unknown_kind_lists_the_known():
    with refused(UnknownName, what="kind", name="ldm"):
        load("ldm", "model.ckpt")


@pytest.mark.parametrize("kind", LOADERS)
def test_what_a_kind_takes(kind, tmp_path):
    path, needs = tmp_path / "none.pt", LOADERS[kind].config
    if needs == "needed":
        with pytest.raises(InputError, match=f"{kind} needs a config, the JSON of"):
            load(kind, path)
    if needs == "none":
        with pytest.raises(InputError, match=f"{kind} takes no config"):
            load(kind, path, {})
    if not LOADERS[kind].both:
        config = {} if needs == "needed" else None
        with pytest.raises(InputError, match=f"{kind}: ema must be true"):
            load(kind, path, config, ema=False)
    with pytest.raises(InputError, match="no such file"):
        load(kind, path, None if needs == "none" else {})
