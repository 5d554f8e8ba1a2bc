"""The set transformer: what holds of any net of sets, its conditions, and the states of its inducers."""

import copy

import pytest
import torch
import torch.nn.functional as F

from pcdiff.errors import InputError
from pcdiff.nets import SetTransformer, SetTransformerConfig
from pcdiff.nets.activations import GaussianActivation, activation_layer
from pcdiff.nets.set_layers import scaled_group_norm

SIZES = {"width": 16, "depth": 2, "num_heads": 4, "num_inducers": 3, "norm_groups": 4}
KINDS = {
    "inducers": {},
    "silu": {"activation": "silu", "last_norm": False},
    "full": {"attention": "full"},
    "added": {"attention": "full", "time_as": "added", "cond_as": "added", "cond_unit_norm": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind="inducers", cond_dim=5, point_dim=3, **options):
    """Return a net in float64 whose every weight counts: fresh ones start at 0 in part."""
    torch.manual_seed(0)
    net = SetTransformer(SetTransformerConfig(**SIZES | KINDS[kind] | options), cond_dim, point_dim).double()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.3 if weight.dim() > 1 else 0.8)
    return net


def inputs(num_points=7, batch=2, cond_dim=5, point_dim=3):
    draw = torch.Generator().manual_seed(1)
    shapes = (batch, num_points, point_dim), (batch,), (batch, cond_dim)
    x, t, cond = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes)
    return x, t, cond if cond_dim else None


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)  # sums of a few dozen float64 terms of size 10 at most


@every_kind
def test_permuting_points_permutes_the_output_and_points_see_one_another(kind):
    net, (x, t, cond) = make(kind), inputs()
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(3))
    whole = net(x, t, cond)
    same(net(x[:, order], t, cond), whole[:, order])
    moved = x.clone()
    moved[:, 5:] += 1
    assert (net(moved, t, cond)[:, :5] - whole[:, :5]).abs().max() > 1e-3


@every_kind
def test_clouds_do_not_influence_one_another(kind):
    net, (x, t, cond) = make(kind), inputs()
    same(net(x, t, cond)[1:], net(x[1:], t[1:], cond[1:]))


@every_kind
@pytest.mark.parametrize(("num_points", "point_dim"), [(1, 3), (2, 6), (40, 2)])
def test_any_number_of_points_and_coordinates(kind, num_points, point_dim):
    x, t, cond = inputs(num_points, point_dim=point_dim)
    assert make(kind, point_dim=point_dim)(x, t, cond).shape == x.shape
    assert make(kind, point_dim=point_dim, learned_variance=True)(x, t, cond).shape == (
        2,
        num_points,
        2 * point_dim,
    )


@every_kind
def test_time_and_condition_change_the_output_and_every_parameter_counts(kind):
    net, (x, t, cond) = make(kind), inputs()
    whole = net(x, t, cond)
    assert (net(x, t + 0.5, cond) - whole).abs().max() > 1e-3
    assert (net(x, t, cond + 0.5) - whole).abs().max() > 1e-3
    whole.square().mean().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@every_kind
def test_a_fresh_net_starts_near_the_identity_of_its_layers(kind):
    """Full attention answers 0; with inducers the branches are small and no context counts yet."""
    torch.manual_seed(0)
    net, (x, t, cond) = SetTransformer(SetTransformerConfig(**SIZES | KINDS[kind]), 5).double(), inputs()
    out = net(x, t, cond)
    if net.config.attention == "full":
        assert not out.any()
        return
    same(net(x, t + 3, cond - 2), out)
    branch = net.layers[0](net.lift(x), torch.zeros(2, 6, dtype=torch.float64))[0] - net.lift(x)
    assert branch.abs().max() < net.lift(x).abs().max()


@pytest.mark.parametrize("kind", ["inducers", "silu"])
def test_states_of_the_same_points_give_the_same_output_and_others_do_not(kind):
    net, (x, t, cond) = make(kind), inputs()
    states = net.inducer_states(x, t, cond)
    assert [tuple(state.shape) for state in states] == [(2, 3, 16)] * 2
    same(net(x, t, cond, states=states), net(x, t, cond))
    same(net(x, t, cond, states=net.inducer_states(x.flip(1), t, cond)), net(x, t, cond))
    other = inputs(num_points=30)[0]
    assert net(other, t, cond, states=states).shape == other.shape
    assert (net(x, t, cond, states=net.inducer_states(other, t, cond)) - net(x, t, cond)).abs().max() > 1e-3


@pytest.mark.parametrize("entry", ["token", "added"])
def test_a_condition_of_norm_one_is_stretched(entry):
    net, (x, t, cond) = make("full", cond_as=entry), inputs()
    unit = make("full", cond_as=entry, cond_unit_norm=True)
    unit.load_state_dict(net.state_dict())
    same(unit(x, t, cond), net(x, t, cond * 5**0.5))


def test_tokens_and_points_to_be_conditioned_on():
    net, (x, t, cond) = make("full", token_dim=4, point_tokens=True), inputs()
    draw = torch.Generator().manual_seed(5)
    tokens, points = (torch.randn(2, n, d, generator=draw, dtype=torch.float64) for n, d in ((6, 4), (9, 3)))
    whole = net(x, t, {"vector": cond, "tokens": tokens, "points": points})
    # sets, too: their order does not count; their values do
    same(net(x, t, {"vector": cond, "tokens": tokens.flip(1), "points": points.flip(1)}), whole)
    for changed in ({"tokens": tokens.flip(2)}, {"points": points + 1}):
        new = net(x, t, {"vector": cond, "tokens": tokens, "points": points} | changed)
        assert (new - whole).abs().max() > 1e-3


