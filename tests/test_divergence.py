"""The divergence against autograd's Jacobian, and Hutchinson's estimate against its own moments."""

import math

import pytest
import torch

from pcdiff.diffusion import divergence as module
from pcdiff.diffusion.divergence import EXACT_LIMIT, TRACES, Probes, check_trace, divergence, trace_probes
from pcdiff.errors import InputError

DRAWN = ["gaussian", "rademacher"]


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixing(x):
    """Every coordinate of a sample moves every other."""
    flat = x.flatten(1)
    return (torch.tanh(flat @ draws(flat.shape[1], flat.shape[1])) * flat.sum(dim=1, keepdim=True)).view_as(x)


def pointwise(x):
    return torch.tanh(x @ draws(x.shape[-1], x.shape[-1])) + x.square()


def jacobian_trace(field, x):
    jacobians = [torch.autograd.functional.jacobian(lambda v: field(v[None])[0], sample) for sample in x]
    return torch.stack([j.reshape(x[0].numel(), -1).trace() for j in jacobians])


@pytest.mark.parametrize("dims", [(4,), (5, 3), (2, 3, 4)])
@pytest.mark.parametrize("chunk", [1, 50, 2**24])
def test_exact_is_the_jacobians_trace(dims, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    x = draws(3, *dims, seed=1)
    value, trace = divergence(mixing, x, trace_probes("exact", x))
    torch.testing.assert_close(value, mixing(x))
    torch.testing.assert_close(trace, jacobian_trace(mixing, x))


@pytest.mark.parametrize("num_points", [1, 2, 5])
def test_pointwise_is_exact_where_points_move_alone(num_points):
    x = draws(3, num_points, 3, seed=1)
    probes = trace_probes("pointwise", x)
    assert probes.vectors.shape == (3, 3, num_points, 3)
    torch.testing.assert_close(divergence(pointwise, x, probes)[1], jacobian_trace(pointwise, x))


@pytest.mark.parametrize("trace", DRAWN)
def test_the_estimate_is_unbiased_with_hutchinsons_variance(trace):
    """Of a linear field: 2 ||S||_F^2 for normal probes, without the diagonal for signs, S the symmetric part."""
    matrix = draws(6, 6, seed=3)
    symmetric = (matrix + matrix.T) / 2
    x, count = draws(1, 6), 20_000
    drawn = trace_probes(trace, x, count, torch.Generator().manual_seed(0)).vectors
    each = ((drawn @ matrix) * drawn).sum(dim=(1, 2))
    off_diagonal = symmetric - (trace == "rademacher") * symmetric.diag().diag()
    variance = 2 * off_diagonal.square().sum()
    assert abs(each.mean() - matrix.trace()) < 5 * math.sqrt(variance / count)
    assert each.var() == pytest.approx(variance.item(), rel=0.1)
    estimate = divergence(lambda v: v @ matrix.T, x, Probes(drawn, 1 / count))[1]
    torch.testing.assert_close(estimate, each.mean()[None])


@pytest.mark.parametrize("trace", DRAWN)
def test_probes_take_their_draw_from_the_generator(trace):
    before, x = torch.get_rng_state(), draws(2, 5, 3)
    a, b, c = (trace_probes(trace, x, 2, torch.Generator().manual_seed(seed)).vectors for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert a.shape == (2, 2, 5, 3)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("trace", TRACES)
def test_gradients_flow_where_they_are_asked_for(trace):
    x = draws(2, 4, 3, seed=1)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    probes = trace_probes(trace, x, generator=torch.Generator().manual_seed(0))

    def total(scale, x):
        return divergence(lambda v: scale * pointwise(v).tanh(), x, probes)[1]

    assert torch.autograd.gradcheck(total, (scale, x.requires_grad_()))
    with torch.no_grad():
        value, trace_ = divergence(lambda v: scale * pointwise(v), x, probes)
    assert not value.requires_grad
    assert not trace_.requires_grad


@pytest.mark.parametrize(
    ("trace", "dims", "count", "message"),
    [
        ("hutchinson", (3,), 1, f"trace must be one of .*{TRACES[0]}.* got 'hutchinson'"),
        ("exact", (EXACT_LIMIT + 1,), 1, f"at most {EXACT_LIMIT} dimensions .*'rademacher'"),
        ("pointwise", (3, 4, 4), 1, r"needs clouds \(B, N, D\), got \(B, 3, 4, 4\)"),
        ("gaussian", (3,), 0, "num_probes must be at least 1, got 0"),
    ],
)
def test_unfit_traces_are_named(trace, dims, count, message):
    with pytest.raises(InputError, match=message):
        check_trace(trace, torch.Size(dims), count)
