"""The point-voxel net: its options one by one, its derivatives, conditions, any number of points, and refusals."""

import pytest
import torch

from pcdiff.errors import InputError
from pcdiff.nets import PVCNN, PVCNNConfig
from pcdiff.nets.pvcnn_layers import Norm, SetAbstraction

SIZES = {
    "down_channels": (8, 8, 0),
    "down_blocks": (1, 2, 0),
    "down_resolutions": (4, 3, 0),
    "centers": (12, 6, 4),
    "radii": (0.5, 1.0, 2.0),
    "neighbors": (4, 3, 2),
    "down_widths": ("8", "8,16", "16"),
    "up_widths": ("16", "16,8", "8"),
    "up_blocks": (1, 0, 1),
    "up_resolutions": (3, 0, 4),
    "time_dim": 8,
    "head_width": 8,
}
BRANCH = {"time_dim": 16, "branch_depth": 1, "branch_level": 0, "branch_width": 8, "branch_heads": 2}
KINDS = {"pvd": {}, "tiger": {"global_attention": False, **BRANCH}}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind="pvd", cond_dim=0, point_dim=3, dtype=torch.float64, **options):
    """Return a net whose every weight counts: those of a fresh branch start at 0 in part."""
    torch.manual_seed(0)
    net = PVCNN(PVCNNConfig(**SIZES | KINDS[kind] | options), cond_dim, point_dim).to(dtype).eval()
    for name, weight in net.named_parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.3)
        elif name.endswith("squeeze.weight"):  # a single unit: it should not be switched off
            weight.data.abs_()
    return net


def inputs(num_points=20, batch=2, cond_dim=0, point_dim=3, dtype=torch.float64):
    draw = torch.Generator().manual_seed(1)
    shapes = (batch, num_points, point_dim), (batch, cond_dim)
    x, cond = (torch.randn(*shape, generator=draw, dtype=dtype) for shape in shapes)
    return x, torch.arange(batch) * 400 + 3, cond if cond_dim else None


@every_kind
def test_time_and_condition_change_the_output_and_every_parameter_counts(kind):
    net, (x, t, cond) = make(kind, cond_dim=5), inputs(cond_dim=5)
    whole = net(x, t, cond)
    assert whole.shape == x.shape
    assert (net(x, t + 50, cond) - whole).abs().max() > 1e-4
    assert (net(x, t, cond + 0.5) - whole).abs().max() > 1e-4
    whole.square().mean().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias before a norm of one channel a group adds nothing
    assert not [name for name in silent if not name.endswith("bias")]


@every_kind
@pytest.mark.parametrize("num_points", [1, 2, 7, 40])
@pytest.mark.parametrize("repeat", [True, False])
def test_any_number_of_points(kind, num_points, repeat):
    x, t, _ = inputs(num_points)
    out = make(kind, repeat_centers=repeat)(x, t)
    assert out.shape == x.shape
    assert out.isfinite().all()


def test_a_cloud_that_is_one_place_is_no_fault():
    x, t, _ = inputs(5)
    assert make()(torch.ones_like(x), t).isfinite().all()


@every_kind
def test_clouds_do_not_influence_one_another(kind):
    net, (x, t, _) = make(kind), inputs(30)
    torch.testing.assert_close(net(x, t)[1:], net(x[1:], t[1:]), rtol=0, atol=1e-10)


def test_further_numbers_of_a_point_are_features_and_reach_the_last_layers():
    net, (x, t, _) = make(point_dim=5), inputs(point_dim=5)
    out = net(x, t)
    assert out.shape == x.shape
    changed = x.clone()
    changed[..., 3:] += 0.5
    assert (net(changed, t) - out).abs().max() > 1e-4
    # between the coarse features and the layers after them: the time and the two further numbers
    assert net.up[-1].propagation.mlp[0].in_channels == 8 + 8 + 2