def test_group_norm_over_channels_and_points_is_torchs():
    draw = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(2, 9, 8, generator=draw, dtype=torch.float64)
    scale, shift = torch.randn(2, 2, 8, generator=draw, dtype=torch.float64)
    expected = F.group_norm(x.transpose(1, 2), 4).transpose(1, 2) * scale[:, None] + shift[:, None]
    torch.testing.assert_close(scaled_group_norm(x, scale, shift, 4), expected, rtol=1e-12, atol=1e-12)
    half = scaled_group_norm(x.bfloat16(), scale.bfloat16(), shift.bfloat16(), 4)
    assert half.dtype == torch.bfloat16
    # inputs rounded to 8 bits, |x| <= 7 and factors of at most 3; the statistics are not
    torch.testing.assert_close(half.double(), expected, rtol=2**-7, atol=3 * 7 * 2**-8)


def test_the_gaussian_activation_is_its_formula():
    layer = activation_layer("gaussian").double()
    assert isinstance(layer, GaussianActivation)
    with torch.no_grad():
        layer.width.fill_(1.5)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), (torch.exp(-(x**2) / (2 * 1.5**2)) - 0.7) / 0.28)


@every_kind
def test_computed_anew_gives_the_same_gradients(kind):
    net, (x, t, cond) = make(kind), inputs()
    again = make(kind, checkpoint=True)
    again.load_state_dict(net.state_dict())
    for each in (net, again):
        each.train()(x, t, cond).square().sum().backward()
    for ours, theirs in zip(again.parameters(), net.parameters(), strict=True):
        same(ours.grad, theirs.grad)


@every_kind
def test_bf16_under_autocast_is_near(kind):
    net, (x, t, cond) = make(kind).float(), (v.float() for v in inputs())
    exact = net(x, t, cond)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, t, cond)
    # 8 bits in each of some twenty products one after the other
    assert (half.float() - exact).abs().max() < 20 * 2**-8 * exact.abs().max()


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        ("inducers", "eager"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("full", "eager"), ("inducers", "inductor"))),
        pytest.param("full", "inductor", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own
def test_it_compiles_whole(kind, backend):
    net, (x, t, cond) = make(kind, depth=1), inputs()
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, dynamic=False, backend=backend)
    # inductor's own exp and erf in float64 are a few hundred last bits off: 1e-9 came
    torch.testing.assert_close(compiled(x, t, cond), net(x, t, cond), rtol=1e-7, atol=1e-7)
    for each in (net, compiled):
        each(x, t, cond).square().sum().backward()
    for ours, theirs in zip(compiled.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 18}, "width must be a multiple of num_heads = 4, got 18"),
        ({"width": 20, "num_heads": 5, "norm_groups": 3}, "width must be a multiple of norm_groups = 3, got 20"),
        ({"depth": 0}, "depth must be a positive integer, got 0"),
        ({"attention": "flash"}, r"attention must be one of inducers, full, got 'flash'"),
        ({"activation": "sine"}, r"activation must be one of elu, gaussian"),
        ({"token_dim": 4}, "go with attention full"),
        ({"attention": "full", "token_dim": -1}, "token_dim must be at least 0, got -1"),
    ],
)
def test_settings_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        SetTransformerConfig(**SIZES | options)


def test_inputs_that_do_not_fit():
    x, t, cond = inputs()
    net, full = make(), make("full")
    for wrong, message in (
        ((x[:, :, :2], t, cond), r"x must be \(B, N, 3\), got \(2, 7, 2\)"),
        ((x, t[:1], cond), r"t must be \(B,\) = \(2,\), got \(1,\)"),
        ((x, t, None), r"cond must be \(2, 5\), got None"),
        ((x, t, cond[:, :4]), r"cond must be \(2, 5\), got \(2, 4\)"),
    ):
        for each in (net, full):
            with pytest.raises(InputError, match=message):
                each(*wrong)
    with pytest.raises(InputError, match=r"each of the states must be \(2, M, 16\), got \(1, 3, 16\)"):
        net(x, t, cond, states=net.inducer_states(x[:1], t[:1], cond[:1]))
    with pytest.raises(InputError, match="one for each of the 2 layers, got 1"):
        net(x, t, cond, states=net.inducer_states(x, t, cond)[:1])
    with pytest.raises(InputError, match="states are those of inducers"):
        full.inducer_states(x, t, cond)
    with pytest.raises(InputError, match=r"cond must be vector for this net, got .*'tokens'.* beside it"):
        full(x, t, {"vector": cond, "tokens": x})


@pytest.mark.parametrize("kind", KINDS)
def test_the_derivative_in_the_condition_in_forward_mode(kind):
    net, (x, t, cond) = make(kind), inputs()
    direction = torch.randn(cond.shape, dtype=cond.dtype, generator=torch.Generator().manual_seed(3))
    _, product = torch.func.jvp(lambda c: net(x, t, c), (cond,), (direction,))
    h = 1e-6  # central differences in float64
    across = (net(x, t, cond + h * direction) - net(x, t, cond - h * direction)) / (2 * h)
    assert product.abs().max() > 1e-6
    torch.testing.assert_close(product, across.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own
def test_layers_computed_again_compile_whole(kind):
    net, (x, t, cond) = make(kind, depth=1, checkpoint=True).train(), inputs()
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, dynamic=False, backend="aot_eager")
    for each in (net, compiled):
        each(x, t, cond).square().sum().backward()
    for ours, theirs in zip(compiled.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-6)
