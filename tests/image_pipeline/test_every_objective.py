"""Every objective on every net and process: it trains a step, or is refused in one line before any work."""

from dataclasses import replace

import pytest
import torch

from image_pipeline.configs import ObjectiveConfig, ProcessConfig, SamplingConfig, preset
from image_pipeline.data import ImageBatch
from image_pipeline.model import ImageModel
from image_pipeline.nets import MODELS
from image_pipeline.training.job import check
from pcdiff.diffusion import OBJECTIVES, PROCESSES
from pcdiff.errors import InputError
from pcdiff.models.denoiser import Objectives

UNET = {"in_channels": 1, "out_channels": 1, "model_channels": 4, "channel_mult": (1, 2), "num_res_blocks": 1}
UNET |= {"norm_groups": 2, "attention_factors": (2,)}
SCORE_UNET = {"num_channels": 1, "nf": 4, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)}
SCORE_UNET |= {"image_size": 8}
SONG = {"in_channels": 1, "out_channels": 1, "model_channels": 4, "channel_mult": (1, 2), "num_blocks": 1}
LEVELS = 10
NETS = {
    "ncsn": {"num_channels": 1, "nf": 2, "num_scales": LEVELS},
    "ncsnv2": {"num_channels": 1, "nf": 2, "num_scales": LEVELS},
    "ddpm": {**SCORE_UNET, "nf": 32, "ch_mult": (1, 1)},
    "ddpmpp": SCORE_UNET,
    "ncsnpp": SCORE_UNET,
    "song": SONG,
    "unet": UNET,
    "unet with a learned variance": {**UNET, "out_channels": 2},
}
LABELS = {"ncsn": "level", "ncsnv2": "level", "ncsnpp": "t"}  # the others read any
# what the guide says of the objectives that do not fit all
FITS = {"elbo": {"ddpm"}, "vlb": {"ddpm", "ncsn"}, "hybrid": {"ddpm", "ncsn"}}


def test_every_net_is_here():
    assert {name.split()[0] for name in NETS} == set(MODELS)


def config(net, process, objectives, **says):
    steps = {"ddpm": {"num_steps": LEVELS, "beta_T": 0.7}}.get(process, {"num_scales": LEVELS})
    kind = net.split()[0]
    return replace(
        preset("digits/quick"),
        net=kind,
        model=MODELS[kind].Config(**NETS[net]),
        process=ProcessConfig(name=process, **{"time_input": LABELS.get(net, "log_snr"), **steps, **says}),
        objective=ObjectiveConfig(objectives=objectives, weights=(1.0,) * len(objectives)),
        sampling=SamplingConfig(),
    )


def refused(*args, **says):
    """Return the line with which a config is refused before anything is computed, or None."""
    try:
        ImageModel(config(*args, **says), (1, 8, 8))
    except InputError as error:
        return str(error)
    return None


# every third pair: each net with two processes or three, each process with two nets or three; the others are slow
PAIRS = [
    pytest.param(net, process, marks=() if (i + j) % 3 == 0 else pytest.mark.slow)
    for i, net in enumerate(NETS)
    for j, process in enumerate(sorted(PROCESSES))
]


@pytest.mark.parametrize(("net", "process"), PAIRS)
def test_it_trains_a_step_or_is_refused_before(net, process):
    torch.manual_seed(0)
    if process == "edm" and LABELS.get(net) == "level":  # its noise levels have no indices
        assert "level" in refused(net, process, ("simple",))
        return
    fit = []
    for name in OBJECTIVES:
        fits = process in FITS.get(name, PROCESSES) and (name != "hybrid" or "variance" in net)
        if fits:
            fit.append(name)
        else:
            assert f"objective '{name}' needs" in refused(net, process, (name,))
    model = ImageModel(config(net, process, tuple(fit)), (1, 8, 8))
    batch = ImageBatch(torch.rand(2, 1, 8, 8) * 2 - 1, None)
    terms = model.loss_terms(batch, **model.draw(batch, 2, torch.Generator().manual_seed(0)))
    assert all(terms[name].isfinite() for name in fit), terms
    terms["loss"].backward()  # of their sum: what is not finite in one is not finite in it
    slopes = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert slopes
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize(
    ("net", "process", "says", "match"),
    [
        ("ncsn", "subvp", {"time_input": "log_snr"}, "time_input must be one of level: the net NCSN reads"),
        (
            "ncsn",
            "edm",
            {"time_input": "edm"},
            "NCSN reads indices of noise levels, which EDMProcess does not have",
        ),
        ("ncsn", "edm", {"time_input": "level"}, "time_input must be one of edm, "),
        ("ncsn", "ve", {"num_scales": 11}, "NCSN has 10 noise levels, too few for the process's 11"),
        ("ncsnpp", "edm", {"time_input": "edm"}, "index, sigma, t: the net NCSNpp reads positive labels"),
        ("ncsnpp", "ncsn", {"time_input": "step"}, "the net NCSNpp reads positive labels, got 'step'"),
        ("unet", "vp", {"sigma_data": 0.7}, "sigma_data goes with predicts edm or objective edm"),
    ],
)
def test_labels_that_a_net_cannot_read_are_refused_before(net, process, says, match):
    line = refused(net, process, ("simple",), **says)
    assert match in line
    assert "\n" not in line


def test_the_objective_edm_weighs_by_the_datas_own_deviation():
    """`(sigma^2 + s^2) / (sigma s)^2` by hand, s = 0.75; at s = 0.5 it is 1.8 to 2.2 times as much."""
    model = ImageModel(config("unet", "vp", ("edm", "simple"), sigma_data=0.75), (1, 8, 8))
    batch = ImageBatch(torch.rand(4, 1, 8, 8) * 2 - 1, None)
    draws = model.draw(batch, 4, torch.Generator().manual_seed(0))
    process, noise = model.denoiser.process, draws["noise"]
    estimate = model.denoiser(process.perturb(batch.images, draws["t"], noise), draws["t"]).detach()
    sigma = process.sigma(draws["t"]) / process.alpha(draws["t"])
    weight = (sigma**2 + 0.75**2) / (sigma * 0.75) ** 2
    expected = (weight * (estimate - batch.images).square().flatten(1).mean(dim=1)).mean()
    found = model.loss_terms(batch, **draws)["edm"].detach()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    config_alone = ObjectiveConfig(objectives=("edm",))
    own = Objectives(config_alone, model.denoiser).functions["edm"]
    assert "sigma_data" not in own.keywords


def test_a_second_derivative_and_compiling_are_refused_together():
    asked = config("unet", "vp", ("sliced",))
    with pytest.raises(InputError, match=r"'sliced' takes a second derivative, .* leave out --compile"):
        check(replace(asked, train=replace(asked.train, compile=True)))
