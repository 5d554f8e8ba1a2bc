"""Score nets in training: the papers' start, what is learned from it, compilation."""

import pytest
import torch
from cases import first

from image_pipeline.nets import build_model
from image_pipeline.nets.layers import conv, linear, variance_scaling_

UNET = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (8,), "image_size": 16, "dropout": 0.0}
SMALL = {
    "ncsnv2": {"nf": 8},
    "ddpm": {**UNET, "nf": 64, "ch_mult": (1, 1)},
    "ddpmpp": UNET,
    "ncsnpp": {**UNET, "progressive": "output_skip", "progressive_input": "input_skip"},
}


def one_level(net, count):
    """Return a label for each image, the same for all: a noise level, or the first of a table."""
    return torch.ones(count) if getattr(net, "fourier", False) else torch.zeros(count, dtype=torch.long)


def test_variance_scaling():
    torch.manual_seed(0)
    weight = variance_scaling_(torch.empty(64, 32, 3, 3), 0.5)
    assert weight.var() == pytest.approx(0.5 / (9 * 48), rel=0.05)  # over the mean of fan-in and fan-out
    assert weight.abs().max() <= (3 * 0.5 / (9 * 48)) ** 0.5
    near_zero = variance_scaling_(torch.empty(8, 8), 0.0).abs()
    assert 0 < near_zero.max() < 1e-4
    assert conv(3, 4).bias.abs().max() == linear(3, 4).bias.abs().max() == 0


def test_one_forward_compiles_whole():
    net = build_model("ncsnpp", **SMALL["ncsnpp"]).eval()
    x, t = torch.rand(2, 3, 16, 16), one_level(net, 2)
    with torch.no_grad():
        compiled = torch.compile(net, fullgraph=True, backend="eager")(x, t)
        torch.testing.assert_close(compiled, net(x, t), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["ddpm", "ddpmpp", "ncsnpp"])
def test_the_start_says_nothing_yet_every_block_passes_its_input_on(name):
    """Ho et al. start each block's and the net's last layer at zero, or nearly so."""
    net = build_model(name, **SMALL[name])
    x = torch.rand(4, 3, 16, 16)
    assert net(x, torch.ones(4)).abs().max() < 1e-3
    block = net.middle.first
    h = torch.randn(2, block.conv1.in_channels, 8, 8)
    emb = torch.randn(2, block.time.in_features)
    torch.testing.assert_close(block(h, emb), h * block.scale, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", first(1, ["ncsnpp", "ncsnv2", "ddpm"]))
def test_a_net_learns_from_its_start(name):
    """Noise is told from images of one brightness, in seconds; the loss of a net that says 0 is 1."""
    torch.manual_seed(0)
    net = build_model(name, **SMALL[name])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2 if name == "ncsnv2" else 3e-3)
    t = one_level(net, 8)
    sigma = 1.0 if not hasattr(net, "sigmas") else float(net.sigmas[0])
    losses = []
    for _ in range(25):
        noise = torch.randn(8, 3, 8, 8)
        x = 0.5 + 0.2 * torch.randn(8, 1, 1, 1) + sigma * noise
        loss = (sigma * net(x, t) + noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) / 3 < 0.7, losses
