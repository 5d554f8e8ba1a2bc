"""A chain's denoiser in EDM's noise levels: which step a level is asked at, and the estimate it makes there."""

import pytest
import torch

from pcdiff.diffusion import EDMProcess, NetDenoiser, build_process
from pcdiff.diffusion.denoisers.whole_steps import WholeSteps
from pcdiff.errors import InputError


def noise(x, t, cond=None):
    return 0.5 * torch.ones_like(x)


def make(**options):
    chain = build_process("ddpm", num_steps=10)
    return WholeSteps(NetDenoiser(torch.nn.Identity(), chain, "eps", "step"), **options), chain


def test_a_level_is_asked_at_the_step_at_or_below_it():
    denoiser, chain = make()
    t = torch.arange(1, 11)
    levels = (1 / chain.alpha(t).square() - 1).sqrt()  # sigma / alpha, as the variances add up to 1
    assert denoiser.steps(levels * (1 + 1e-9)).tolist() == t.tolist()
    assert denoiser.steps(levels * (1 - 1e-9)).tolist() == [1, *t[:-1].tolist()]
    assert denoiser.steps(torch.tensor([1e-6, 1e6])).tolist() == [1, 10]


@pytest.mark.parametrize("clip", [None, (-0.2, 0.3)])
def test_the_estimate_is_the_chains_at_that_step(clip, monkeypatch):
    denoiser, chain = make(clip=clip)
    monkeypatch.setattr(denoiser.denoiser.net, "forward", noise)
    x = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.02, 0.2, 0.3], dtype=torch.float64)
    alpha, std = (v[:, None, None] for v in chain.scales(denoiser.steps(sigma)))
    expected = (x / (1 + sigma[:, None, None] ** 2).sqrt() - std * 0.5) / alpha
    expected = expected if clip is None else expected.clamp(*clip)
    torch.testing.assert_close(denoiser(x, sigma), expected)
    torch.testing.assert_close(denoiser.eps(x, sigma), (x - expected) / sigma[:, None, None])
    assert (denoiser.process.sigma_min, denoiser.process.sigma_max) == (0.001, 120.0)


def test_only_chains_have_whole_steps():
    with pytest.raises(InputError, match="whole steps are a chain's, got the process EDMProcess"):
        WholeSteps(NetDenoiser(torch.nn.Identity(), EDMProcess(), "x0", "log_sigma"))