OPTIONS = {
    "first_block_only": False,
    "time_at_first_level": True,
    "outer_skip": True,
    "scaled_attention": True,
    "gate_after_attention": False,
    "global_attention": False,
    "attention_levels": (),
    "up_attention_levels": (0,),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_quirk_of_pvds_is_an_option(name):
    theirs, ours, (x, t, _) = make(), make(**{name: OPTIONS[name]}), inputs(30)
    assert getattr(theirs.config, name) == getattr(PVCNNConfig(), name)
    keys = [set(net.state_dict()) for net in (theirs, ours)]
    sizes = [sum(p.numel() for p in net.parameters()) for net in (theirs, ours)]
    if name == "scaled_attention":  # the same weights
        assert sizes[0] == sizes[1]
        ours.load_state_dict(theirs.state_dict())
        assert (ours(x, t) - theirs(x, t)).abs().max() > 1e-6
    else:
        assert sizes[0] != sizes[1]
    gone = {
        "first_block_only": (set(), "down.1.blocks.1"),
        "gate_after_attention": ("down.1.blocks.0.gate", set()),
        "global_attention": ("attention", set()),
        "attention_levels": ("down.1.blocks.0.attention", set()),
        "up_attention_levels": (set(), "up.2.blocks.0.attention"),
    }.get(name)
    if gone is not None:
        for prefix, only in zip(gone, (keys[0] - keys[1], keys[1] - keys[0]), strict=True):
            assert all(key.startswith(prefix) for key in only) if prefix else not only
            assert bool(only) == bool(prefix)
    assert ours(x, t).isfinite().all()


def test_centers_that_lack_repeat_the_first_point():
    x = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [3, 0, 0]]])
    layer = SetAbstraction(0, (8,), num_centers=5, radius=0.5, num_neighbors=2, repeat_centers=True)
    features, centers = layer(x.new_zeros(1, 0, 3), x)
    assert centers[0, :, 0].tolist() == [0, 3, 1, 0, 0]
    assert features.shape == (1, 8, 5)
    assert torch.equal(features[..., 3], features[..., 0])
    layer.repeat_centers = False
    assert layer(x.new_zeros(1, 0, 3), x)[1][0, :, 0].tolist() == [0, 3, 1]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own
@every_kind
def test_the_derivative_in_the_points_is_the_true_one_and_the_originals_another(kind):
    x, t, _ = inputs(14)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    # No neighbor, voxel or maximum changes so near; rounding leaves 1e-16 / h, times steep norms. The branch has
    # sines of ten thousand radians a unit.
    h = 1e-6 if kind == "pvd" else 1e-8
    products = {}
    for legacy in (False, True):
        net = make(kind, legacy_gradients=legacy)
        _, product = torch.func.jvp(lambda at, net=net: net(at, t), (x,), (direction,))
        x_leaf = x.clone().requires_grad_()
        cotangent = torch.ones_like(x).cumsum(1)
        along = (torch.autograd.grad((net(x_leaf, t) * cotangent).sum(), x_leaf)[0] * direction).sum()
        torch.testing.assert_close((product * cotangent).sum(), along, rtol=1e-8, atol=1e-9)
        products[legacy] = product
        with torch.no_grad():
            across = (net(x + h * direction, t) - net(x - h * direction, t)) / (2 * h)
    assert (products[False] - across).abs().max() < 1e-3 * across.abs().max()
    assert (products[True] - products[False]).abs().max() > 1e-3


@every_kind
def test_computing_levels_again_gives_the_same_gradients(kind):
    x, t, _ = inputs(16)
    found = []
    for again in (False, True):
        net = make(kind, checkpoint=again, dropout=0.0, head_dropout=0.0, branch_dropout=0.0).train()
        tracked = x.clone().requires_grad_()  # a derivative in the points takes another attention, twice
        net(tracked, t).square().mean().backward()
        found.append([tracked.grad, *(p.grad for p in net.parameters())])
    for kept, anew in zip(*found, strict=True):
        torch.testing.assert_close(anew, kept, rtol=0, atol=0)


