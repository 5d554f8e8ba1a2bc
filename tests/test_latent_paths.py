"""Paths between codes: their ends, their lengths, their angles."""

import math

import pytest
import torch

from pcdiff.config import ModelConfig
from pcdiff.latent_paths import codes_between, slerp
from pcdiff.models import build_model


def test_a_turn_keeps_length_and_divides_the_angle():
    a = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[0.0, 2.0, 0.0]], dtype=torch.float64)
    for weight in (0.0, 0.25, 0.5, 1.0):
        w = slerp(a, b, torch.tensor(weight))
        expected = 2 * torch.tensor([[math.cos(weight * math.pi / 2), math.sin(weight * math.pi / 2), 0.0]])
        torch.testing.assert_close(w, expected.double(), atol=1e-7, rtol=0)


def test_vectors_on_a_line_are_joined_straight():
    a = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    b = torch.tensor([[2.0, 4.0], [-1.0, -2.0]])
    torch.testing.assert_close(slerp(a, b, torch.tensor(0.5)), (a + b) / 2)


@pytest.mark.parametrize("flow", ["coupling", "cnf"])
def test_the_spherical_path_is_a_turn_in_the_base(flow):
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(latent_dim=4, flow=flow, flow_depth=3, flow_hidden_dim=8, cnf_widths=(8,))
    ).eval()
    a, b = torch.randn(2, 5, 4)
    codes = codes_between(model, a, b, 5, "spherical")
    assert torch.equal(codes[0], a)
    assert torch.equal(codes[-1], b)
    with torch.no_grad():
        middle = slerp(model.latent_to_base(a), model.latent_to_base(b), torch.tensor(0.5))
        torch.testing.assert_close(model.latent_to_base(codes[2]), middle, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model.base_to_latent(model.latent_to_base(a)), a, rtol=1e-3, atol=1e-3)


def test_the_linear_path_is_even():
    a, b = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    steps = codes_between(None, a, b, 4).diff(dim=0)
    torch.testing.assert_close(steps, ((b - a) / 3).expand(3, 3, 4), rtol=1e-4, atol=1e-5)
