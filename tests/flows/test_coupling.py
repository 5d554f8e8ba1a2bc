"""Affine coupling: its layers, and the flows of DPM's code."""

import math

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.flows import CouplingFlow
from pcdiff.flows.coupling import AffineCoupling

DIMS = [2, 3, 8, 9]


def draws(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dim", [0, 1])
def test_coupling_needs_two_dimensions(dim):
    with pytest.raises(InputError, match=f"dim must be at least 2.*{dim}"):
        CouplingFlow(dim)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("dim", [6, 7])
def test_coupling_layer_leaves_its_driver_alone(dim, swap):
    torch.manual_seed(0)
    layer, z = AffineCoupling(dim, 8, swap=swap).double(), draws(5, dim)
    changed = (layer(z)[0] != z).any(dim=0)
    driven = torch.zeros(dim, dtype=torch.bool)
    half = dim - dim // 2
    driven[:half] = swap
    driven[half:] = not swap
    assert torch.equal(changed, driven)


def test_coupling_layer_starts_near_a_scale_of_sigmoid_2():
    layer, z = AffineCoupling(4, 8), draws(5, 4).float()
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    scale = 1 / (1 + math.exp(-2))
    w, log_det = layer(z)
    torch.testing.assert_close(w, torch.cat([z[:, :2], scale * z[:, 2:]], dim=1))
    torch.testing.assert_close(log_det, torch.full((5,), 2 * math.log(scale)))


def golden_flows(golden, odd):
    """Yield the peer's flows of even or odd size: its weights under our names, its arrays in float64."""
    folder, count = golden / "3d/luost26/misc", 0
    for path in sorted(folder.glob("flow_*.npz")):
        arrays = {name: torch.tensor(value).double() for name, value in np.load(path).items()}
        if arrays["z"].shape[1] % 2 != odd:
            continue
        weights = {
            name.removeprefix("sd/").replace("chain.", "layers.").replace("net_s_t.", "net."): arrays.pop(name)
            for name in [name for name in arrays if name.startswith("sd/")]
        }
        depth = 1 + max(int(name.split(".")[1]) for name in weights)
        torch.manual_seed(0)
        flow = CouplingFlow(arrays["z"].shape[1], depth, len(weights["layers.0.net.0.bias"])).double()
        count += 1
        yield flow, weights, arrays
    if not count:
        pytest.skip(f"PCDIFF_GOLDEN: no {'odd' if odd else 'even'} flow_*.npz in {folder}")


@pytest.mark.golden
def test_golden_even_sizes_equal_dpms_flow(golden):
    for flow, weights, arrays in golden_flows(golden, odd=False):
        flow.load_state_dict(weights)
        w, log_det = flow(arrays["z"])
        torch.testing.assert_close(w, arrays["w"], rtol=1e-5, atol=1e-6)
        # its delta_logp is what remains of an initial 0 after the log-determinant is taken off
        torch.testing.assert_close(-log_det, arrays["delta_logp"][:, 0], rtol=1e-5, atol=1e-6)
        z, log_det = flow.inverse(arrays["w"])
        torch.testing.assert_close(z, arrays["reverse_of_w"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(-log_det, arrays["reverse_delta_logp"][:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.golden
def test_golden_odd_sizes_are_invertible_here_and_not_in_dpm(golden):
    for flow, weights, arrays in golden_flows(golden, odd=True):
        z = arrays["z"]
        assert (arrays["reverse_of_w"] - z).abs().max() > 1e-2
        torch.testing.assert_close(flow.inverse(flow(z)[0])[0], z, rtol=0, atol=1e-10)
        # DPM's weights for an odd size belong to no invertible flow: they are refused, not misread
        with pytest.raises(RuntimeError, match="size mismatch"):
            flow.load_state_dict(weights)