@every_kind
def test_bf16_stays_near_float32_and_keeps_the_places_of_the_points(kind):
    net, (x, t, _) = make(kind, dtype=torch.float32), inputs(30, dtype=torch.float32)
    exact = net(x, t)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x, t)
    assert rough.dtype == torch.float32
    # products of a dozen layers, each rounded to 2^-9; were a point in another voxel, this would not hold
    assert (rough - exact).abs().max() < 0.2 * exact.abs().max()


@pytest.mark.slow
@every_kind
def test_one_graph_is_captured_and_agrees(kind):
    net, (x, t, _) = make(kind, dtype=torch.float32), inputs(dtype=torch.float32)
    torch._dynamo.reset()
    with torch.no_grad():
        captured = torch.compile(net, fullgraph=True, backend="eager")(x, t)
        torch.testing.assert_close(captured, net(x, t), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own
@every_kind
def test_compiled_it_agrees_forwards_and_backwards(kind):
    x, t, _ = inputs(dtype=torch.float32)
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        net = make(kind, dtype=torch.float32)
        out = (torch.compile(net, fullgraph=True) if compiled else net)(x, t)
        out.square().mean().backward()
        found.append((out.detach(), *(p.grad for p in net.parameters())))
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"down_resolutions": (0, 3, 0)}, r"down_resolutions must be at least 1 where there are blocks, got 0"),
        ({"radii": (0.5, 0.0, 1.0)}, r"radii must be above 0, got 0.0"),
        ({"neighbors": (4, 0, 2)}, r"neighbors must be at least 1, got 0"),
        ({"centers": (12, 6)}, r"down_channels must have an entry for each of the 2 levels of centers, got"),
        (
            {"down_widths": ("8", "8;16", "16")},
            r"widths must be whole numbers apart by commas, as 32,64, got '8;16'",
        ),
        ({"up_widths": ("16", "16,12", "8")}, r"up_widths must be multiples of 8, the groups of a norm, got 12"),
        ({"attention_levels": (3,)}, r"attention_levels must be below the 3 levels, got \(3,\)"),
        ({"time_dim": 7}, r"time_dim must be even and at least 4, got 7"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({**BRANCH, "branch_level": 2}, r"branch_level must be at most 1 with 3 levels, got 2"),
        ({**BRANCH, "time_dim": 8}, r"time_dim must be a multiple of 8 above it for the gate of a branch, got 8"),
        ({**BRANCH, "branch_heads": 3}, r"branch_width must be a multiple of branch_heads and of 8, got 8 with 3"),
    ],
)
def test_what_no_net_can_have(options, message):
    with pytest.raises(InputError, match=message):
        PVCNNConfig(**SIZES | options)


def test_shapes_that_do_not_fit():
    x, t, _ = inputs()
    with pytest.raises(InputError, match=r"x must be \(B, N, 3\), got \(2, 20, 2\)"):
        make()(x[..., :2], t)
    with pytest.raises(InputError, match=r"cond must be \(B, F\) = \(2, 5\), got None"):
        make(cond_dim=5)(x, t)
    with pytest.raises(InputError, match=r"cond must be None, got \(2, 3\)"):
        make()(x, t, x[:, 0])
    with pytest.raises(InputError, match=r"point_dim must be at least 3 for a net of voxels, got 2"):
        make(point_dim=2)


def test_a_norm_keeps_its_digits_in_every_layout_of_memory():
    draw = torch.Generator().manual_seed(0)
    # a mean of ten standard deviations: a difference of squares would lose a hundredfold
    x = 10 + torch.randn(2, 8, 6, 6, 6, generator=draw)
    norm = Norm(8)
    exact = Norm(8).double()(x.double())
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        assert (norm(x.contiguous(memory_format=layout)) - exact).abs().max() < 2e-5
    assert not Norm(8)(torch.ones(1, 8, 1)).any()  # of one number
