"""The continuous flow: closed forms, the adjoint's gradients, and what it refuses."""

import math

import pytest
import torch
import torchdiffeq
from torchdiffeq import odeint

from pcdiff.errors import InputError
from pcdiff.flows import ContinuousFlow


def draws(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_flow(dim, time_length):
    """Return a flow whose velocity is linear and still in time, and its matrix."""
    torch.manual_seed(0)
    flow = ContinuousFlow(dim, (), time_length, tolerance=1e-9).double().eval()
    layer = flow.net.layers[0]
    for parameter in (layer.gate.weight, layer.shift.weight, layer.gate.bias, layer.linear.bias):
        torch.nn.init.zeros_(parameter)
    return flow, layer.linear.weight.detach() / 2  # the gate is sigmoid(0)


@pytest.mark.parametrize("time_length", [0.5, 2.0])
def test_a_linear_velocity_is_the_matrix_exponential(time_length):
    flow, matrix = linear_flow(5, time_length)
    z = draws(4, 5)
    w, log_det = flow(z)
    carried = torch.linalg.matrix_exp(time_length * matrix)
    torch.testing.assert_close(w, z @ carried.T, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(log_det, (time_length * matrix.trace()).expand(4), rtol=1e-7, atol=1e-8)
    normal = torch.distributions.MultivariateNormal(
        torch.zeros(5, dtype=torch.float64), torch.linalg.inv(carried.T @ carried)
    )
    torch.testing.assert_close(flow.log_prob(z), normal.log_prob(z), rtol=1e-6, atol=1e-6)


def test_probes_average_to_the_exact_density():
    torch.manual_seed(0)
    flow, z, count = ContinuousFlow(6, (16,), 1.0, tolerance=1e-6).double(), draws(1, 6), 4000
    drawn = flow.log_prob(z.expand(count, 6), torch.Generator().manual_seed(0)).detach()
    spread = drawn.std()
    assert spread > 0.01
    assert abs(drawn.mean() - flow.exact_log_prob(z)) < 5 * spread / math.sqrt(count)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_the_adjoints_gradients_are_those_through_the_solver(training, scale, monkeypatch):
    """Also of losses so small that the adjoint would pass under an absolute tolerance."""
    torch.manual_seed(0)
    flow = ContinuousFlow(5, (16, 16), 1.0).double().train(training)
    z = draws(8, 5).requires_grad_()
    inputs = [z, *flow.parameters()]

    def gradients():
        loss = scale * flow.log_prob(z, torch.Generator().manual_seed(3)).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, inputs)]) / scale

    adjoint = gradients()

    def direct(slope, state, times, *, adjoint_options, adjoint_params, **options):
        return odeint(slope, state.requires_grad_(), times, **options)

    monkeypatch.setattr(torchdiffeq, "odeint_adjoint", direct)
    through = gradients()
    assert (adjoint - through).norm() < 1e-3 * through.norm()


def test_no_graph_of_the_solvers_steps_is_kept():
    """The adjoint's memory: the result hangs on one node, and not on the steps."""
    flow = ContinuousFlow(4, (8,))
    end, _ = flow(draws(3, 4).float(), torch.Generator().manual_seed(0))
    nodes, seen = [end.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [parent for parent, _ in node.next_functions]
    assert any("OdeintAdjoint" in type(node).__name__ for node in seen)
    assert len(seen) < 20


def test_float32_holds_its_tolerance():
    torch.manual_seed(0)
    flow, z = ContinuousFlow(32).eval(), draws(16, 32)
    single = flow.log_prob(z.float())
    double = flow.double().log_prob(z)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_flow_learns_a_density():
    """Maximum likelihood of data far from normal: near its entropy, from more than a nat above."""
    torch.manual_seed(0)
    flow, draw = ContinuousFlow(2, (32, 32), 1.0, tolerance=1e-3), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-2)

    def batch():
        side = torch.randint(2, (128, 1), generator=draw) * 4.0 - 2
        return torch.cat([side, torch.zeros(128, 1)], dim=1) + 0.3 * torch.randn(128, 2, generator=draw)

    losses = []
    for _ in range(40):
        loss = -flow.log_prob(batch(), draw).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    entropy = math.log(2) + math.log(2 * math.pi * math.e * 0.3**2)
    assert losses[0] > entropy + 1
    assert -flow.exact_log_prob(batch()).mean() < entropy + 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim and widths must be at least 1, got 0"),
        ({"widths": (4, 0)}, r"dim and widths must be at least 1, got 3 and \(4, 0\)"),
        ({"time_length": 0.0}, "time_length and tolerance must be positive, got 0.0"),
        ({"tolerance": -1.0}, "time_length and tolerance must be positive, got 0.5 and -1.0"),
        ({"trace": "hutchinson"}, "trace must be one of .*rademacher.*got 'hutchinson'"),
        ({"trace": "pointwise"}, "'rademacher' for a flow, got 'pointwise'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        ContinuousFlow(**{"dim": 3, **options})


def test_a_velocity_that_is_not_finite_is_named():
    flow = ContinuousFlow(3, (4,))
    torch.nn.init.constant_(flow.net.layers[0].linear.weight, math.nan)
    with pytest.raises(InputError, match="the flow's ODE is too rough for tolerance 1e-05"):
        flow(torch.zeros(2, 3))
