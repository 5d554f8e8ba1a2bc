"""One property suite for every flow: a new flow is one line in `FLOWS`."""

import io
import math

import numpy as np
import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.flows import CouplingFlow, standard_normal_log_prob
from pcdiff.flows.coupling import AffineCoupling

FLOWS = {
    "coupling, even depth": lambda dim: CouplingFlow(dim, depth=4, hidden_dim=16),
    "coupling, odd depth": lambda dim: CouplingFlow(dim, depth=3, hidden_dim=16),
    "coupling, one layer": lambda dim: CouplingFlow(dim, depth=1, hidden_dim=16),
    "coupling, default depth": lambda dim: CouplingFlow(dim, hidden_dim=16),
}
DIMS = [2, 3, 8, 9]

every_flow = pytest.mark.parametrize("name", list(FLOWS))
every_dim = pytest.mark.parametrize("dim", DIMS)


def make(name, dim, seed=0):
    torch.manual_seed(seed)
    return FLOWS[name](dim).double()


def draws(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_flow
@every_dim
def test_shapes(name, dim):
    flow = make(name, dim)
    for direction in (flow, flow.inverse):
        v, log_det = direction(draws(5, dim))
        assert v.shape == (5, dim)
        assert log_det.shape == (5,)
    assert flow.log_prob(draws(5, dim)).shape == (5,)


@every_flow
@every_dim
def test_inverse_undoes_forward_both_ways(name, dim):
    flow, z = make(name, dim), draws(16, dim)
    w, log_det = flow(z)
    assert (w - z).abs().max() > 1e-2  # not the identity
    back, inverse_log_det = flow.inverse(w)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow(flow.inverse(z)[0])[0], z, rtol=0, atol=1e-10)


@every_flow
@every_dim
def test_log_det_is_that_of_autograds_jacobian(name, dim):
    flow = make(name, dim)
    for direction in (flow, flow.inverse):
        for v in draws(3, dim):
            jacobian = torch.autograd.functional.jacobian(lambda u, d=direction: d(u[None])[0][0], v)
            expected = torch.linalg.slogdet(jacobian)
            torch.testing.assert_close(direction(v[None])[1][0], expected.logabsdet, rtol=0, atol=1e-9)


@every_flow
@every_dim
def test_every_parameter_gets_a_gradient(name, dim):
    flow = make(name, dim)
    flow.log_prob(draws(32, dim)).mean().backward()
    silent = [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@every_flow
@every_dim
def test_samples_do_not_influence_one_another(name, dim):
    flow, z = make(name, dim), draws(6, dim)
    torch.testing.assert_close(flow.log_prob(z)[3:4], flow.log_prob(z[3:4]), rtol=0, atol=1e-12)


@every_flow
def test_density_integrates_to_one(name):
    flow = make(name, 2)
    side = torch.linspace(-24, 24, 321, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        total = flow.log_prob(grid).exp().sum() * (side[1] - side[0]).square()
    assert abs(total - 1) < 1e-2


@every_flow
@every_dim
def test_log_prob_is_change_of_variables(name, dim):
    flow, z = make(name, dim), draws(4, dim)
    w, log_det = flow(z)
    normal = torch.distributions.Normal(0, 1).log_prob(w).sum(dim=1)
    torch.testing.assert_close(flow.log_prob(z), normal + log_det)


@every_flow
@every_dim
def test_save_and_load(name, dim):
    flow, file = make(name, dim), io.BytesIO()
    torch.save(flow.state_dict(), file)
    other = make(name, dim, seed=99)
    z = draws(4, dim)
    assert not torch.equal(other(z)[0], flow(z)[0])
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(z)[0], flow(z)[0])


@every_flow
@pytest.mark.parametrize("direction", ["forward", "inverse", "log_prob"])
@pytest.mark.parametrize("shape", [(4, 5), (4,), (4, 6, 1)])
def test_wrong_shapes_are_named(name, direction, shape):
    with pytest.raises(InputError, match=r"must be \(B, 6\)") as caught:
        getattr(make(name, 6), direction)(torch.zeros(shape, dtype=torch.float64))
    assert str(tuple(shape)) in str(caught.value)


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


@pytest.mark.parametrize("name", [name for name in FLOWS if "one layer" not in name])
@every_dim
def test_every_coordinate_is_transformed(name, dim):
    """Odd sizes too: a coordinate that no layer drives would keep a standard normal prior for ever."""
    z = draws(5, dim)
    w, _ = make(name, dim)(z)
    assert ((w - z).abs() > 1e-6).any(dim=0).all()


def test_standard_normal_log_prob_counts_its_constant_once():
    w = draws(3, 7)
    expected = torch.distributions.MultivariateNormal(torch.zeros(7).double(), torch.eye(7).double()).log_prob(w)
    torch.testing.assert_close(standard_normal_log_prob(w), expected)
    assert standard_normal_log_prob(torch.zeros(1, 4)).item() == pytest.approx(-2 * math.log(2 * math.pi))


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
