"""The pointwise net: each point alone, any number of them, and the concat-squash formula itself."""

import math

import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.nets import PointwiseNet
from pcdiff.nets.pointwise import concat_squash

LATENT = 6

every_kind = pytest.mark.parametrize(("residual", "frequencies"), [(True, 0), (False, 0), (True, 3)])


def make(residual=True, point_dim=3, widths=(8, 16, 8), frequencies=0):
    torch.manual_seed(0)
    return PointwiseNet(LATENT, point_dim, widths, residual, frequencies).double()


def inputs(batch=3, num_points=12, point_dim=3, seed=1):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, num_points, point_dim, generator=draw, dtype=torch.float64)
    t = torch.rand(batch, generator=draw, dtype=torch.float64)
    cond = torch.randn(batch, LATENT, generator=draw, dtype=torch.float64)
    return x, t, cond


@every_kind
def test_a_points_output_does_not_depend_on_the_others(residual, frequencies):
    net, (x, t, cond) = make(residual, frequencies=frequencies), inputs()
    moved = x.clone()
    moved[:, 5:] += 100.0
    torch.testing.assert_close(net(x, t, cond)[:, :5], net(moved, t, cond)[:, :5], rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_points", [1, 7, 8, 30])
def test_both_ways_to_a_layer_are_its_formula(num_points):
    draw = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(8, 5).double()
    h, gate, shift = (
        torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()
        for shape in ((3, num_points, 8), (3, 5), (3, 5))
    )
    rest = (gate, shift, layer.weight, layer.bias)
    torch.testing.assert_close(
        concat_squash(h, layer, gate, shift), layer(h) * gate[:, None] + shift[:, None], rtol=1e-12, atol=1e-12
    )

    def output(h, gate, shift, *parameters):
        return concat_squash(h, layer, gate, shift)

    assert torch.autograd.gradcheck(output, (h, *rest))


def test_jacobian_is_block_diagonal_over_points():
    net, (x, t, cond) = make(), inputs(batch=1, num_points=4)
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v, t, cond), x)[0, :, :, 0]
    for i in range(4):
        for j in range(4):
            assert jacobian[i, :, j].any() == (i == j)


def test_clouds_do_not_influence_one_another():
    net, (x, t, cond) = make(), inputs()
    alone = net(x[1:2], t[1:2], cond[1:2])
    torch.testing.assert_close(net(x, t, cond)[1:2], alone, rtol=0, atol=1e-12)


def test_permuting_points_permutes_the_output():
    net, (x, t, cond) = make(), inputs()
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(net(x[:, order], t, cond), net(x, t, cond)[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_points", [0, 1, 7, 500])
@pytest.mark.parametrize("point_dim", [2, 3, 6])
@pytest.mark.parametrize("frequencies", [0, 2])
def test_any_number_of_points_and_coordinates(num_points, point_dim, frequencies):
    x, t, cond = inputs(num_points=num_points, point_dim=point_dim)
    assert make(point_dim=point_dim, frequencies=frequencies)(x, t, cond).shape == x.shape


def test_residual_adds_the_input_and_nothing_else():
    x, t, cond = inputs()
    torch.testing.assert_close(make(residual=True)(x, t, cond), x + make(residual=False)(x, t, cond))


def test_output_follows_time_and_latent():
    net, (x, t, cond) = make(), inputs()
    given = net(x, t, cond)
    assert not torch.allclose(given, net(x, t + 0.5, cond))
    assert not torch.allclose(given, net(x, t, cond + 0.5))


@every_kind
def test_every_parameter_gets_a_gradient(residual, frequencies):
    net, (x, t, cond) = make(residual, frequencies=frequencies), inputs()
    net(x, t, cond).square().mean().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    # one matrix holds the gates and shifts of every layer: each layer's rows must be alive
    for rows in (*net.gate.weight.grad.split(net.out_sizes), *net.shift.weight.grad.split(net.out_sizes)):
        assert rows.any()


@pytest.mark.parametrize("frequencies", [0, 3])
def test_gradients_match_finite_differences(frequencies):
    net, (x, t, cond) = make(widths=(4,), frequencies=frequencies), inputs(batch=2, num_points=3)
    arguments = tuple(v.requires_grad_() for v in (x, t, cond))
    assert torch.autograd.gradcheck(net, arguments)


def test_concat_squash_written_out_point_by_point():
    """Luo & Hu (2021), supplement: h = (W h + b) * sigmoid(G c + g) + S c, leaky ReLU between layers."""
    net, (x, t, cond) = make(), inputs(batch=2, num_points=3)
    result = torch.empty_like(x)
    for b in range(2):
        c = torch.cat([torch.stack([t[b], t[b].sin(), t[b].cos()]), cond[b]])
        for n in range(3):
            h, first = x[b, n], 0
            for i, layer in enumerate(net.layers):
                rows = slice(first, first + layer.out_features)
                gate = 1 / (1 + torch.exp(-(net.gate.weight[rows] @ c + net.gate.bias[rows])))
                h = (layer.weight @ h + layer.bias) * gate + net.shift.weight[rows] @ c
                if i + 1 < len(net.layers):
                    h = torch.where(h > 0, h, 0.01 * h)
                first = rows.stop
            result[b, n] = x[b, n] + h
    torch.testing.assert_close(net(x, t, cond), result)


def test_frequencies_are_octaves_of_sines_and_cosines_beside_each_coordinate():
    x = inputs(batch=1, num_points=2)[0]
    features = make(frequencies=3).features(x)
    assert features.shape == (1, 2, 3 + 2 * 3 * 3)
    for n in range(2):
        angles = [math.pi / 2 * 2**k * float(v) for v in x[0, n] for k in range(3)]
        expected = [*x[0, n].tolist(), *map(math.sin, angles), *map(math.cos, angles)]
        torch.testing.assert_close(features[0, n], torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(make().features(x), x)


@pytest.mark.parametrize("shape", [(3, 12), (3, 12, 2), (3, 3, 12, 1)])
def test_wrong_clouds_are_named(shape):
    _, t, cond = inputs()
    with pytest.raises(InputError, match=r"x must be \(B, N, 3\)") as caught:
        make()(torch.zeros(shape, dtype=torch.float64), t, cond)
    assert str(tuple(shape)) in str(caught.value)


@pytest.mark.parametrize("shape", [(3, LATENT + 1), (2, LATENT), (LATENT,), None])
def test_wrong_conditions_are_named(shape):
    x, t, _ = inputs()
    cond = None if shape is None else torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(InputError, match=r"cond must be \(B, F\) = \(3, 6\), got") as caught:
        make()(x, t, cond)
    assert str(shape) in str(caught.value)
