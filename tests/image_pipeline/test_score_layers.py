"""The parts of the score nets against their formulas, written out with numpy and scipy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import upfirdn

from image_pipeline.nets.blocks import attention_block
from image_pipeline.nets.embeddings import FourierFeatures
from image_pipeline.nets.instance_norm import ConditionalInstanceNormPlus, InstanceNormPlus
from image_pipeline.nets.refinenet import ChainedPooling, Fusion, RefineNet, Stage
from pcdiff.nets.resampling import Downsample, Upsample
from pcdiff.nets.time_embedding import sinusoidal

TAPS = [(1, 3, 3, 1), (1, 2, 1), (1, 1), (1, 2, 3, 4, 5), (0.5, 3, -1, 1)]


def along_both(x, taps, gain, up, down, start, size):
    """Filter rows and columns of `(B, C, H, W)` after putting in zeros and before thinning out (upfirdn)."""
    taps = gain * np.array(taps, dtype=np.float64) / np.sum(taps)
    for axis in (2, 3):
        x = upfirdn(taps, x, up=up, axis=axis)
        x = np.take(x, range(start, start + size * down, down), axis=axis)
    return x


def padded(x, before):
    return np.pad(x, ((0, 0), (0, 0), (before, 0), (before, 0)))


@pytest.mark.parametrize("taps", TAPS)
def test_filtered_halving_and_doubling(taps):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    n = len(taps)
    halved = Downsample(3, fir=taps).double()(x)
    # one output is the filter at two pixels' distance, (n - 1) // 2 zeros before the first
    expected = along_both(padded(x.numpy(), (n - 1) // 2), taps, 1, 1, 2, n - 1, 4)
    torch.testing.assert_close(halved, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)
    doubled = Upsample(3, fir=taps).double()(x)
    start = n - 2 - (n - 1) // 2
    expected = along_both(np.pad(x.numpy(), ((0, 0), (0, 0), (0, 1), (0, 1))), taps, 2, 2, 1, start, 16)
    torch.testing.assert_close(doubled, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("taps", TAPS)
def test_filtered_halving_with_a_convolution_is_filter_then_convolution(taps):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    layer, n = Downsample(3, 5, taps).double(), len(taps)
    filtered = along_both(padded(x.numpy(), (n + 1) // 2), taps, 1, 1, 1, n - 1, 9 if n > 1 else 8)
    expected = F.conv2d(torch.from_numpy(filtered), layer.conv.weight, layer.conv.bias, stride=2)
    assert layer(x).shape == (2, 5, 4, 4)
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)


def test_filtered_doubling_with_a_convolution_is_the_halvings_adjoint():
    """`<down(x), y> = <x, up(y)> / 4` with the kernels turned round: the filter is even, and up has a gain of 4."""
    x, y = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.randn(2, 5, 4, 4, dtype=torch.float64)
    down, up = Downsample(3, 5, (1, 3, 3, 1)).double(), Upsample(5, 3, (1, 3, 3, 1)).double()
    with torch.no_grad():
        up.conv.weight.copy_(down.conv.weight.flip(2, 3).transpose(0, 1))
        for conv in (down.conv, up.conv):  # the affine parts have no adjoint
            conv.bias.zero_()
    torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum() / 4)
    assert up(y).shape == x.shape


@pytest.mark.parametrize("fir", [None, (1, 3, 3, 1)])
def test_a_plain_image_stays_plain(fir):
    x = torch.full((1, 2, 8, 8), 0.7)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    for layer in (Downsample(2, fir=fir), Upsample(2, fir=fir)):
        torch.testing.assert_close(layer(x)[inner], torch.full_like(layer(x), 0.7)[inner])


def test_unfiltered_convolutions_of_halving_and_doubling():
    x = torch.randn(2, 3, 6, 6)
    down, up = Downsample(3, 4), Upsample(3, 4)
    row = F.conv2d(x[:, :, 2:5, 4:6], down.conv.weight[..., :2], down.conv.bias)  # the last column pads with zeros
    torch.testing.assert_close(down(x)[:, :, 1:2, 2:], row)
    torch.testing.assert_close(up(x), up.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3)))


@pytest.mark.parametrize("channels", [8, 9])
def test_sines_and_cosines(channels):
    t = torch.tensor([0.0, 3.0, 999.0])
    out, half = sinusoidal(t, channels, True, 1, rounding="ddpm"), channels // 2
    frequencies = np.logspace(0, -4, half)
    angles = t.numpy()[:, None].astype(np.float64) * frequencies
    np.testing.assert_allclose(out[:, :half], np.sin(angles), atol=1e-4)
    np.testing.assert_allclose(out[:, half : 2 * half], np.cos(angles), atol=1e-4)
    assert out.shape == (3, channels)
    assert (out[:, 2 * half :] == 0).all()
    assert torch.equal(out, sinusoidal(t.long(), channels, True, 1, rounding="ddpm"))


def test_fourier_features():
    torch.manual_seed(0)
    features = FourierFeatures(5000, scale=3.0)
    assert features.frequencies.std() == pytest.approx(3, rel=0.05)
    assert not list(features.parameters())
    sigma = torch.tensor([0.01, 2.0], dtype=torch.float64)
    angles = 2 * math.pi * sigma.log()[:, None] * features.frequencies.double()
    expected = torch.cat([angles.sin(), angles.cos()], dim=1)
    torch.testing.assert_close(features(sigma.log()).double(), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(features.double()(sigma.log()), expected)


def test_instance_norm_plus():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64) * 3 + torch.arange(4.0)[:, None, None]
    label = torch.tensor([2, 0])
    plain, conditional = InstanceNormPlus(4).double(), ConditionalInstanceNormPlus(4, 3).double()
    with torch.no_grad():
        plain.beta.normal_()
        conditional.embed.weight.normal_()
    for norm in (plain, conditional):
        out = norm(x, label).detach()
        for b in range(2):
            if norm is plain:
                gamma, alpha, beta = (v.tolist() for v in (norm.gamma, norm.alpha, norm.beta))
            else:
                gamma, alpha, beta = norm.embed.weight[label[b]].view(3, 4).tolist()
            image = x[b].numpy()
            means, deviations = image.mean((1, 2)), np.sqrt(image.var((1, 2)) + 1e-5)
            beside = (means - means.mean()) / np.sqrt(means.var(ddof=1) + 1e-5)
            for c in range(4):
                h = (image[c] - means[c]) / deviations[c] + alpha[c] * beside[c]
                np.testing.assert_allclose(out[b, c], gamma[c] * h + beta[c], rtol=1e-9)


def test_instance_norm_plus_of_one_channel():
    """The one mean is the mean of the means: nothing is added to the plain normalization."""
    x = torch.randn(2, 1, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = InstanceNormPlus(1).double()
    expected = plain.gamma * torch.nn.functional.instance_norm(x)
    torch.testing.assert_close(plain(x, torch.tensor([0, 0])), expected)
    assert ConditionalInstanceNormPlus(1, 3).double()(x, torch.tensor([2, 0])).isfinite().all()


def test_attention_is_softmax_of_products():
    torch.manual_seed(0)
    block = attention_block(8, init_scale=1.0, rescale=True).double()
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    h = block.norm(x).flatten(2)
    q, k, v = (
        torch.einsum("oc,bcn->bon", w, h) + b[:, None]
        for w, b in zip(block.qkv.weight.chunk(3), block.qkv.bias.chunk(3), strict=True)
    )
    weights = (torch.einsum("bcn,bcm->bnm", q, k) / math.sqrt(8)).softmax(dim=-1)
    h = torch.einsum("oc,bcn->bon", block.proj.weight, torch.einsum("bnm,bcm->bcn", weights, v))
    expected = (x + (h + block.proj.bias[:, None]).view_as(x)) / math.sqrt(2)
    torch.testing.assert_close(block(x), expected)


class Names:
    """Stands for a norm, and writes down of what it is one."""

    def __init__(self):
        self.channels = []

    def __call__(self, channels):
        self.channels.append(channels)
        return Same()


class Same(torch.nn.Module):
    def forward(self, x, label):
        return x


def test_fusion_brings_all_to_the_first_ones_size():
    fusion = Fusion([2, 3], 4, lambda channels: Same())
    x, y = torch.randn(1, 2, 8, 8), torch.randn(1, 3, 4, 4)
    small = fusion.convs[1](y)
    out = fusion([x, y], None) - fusion.convs[0](x)
    torch.testing.assert_close(out[..., 0, 0], small[..., 0, 0])  # corners lie on corners
    torch.testing.assert_close(out[..., -1, -1], small[..., -1, -1])


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_chained_pooling(pool):
    block = ChainedPooling(2, lambda channels: Same(), F.elu, pool)
    x = torch.randn(1, 2, 8, 8)
    pooled = {"max": F.max_pool2d, "avg": F.avg_pool2d}[pool]
    first = block.convs[0](pooled(F.elu(x), 5, 1, 2))
    second = block.convs[1](pooled(first, 5, 1, 2))
    torch.testing.assert_close(block(x, None), F.elu(x) + first + second)


def test_refinenet_has_a_norm_before_every_convolution():
    norms, refine_norms = Names(), Names()
    stages = [Stage(2), Stage(4, halved=True), Stage(6, dilation=2)]
    trunk = RefineNet(stages, [6, 4, 2], norms, refine_norms, F.elu, "max")
    assert norms.channels == [2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6]
    assert len(refine_norms.channels) == 3 * 4 + 2 * (4 + 2) + 3 * 2 + 2 + 2 + 6
    sizes = []
    for blocks in trunk.stages:
        blocks[-1].register_forward_hook(lambda module, args, out: sizes.append(tuple(out.shape[1:])))
    assert trunk(torch.randn(1, 2, 8, 8), None).shape == (1, 2, 8, 8)
    assert sizes == [(2, 8, 8), (4, 4, 4), (6, 4, 4)]
