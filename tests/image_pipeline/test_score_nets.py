"""Every score net: shapes, gradients, labels, refusals, configs."""

import dataclasses
import json

import pytest
import torch
from refusals import refused

from image_pipeline.nets import MODELS, NCSN, NCSNConfig, build_model, plain_config
from pcdiff.errors import InputError, UnknownName

SMALL = {"nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8], "image_size": 16, "dropout": 0.0}
NETS = {
    "ncsn": {"name": "ncsn", "nf": 4},
    "ncsnv2": {"name": "ncsnv2", "nf": 4},
    "ncsnv2 deeper": {"name": "ncsnv2", "nf": 4, "variant": "deeper"},
    "ncsnv2 deepest": {"name": "ncsnv2", "nf": 2, "variant": "deepest", "nonlinearity": "swish"},
    "ddpm": {"name": "ddpm", **SMALL, "nf": 64, "ch_mult": [1, 1]},
    "ddpm, levels, no convolutions": {
        "name": "ddpm",
        **SMALL,
        "nf": 64,
        "ch_mult": [1, 1],
        "resamp_with_conv": False,
        "scale_by_sigma": True,
        "centered": False,
    },
    "ddpmpp": {"name": "ddpmpp", **SMALL},
    "ddpmpp, ddpm blocks": {"name": "ddpmpp", **SMALL, "resblock_type": "ddpm", "resamp_with_conv": False},
    "ncsnpp": {"name": "ncsnpp", **SMALL},
    "ncsnpp, levels": {"name": "ncsnpp", **SMALL, "embedding_type": "positional", "nf": 12, "ch_mult": [1, 2]},
    "ncsnpp, skips": {"name": "ncsnpp", **SMALL, "progressive": "output_skip", "progressive_input": "input_skip"},
    "ncsnpp, skips side by side": {
        "name": "ncsnpp",
        **SMALL,
        "ch_mult": [1, 2, 1],
        "fir": False,
        "progressive": "output_skip",
        "progressive_input": "input_skip",
        "progressive_combine": "cat",
    },
    "ncsnpp, residual paths": {"name": "ncsnpp", **SMALL, "ch_mult": [1, 2, 1], "progressive": "residual"},
    "ncsnpp, residual paths, plain": {
        "name": "ncsnpp",
        **SMALL,
        "progressive": "residual",
        "fir": False,
        "skip_rescale": False,
        "resblock_type": "ddpm",
    },
    "ncsnpp, ddpm blocks, filtered": {
        "name": "ncsnpp",
        **SMALL,
        "resblock_type": "ddpm",
        "fir_kernel": [1, 2, 1],
        "num_channels": 1,
    },
}


def labels(net, count):
    """Return labels of the kind that a net looks up: noise levels, or whole numbers."""
    return torch.linspace(0.1, 9, count) if getattr(net, "fourier", False) else torch.arange(count) * 3


def live(net):
    """Return the net in evaluation mode with weights off their start, which says nothing yet."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return net.eval()


@pytest.fixture(params=NETS)
def net(request):
    torch.manual_seed(0)
    return build_model(NETS[request.param])


def test_the_output_is_like_the_images(net):
    channels = net.config.num_channels
    for shape in ((1, channels, 16, 16), (3, channels, 16, 32)):
        x = torch.rand(shape)
        out = net(x, labels(net, shape[0]))
        assert out.shape == x.shape
        assert out.dtype == x.dtype
        assert out.isfinite().all()
    double = net.double()(x.double(), labels(net, shape[0]))
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), out, rtol=1e-3, atol=1e-4 * float(out.detach().abs().max()))


def test_the_gradient_reaches_every_parameter(net):
    x = torch.rand(2, net.config.num_channels, 16, 16, requires_grad=True)
    net(x, labels(net, 2)).square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert x.grad.abs().sum() > 0


def test_images_and_labels_of_a_batch_do_not_mix(net):
    x, t = torch.rand(3, live(net).config.num_channels, 16, 16), labels(net, 3)
    whole = net(x, t)
    atol = 1e-5 * float(whole.detach().abs().max())
    for k in range(3):
        torch.testing.assert_close(net(x[k : k + 1], t[k : k + 1])[0], whole[k], rtol=1e-3, atol=atol)
    other = net(x, t.flip(0))
    assert (other[0] - whole[0]).abs().max() > 1e-3  # it depends on its label
    torch.testing.assert_close(other[1], whole[1], rtol=1e-3, atol=atol)


def test_channels_last_changes_nothing(net):
    x, t = torch.rand(2, live(net).config.num_channels, 16, 16), labels(net, 2)
    expected = net(x, t)
    out = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), t)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max()))


def test_what_does_not_fit_is_refused(net):
    c, t = net.config.num_channels, labels(net, 2)
    for x in (torch.rand(c, 16, 16), torch.rand(2, c + 1, 16, 16)):
        with pytest.raises(InputError, match=rf"x must be \(B, {c}, H, W\), got \("):
            net(x, t)
    with pytest.raises(InputError, match="x must have H and W that are multiples of"):
        net(torch.rand(2, c, 16, 15), t)
    for bad in (t[0], t[:1], t[:, None]):
        with pytest.raises(InputError, match=r"t must be \(2,\), one label for each image, got"):
            net(torch.rand(2, c, 16, 16), bad)
    with pytest.raises(InputError, match="cond must be None, this net takes no condition, got a Tensor"):
        net(torch.rand(2, c, 16, 16), t, torch.zeros(2))


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2", "ncsnpp, levels", "ddpm, levels, no convolutions"])
def test_levels_outside_the_table_are_refused(name):
    net = build_model(NETS[name])
    levels = net.config.num_scales
    for t in ([0, levels], [-1, 0]):
        with pytest.raises(InputError, match=rf"t must be in 0\.\.{levels - 1}, got"):
            net(torch.rand(2, 3, 16, 16), torch.tensor(t))
    with pytest.raises(InputError, match=r"t must be indices of noise levels, integers, got torch\.float32"):
        net(torch.rand(2, 3, 16, 16), torch.tensor([0.0, 1.0]))


def test_a_level_divides_the_output():
    net = build_model(NETS["ncsnv2"]).eval()
    x, t = torch.rand(1, 3, 16, 16), torch.tensor([5, 200])
    first, second = net(x.expand(2, -1, -1, -1), t)
    torch.testing.assert_close(first * net.sigmas[5].float(), second * net.sigmas[200].float())
    assert net.sigmas[0] == pytest.approx(50)
    assert net.sigmas[-1] == pytest.approx(0.01)
    assert net.sigmas.dtype == torch.float64


def test_images_in_either_range_are_the_same_to_the_net():
    for config in (NETS["ncsn"], NETS["ncsnv2"], NETS["ddpm"], NETS["ncsnpp, skips"]):
        torch.manual_seed(0)
        net = build_model(config, centered=False).eval()
        other = build_model(config, centered=True).eval()
        other.load_state_dict(net.state_dict())
        x, t = torch.rand(2, net.config.num_channels, 16, 16), labels(net, 2)
        torch.testing.assert_close(other(2 * x - 1, t), net(x, t))


def test_configs_are_plain_json_and_frozen(net):
    text = json.dumps(plain_config(net.config))
    again = build_model(json.loads(text))
    assert again.config == net.config
    assert type(again) is type(net)
    again.load_state_dict(net.state_dict())
    assert build_model(net.config).config == net.config
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.config.nf = 1


def test_names_and_fields_that_are_not_there():
    with refused(UnknownName, what="name", name="vit"):
        build_model("vit")
    with pytest.raises(InputError, match=r"config of ncsn: unknown fields \['width'\]"):
        build_model("ncsn", width=3)
    with pytest.raises(InputError, match="config of ddpm: nf must be int, got '32'"):
        build_model({"name": "ddpm", "nf": "32"})
    with pytest.raises(InputError, match="config must be a name, a dict or a config dataclass, got a int"):
        build_model(3)
    with pytest.raises(InputError, match="config must be one of"):
        plain_config(3)
    assert isinstance(build_model(NCSNConfig(nf=2)), NCSN)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("ncsn", {"nf": 1}, "nf must be at least 2, got 1"),
        ("ncsnv2", {"num_scales": 0}, "num_scales must be at least 1, got 0"),
        ("ncsnv2", {"variant": "deep"}, "variant must be"),
        ("ncsnpp", {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ("ncsnpp", {"ch_mult": []}, "ch_mult must name at least one size, got none"),
        ("ncsnpp", {"ch_mult": [1, 0]}, r"ch_mult must be at least 1, got \(1, 0\)"),
        ("ncsnpp", {"sigma_min": 60.0}, "sigma_min must be below sigma_max"),
        ("ncsnpp", {"image_size": 20}, "image_size must be a multiple of 8"),
        ("ncsnpp", {"fir_kernel": [1]}, "taps of a filter must be two or more"),
        ("ncsnpp", {"init_scale": -1.0}, "init_scale must not be negative"),
        ("ncsnpp", {"progressive": "output"}, "progressive must be"),
        ("ddpm", {"nf": 48}, "nf and ch_mult must give channels that are multiples of 32 for a group norm, got 48"),
        ("ddpmpp", {"nf": 50}, "nf and ch_mult must give channels that are multiples of 12"),
    ],
)
def test_configs_out_of_range(name, fields, message):
    with pytest.raises(InputError, match=message):
        build_model(name, **fields)


def test_every_name_is_built_with_its_own_config():
    for name, kind in MODELS.items():
        assert plain_config(kind.Config())["name"] == name
