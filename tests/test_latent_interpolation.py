"""Paths between codes: their ends, and what lies between."""

import pytest
import torch
from small_models import small_model

from pcdiff.diffusion import slerp
from pcdiff.models.latent_interpolation import codes_between


@pytest.mark.parametrize("flow", ["coupling", "cnf"])
def test_the_spherical_path_is_a_turn_in_the_base(flow):
    torch.manual_seed(0)
    model = small_model(
        {"latent_dim": 4, "flow": flow, "flow_depth": 3, "flow_hidden_dim": 8, "cnf_widths": (8,)}
    ).eval()
    a, b = torch.randn(2, 5, 4)
    codes = codes_between(model, a, b, 5, "spherical")
    assert torch.equal(codes[0], a)
    assert torch.equal(codes[-1], b)
    with torch.no_grad():
        middle = slerp(model.latent_to_base(a), model.latent_to_base(b), 0.5)
        torch.testing.assert_close(model.latent_to_base(codes[2]), middle, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model.base_to_latent(model.latent_to_base(a)), a, rtol=1e-3, atol=1e-3)


def test_the_linear_path_is_even():
    a, b = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    steps = codes_between(None, a, b, 4).diff(dim=0)
    torch.testing.assert_close(steps, ((b - a) / 3).expand(3, 3, 4), rtol=1e-4, atol=1e-5)


def test_two_frames_are_the_ends():
    model = small_model({"latent_dim": 4, "kind": "gaussian"}).eval()
    a, b = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    for path in ("linear", "spherical"):
        assert torch.equal(codes_between(model, a, b, 2, path), torch.stack([a, b]))
