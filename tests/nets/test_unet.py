"""The UNet and its classifier over signals, images and volumes: shapes, gradients, classes, precision."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from refusals import refused

from pcdiff.errors import InputError, UnknownName
from pcdiff.nets import ClassifierConfig, EncoderClassifier, UNet, UNetConfig
from pcdiff.nets.attention import SelfAttention
from pcdiff.nets.time_embedding import sinusoidal

BASE = {
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_factors": (2,),
    "norm_groups": 4,
    "num_head_channels": 4,
}
VARIANTS = {
    "adm": {"downsample": "resblock", "upsample": "resblock", "num_classes": 5},
    "ddpm": {
        "scale_shift_norm": False,
        "asymmetric_padding": True,
        "sin_first": True,
        "freq_shift": 1,
        "num_heads": 1,
        "num_head_channels": None,
    },
    "pools": {"downsample": "pool", "upsample": "nearest", "attention_factors": (1,), "out_channels": 6},
    "mixed": {
        "channel_mult": (1, 1.5, 2),
        "attention_factors": (2, 4),
        "up_attention_factors": (1,),
        "downsample": ("conv", "resblock", "conv"),
        "upsample": ("conv", "nearest", "resblock"),
        "num_head_channels": None,
        "num_heads": 2,
        "num_heads_upsample": 4,
        "norm_min_channels": 2,
        "middle_norm_groups": 0,
        "time_embed_dim": 20,
        "num_classes": 3,
        "null_class": True,
        "checkpoint": True,
    },
}
variants = pytest.mark.parametrize("variant", sorted(VARIANTS))
ranks = pytest.mark.parametrize("rank", [1, 2, 3])
SIZES = {1: (16,), 2: (8, 12), 3: (4, 8, 4)}


def make(variant="adm", kind=UNet, **changes):
    """Build a net in which every branch is live: zero weights would hide what is behind them."""
    torch.manual_seed(0)
    config = UNetConfig if kind is UNet else ClassifierConfig
    net = kind(config(**{**BASE, **VARIANTS.get(variant, {}), **changes}))
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
    return net


def inputs(net, batch=2, seed=1):
    draw = torch.Generator().manual_seed(seed)
    config, dtype = net.config, net.conv_in.weight.dtype
    x = torch.randn(batch, config.in_channels, *SIZES[config.rank], generator=draw, dtype=dtype)
    t = 1000 * torch.rand(batch, generator=draw)
    y = None if config.num_classes is None else torch.arange(batch) % config.num_classes
    return x, t, y


@variants
@ranks
def test_the_output_is_like_the_input_and_every_parameter_is_reached(variant, rank):
    net = make(variant, rank=rank)
    x, t, y = inputs(net)
    out = net(x, t, y)
    assert out.shape == (len(x), net.config.out_channels, *x.shape[2:])
    out.square().sum().backward()
    untouched = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not untouched


@variants
def test_a_fresh_net_answers_zero(variant):
    net = UNet(UNetConfig(**{**BASE, **VARIANTS[variant]}))
    assert not net(*inputs(net)).any()


@ranks
def test_samples_do_not_influence_one_another(rank):
    net = make("mixed", rank=rank).double()
    x, t, y = inputs(net, batch=3)
    torch.testing.assert_close(net(x, t, y)[1:2], net(x[1:2], t[1:2], y[1:2]), rtol=0, atol=1e-10)


def test_time_and_class_change_the_output():
    net = make("adm")
    x, t, y = inputs(net)
    out = net(x, t, y)
    for other in (net(x, t + 100, y), net(x, t, y + 1)):
        assert (other - out).abs().flatten(1).amax(dim=1).gt(1e-3).all()


def test_no_condition_is_the_null_class():
    net = make("mixed")
    x, t, _ = inputs(net)
    null = torch.full((2,), net.config.num_classes)
    assert torch.equal(net(x, t), net(x, t, null))
    assert not torch.allclose(net(x, t), net(x, t, torch.zeros(2, dtype=torch.long)))


def test_checkpointing_gives_the_same_output_and_gradients():
    nets = [make("adm", dropout=0.3, checkpoint=checkpoint) for checkpoint in (False, True)]
    grads = []
    for net in nets:
        torch.manual_seed(5)  # the same dropout
        net(*inputs(net)).square().mean().backward()
        grads.append([p.grad for p in net.parameters()])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_torso_is_close(dtype):
    net = make("mixed").eval()
    asked = inputs(net)
    with torch.no_grad():
        full = net(*asked)
        half = net.half_torso(dtype)(*asked)
    assert half.dtype == torch.float32
    assert 0 < float((half - full).norm() / full.norm()) < (0.05 if dtype == torch.bfloat16 else 0.01)
    assert net.down[0].blocks[0].conv1.weight.dtype == dtype
    kept = (net.down[0].blocks[0].norm1, net.down[0].blocks[0].embed, net.time_mlp[0], net.conv_out)
    assert all(layer.weight.dtype == torch.float32 for layer in kept)


def test_features_are_what_the_output_is_made_of():
    net = make("mixed")
    x, t, y = inputs(net)
    found = net.features(x, t, y)
    assert [f.shape[1] for f in found["down"]] == net.skip_channels
    assert len(found["up"]) == 2 * len(net.config.channels)
    last = found["up"][-1]
    torch.testing.assert_close(net.conv_out(F.silu(net.norm_out(last))), net(x, t, y))


def test_channels_last_gives_the_same():
    net = make("adm").eval()
    x, t, y = inputs(net)
    with torch.no_grad():
        plain = net(x, t, y)
        other = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), t, y)
    assert other.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain, other, rtol=1e-4, atol=1e-5)


def test_it_is_one_graph():
    net = make("adm").eval()
    x, t, y = inputs(net)
    with torch.no_grad():
        compiled = torch.compile(net, fullgraph=True, backend="eager")(x, t, y)
        torch.testing.assert_close(compiled, net(x, t, y), rtol=1e-5, atol=1e-5)


def test_attention_is_softmax_over_positions():
    torch.manual_seed(0)
    attention = SelfAttention(6, 2, torch.nn.Identity(), divisor=2.0).double()
    torch.nn.init.normal_(attention.proj.weight)
    x = torch.randn(1, 6, 5, dtype=torch.float64)
    rows = (attention.qkv.weight @ x[0] + attention.qkv.bias[:, None]).reshape(3, 2, 3, 5)
    heads = []
    for q, k, v in zip(*rows, strict=True):
        heads.append(v @ torch.softmax(q.T @ k / 3**0.5, dim=1).T)
    expected = x[0] + attention.proj.weight @ torch.cat(heads) + attention.proj.bias[:, None]
    torch.testing.assert_close(attention(x)[0], expected / 2, rtol=1e-10, atol=1e-10)


def test_the_times_frequencies():
    t = torch.tensor([0.5, 20.0])
    waves = sinusoidal(t, 6, sin_first=True, freq_shift=1)
    for i, frequency in enumerate((1.0, 0.01, 0.0001)):
        torch.testing.assert_close(waves[:, i], (frequency * t).sin())
        torch.testing.assert_close(waves[:, 3 + i], (frequency * t).cos())
    assert torch.equal(sinusoidal(t, 6, freq_shift=1), waves.roll(3, dims=1))


@variants
def test_a_config_goes_through_json(variant):
    config = UNetConfig(**{**BASE, **VARIANTS[variant]})
    assert UNetConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 4}, "rank must be 1, 2 or 3, got 4"),
        ({"model_channels": 0}, "model_channels must be a positive integer, got 0"),
        ({"model_channels": 9}, "model_channels must be even, got 9"),
        ({"num_classes": 2.0}, "num_classes must be a positive integer, got 2.0"),
        ({"channel_mult": ()}, "channel_mult must give each level channels"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"attention_factors": (3,)}, r"attention_factors must be among \[1, 2\] with 2 levels, got \[3\]"),
        ({"up_attention_factors": (4,)}, r"up_attention_factors must be among \[1, 2\]"),
        ({"downsample": "stride"}, "downsample must be one of .*pool.*, got 'stride'"),
        ({"upsample": ("conv",)}, "upsample must be one of .* or 2 of them"),
        ({"null_class": True}, "null_class needs num_classes"),
        ({"norm_groups": 3}, "8 channels cannot be normalized in 3 equal groups"),
        ({"num_head_channels": 5}, "16 channels cannot be split as num_head_channels 5 asks"),
        ({"num_head_channels": None, "num_heads": 3}, "16 channels cannot be split as 3 heads asks"),
    ],
)
def test_bad_configs(changes, message):
    with pytest.raises(InputError, match=message):
        UNet(UNetConfig(**{**BASE, **changes}))


def test_bad_inputs():
    net = make("adm")
    x, t, y = inputs(net)
    for args, message in (
        ((x[0], t, y), r"x must be \(B, 3, H, W\), got \(3, 8, 12\)"),
        ((x[:, :2], t, y), r"x must be \(B, 3, H, W\), got \(2, 2, 8, 12\)"),
        ((x[..., :11], t, y), r"x must have sizes divisible by 2, got \(8, 11\)"),
        ((x, t[:1], y), r"t must be \(B,\) = \(2,\), got \(1,\)"),
        ((x, t, None), r"cond must be class indices \(B,\) in 0..4, got None"),
        ((x, t, y[:1]), r"cond must be class indices \(B,\) = \(2,\)"),
        ((x, t, y.float()), "of an integer type, got .* of torch.float32"),
        ((x, t, y + 4), r"cond must be in 0\.\.4, got 4 to 5"),
    ):
        with pytest.raises(InputError, match=message):
            net(*args)
    with pytest.raises(InputError, match="cond must be None: this net has no classes"):
        make("ddpm")(x, t, y)


@ranks
@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
def test_the_classifier_reaches_every_parameter_and_its_input(rank, pool):
    net = make("", EncoderClassifier, rank=rank, pool=pool, image_size=8, out_channels=7)
    x = torch.randn(2, 3, *[8] * rank).requires_grad_()
    logits = net(x, torch.tensor([3, 500]))
    assert logits.shape == (2, 7)
    logits.log_softmax(dim=1)[:, 0].sum().backward()
    assert x.grad.abs().sum() > 0
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_bad_classifiers():
    with refused(UnknownName, what="pool", name="max"):
        ClassifierConfig(**BASE, pool="max")
    with pytest.raises(InputError, match="image_size must be positive and divisible by 2, got 7"):
        ClassifierConfig(**BASE, image_size=7)
    net = make("", EncoderClassifier, image_size=8)
    with pytest.raises(InputError, match="was built for 16 positions, got 64"):
        net(torch.randn(1, 3, 16, 16), torch.zeros(1))
