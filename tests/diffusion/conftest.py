"""Every test of the core runs on clouds and on images alike, and where it can on every process."""

import pytest
import torch

from pcdiff.diffusion import DiscreteProcess, NoiseLevels, build_process, linear_betas, spaced_times

MAKERS = {
    "vp": lambda: build_process("vp", beta_min=0.2, beta_max=15.0),
    "vp, constant rate": lambda: build_process("vp", beta_min=3.0, beta_max=3.0),
    "subvp": lambda: build_process("subvp"),
    "ve": lambda: build_process("ve", sigma_min=0.02, sigma_max=12.0),
    "ncsn": lambda: build_process("ncsn", sigma_min=0.02, sigma_max=12.0, num_scales=9),
    "ncsn, one level": lambda: NoiseLevels(torch.tensor([0.7])),
    "ddpm linear": lambda: build_process("ddpm", num_steps=20, beta_1=1e-3, beta_T=0.4),
    "ddpm cosine": lambda: build_process("ddpm", schedule="cosine", num_steps=20),
    "ddpm, one step": lambda: DiscreteProcess(torch.tensor([0.9])),
    "respaced": lambda: DiscreteProcess(linear_betas(100)).respaced(spaced_times(100, "10,5")),
    "rectified_flow": lambda: build_process("rectified_flow"),
    "edm": lambda: build_process("edm"),
}


DIMS = {"cloud (N, 3)": (5, 3), "image (C, H, W)": (2, 3, 4)}


@pytest.fixture(params=DIMS.values(), ids=DIMS)
def dims(request):
    """Return the dimensions of one sample, without the batch."""
    return request.param


@pytest.fixture
def shape(request):
    """Return the same for a test of many cases that take long: a cloud's and an image's in turn."""
    return list(DIMS.values())[sum(request.node.callspec.indices.values()) % 2]


@pytest.fixture(params=sorted(MAKERS))
def process(request):
    """Return a process of each kind."""
    return MAKERS[request.param]()


@pytest.fixture
def processes():
    """Return the makers of all processes by name."""
    return MAKERS
