"""Foreign weights go in whole and in shape, or not at all."""

import pytest
import torch
from torch import nn

from image_pipeline.interop.weights import fill, named_tensors
from pcdiff.errors import InputError
from pcdiff.runtime.memory_limit import built_for


@pytest.fixture
def net():
    return nn.ModuleDict({"conv": nn.Conv2d(4, 6, 1), "linear": nn.Linear(4, 1), "norm": nn.GroupNorm(1, 4)})


def same_names(net):
    return {key: (key,) for key in net.state_dict()}


def test_a_matrix_and_a_convolution_of_one_pixel_say_the_same(net):
    weights = {key: torch.randn_like(value) for key, value in net.state_dict().items()}
    turned = {**weights, "conv.weight": weights["conv.weight"][..., 0, 0]}
    turned["linear.weight"] = weights["linear.weight"][..., None].double()
    fill(net, same_names(net), turned)
    for key, value in net.state_dict().items():
        assert torch.equal(value, weights[key]), key
        assert value.dtype == torch.float32


def test_parts_are_stacked(net):
    weights = {key: torch.randn_like(value) for key, value in net.state_dict().items()}
    thirds = dict(zip("abc", weights.pop("conv.weight").chunk(3), strict=True))
    fill(net, {**same_names(net), "conv.weight": ("c", "a", "b")}, weights | thirds)
    assert torch.equal(net["conv"].weight, torch.cat([thirds["c"], thirds["a"], thirds["b"]]))


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("linear.weight", (4, 1)),  # as many numbers, but the other way round
        ("norm.weight", (1, 4)),
        ("conv.weight", (4, 6)),
        ("conv.weight", (6, 4, 3, 3)),
        ("linear.bias", ()),
    ],
)
def test_other_shapes_are_refused(net, key, shape):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(InputError, match=rf"weights do not fit the config: {key} has shape .*, expected \("):
        fill(net, same_names(net), {**net.state_dict(), key: torch.zeros(shape)})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_every_key_left_over_or_missing_is_told(net):
    weights = {f"{key}.old": value for key, value in net.state_dict().items()} | {
        str(k): torch.ones(1) for k in range(9)
    }
    with pytest.raises(InputError) as caught:
        fill(net, same_names(net), weights)
    assert all(repr(key) in str(caught.value) for key in [*weights, *net.state_dict()])


def test_a_net_that_cannot_be_built_is_told_and_building_draws_nothing():
    before = torch.get_rng_state()
    built_for({}, lambda: nn.Linear(2, 2))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(InputError, match=r"no net can be built of the config: .*negative"):
        built_for({}, lambda: nn.Linear(-2, 2))


def test_the_wrapper_of_several_devices_leaves_no_trace():
    ones = torch.ones(1)
    assert set(named_tensors({"module.a": ones, "module.b": ones}, "it")) == {"a", "b"}
    assert set(named_tensors({"module.a": ones, "b": ones}, "it")) == {"module.a", "b"}
