"""The presets' own sampling, and what is taken for a checkpoint without a config, end at the data."""

from dataclasses import asdict, replace

import pytest
import torch

from image_pipeline.configs import PRESETS
from image_pipeline.models.loading import _suited
from pcdiff.diffusion import (
    VE,
    Denoiser,
    EDMProcess,
    NoiseLevels,
    build_process,
    geometric_sigmas,
)
from pcdiff.models.default_sampling import sampler_of


def process_of(config):
    options = {k: v for k, v in asdict(config).items() if v is not None}
    for name in ("predicts", "time_input", "sigma_data"):
        options.pop(name, None)
    return build_process(options.pop("name"), **options)


class Corners(Denoiser):
    """The exact denoiser of data at -1 and 1, each number by itself."""

    def forward(self, x, t, cond=None):
        alpha, sigma = (v.view(-1, *[1] * (x.dim() - 1)) for v in self.process.scales(t))
        return (alpha * x / sigma.square()).tanh()


@pytest.mark.parametrize(
    "name", sorted(name for name in PRESETS if name.startswith("ve/") and "continuous" in name)
)
def test_ve_presets_take_every_step_of_their_chain_to_the_data(name):
    process, sampler = process_of(PRESETS[name].process), sampler_of(PRESETS[name].sampling)
    assert (sampler.grid_for(process), sampler.grid, sampler.denoise) == ("chain", None, None)
    steps = sampler.predictor.begin(process, sampler.times(process)).steps
    assert steps == [(process.num_scales, k) for k in reversed(range(process.num_scales))]


@pytest.mark.parametrize(
    "process",
    [
        VE(0.01, 10.0, num_scales=330),
        EDMProcess(),
        NoiseLevels(geometric_sigmas(0.01, 10.0, 330)),
        build_process("vp"),
    ],
    ids=["ve", "edm", "ncsn", "vp"],
)
def test_checkpoints_of_others_leave_no_noise(process):
    """Of VE noise of 0.01 was left in every number."""
    sampler = sampler_of(_suited(process))
    draw = torch.Generator().manual_seed(0)
    start = process.prior_sample((2, 3, 2, 2), draw, torch.float64)
    x = replace(sampler, num_steps=sampler.num_steps or 330)(Corners(process), x_init=start, generator=draw)
    assert (x.abs() - 1).abs().max() < 1e-4
