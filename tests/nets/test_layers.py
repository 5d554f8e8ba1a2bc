"""The layers that nets share: resampling in every rank, activations, and the two roundings of sines and cosines."""

import math

import pytest
import torch
import torch.nn.functional as F
from refusals import refused

from pcdiff.errors import UnknownName
from pcdiff.nets.activations import ACTIVATIONS, activation
from pcdiff.nets.resampling import Downsample, Upsample
from pcdiff.nets.time_embedding import sinusoidal

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_resampling_without_a_convolution_averages_and_repeats(rank):
    x = torch.arange(2.0 * 3 * 4**rank).view(2, 3, *[4] * rank)
    blocks = x
    for dim in range(2, 2 + rank):
        blocks = blocks.unflatten(2 * dim - 2, (2, 2))
    expected = blocks.mean(dim=[3 + 2 * k for k in range(rank)])
    torch.testing.assert_close(Downsample(3, rank=rank)(x), expected)
    doubled = x
    for dim in range(2, 2 + rank):
        doubled = doubled.repeat_interleave(2, dim=dim)
    assert torch.equal(Upsample(3, rank=rank)(x), doubled)
    assert not Downsample(3, rank=rank).state_dict()
    assert not Upsample(3, rank=rank).state_dict()


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_strided_convolutions_pad_as_asked(rank, asymmetric):
    x = torch.randn(2, 3, *[6] * rank, generator=torch.Generator().manual_seed(0))
    layer = Downsample(3, 5, rank=rank, asymmetric_padding=asymmetric)
    wider = torch.zeros(2, 3, *[8] * rank)
    first = 0 if asymmetric else 1  # where the data begin among the zeros
    wider[(..., *[slice(first, first + 6)] * rank)] = x
    whole = CONV[rank](wider, layer.conv.weight, layer.conv.bias)  # at every place, of which every second stays
    torch.testing.assert_close(layer(x), whole[(..., *[slice(0, 6, 2)] * rank)])
    assert set(layer.state_dict()) == {"conv.weight", "conv.bias"}


def test_activations_by_name():
    x = torch.tensor([-2.0, 0.5])
    sigmoid = [1 / (1 + math.exp(2)), 1 / (1 + math.exp(-0.5))]
    expected = {
        "silu": [-2 * sigmoid[0], 0.5 * sigmoid[1]],
        "swish": [-2 * sigmoid[0], 0.5 * sigmoid[1]],
        "relu": [0.0, 0.5],
        "lrelu": [-0.4, 0.5],
        "elu": [math.exp(-2) - 1, 0.5],
        "mish": [v * math.tanh(math.log1p(math.exp(v))) for v in (-2.0, 0.5)],
    }
    expected["gelu"] = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in (-2.0, 0.5)]
    assert set(expected) == set(ACTIVATIONS)
    for name, values in expected.items():
        torch.testing.assert_close(activation(name)(x), torch.tensor(values))
    for name in ("glu", ["silu"], None):
        with refused(UnknownName, what="nonlinearity"):
            activation(name, "nonlinearity")


@pytest.mark.parametrize("rounding", ["adm", "ddpm"])
def test_both_roundings_are_the_formula(rounding):
    """An angle of 1000 radians in float32 is off by its rounding, 2^-24 * 1000, and by its frequency's."""
    t, dim = torch.tensor([0.0, 17.5, 999.0]), 8
    found = sinusoidal(t, dim, sin_first=True, freq_shift=1, rounding=rounding)
    frequencies = 10_000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim // 2 - 1))
    angles = t.double()[:, None] * frequencies
    expected = torch.cat([angles.sin(), angles.cos()], dim=1)
    # the exponent, at most log(10^4) = 9.3, is rounded three times, and its error is the frequency's relative one
    error = 999 * 2**-24 * (3 * 9.3 + 3)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=error)
    assert torch.equal(sinusoidal(t, 9, rounding=rounding)[:, -1], torch.zeros(3))
