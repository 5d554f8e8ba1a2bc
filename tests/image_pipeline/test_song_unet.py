"""DDPM++ and NCSN++: every branch is live, filters are exact, classes and labels matter."""

import dataclasses
import json

import pytest
import torch

from image_pipeline.nets.sigma_label import SigmaLabel
from image_pipeline.nets.song_unet import Augmented, SongUNet, SongUNetConfig
from pcdiff.errors import InputError

BASE = {"model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1}
VARIANTS = {
    "ddpm++": {"num_classes": 3, "augment_dim": 2},
    "ncsn++": {
        "channel_mult": (1, 2, 1),
        "embedding": "fourier",
        "noise_mult": 2,
        "encoder": "residual",
        "resample_filter": (1, 3, 3, 1),
    },
    "skip": {"encoder": "skip", "decoder": "skip", "resample_filter": (1, 3, 3, 1), "attention_factors": (1, 2)},
}
variants = pytest.mark.parametrize("variant", sorted(VARIANTS))


def make(variant="ddpm++", **changes):
    torch.manual_seed(0)
    net = SongUNet(SongUNetConfig(**{**BASE, **VARIANTS[variant], **changes}))
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
    return net.eval()


def inputs(seed=1):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 8, 8, generator=draw), torch.rand(2, generator=draw)


@variants
def test_the_output_is_like_the_input_and_every_parameter_is_reached(variant):
    net, (x, t) = make(variant), inputs()
    y = torch.tensor([0, 2]) if net.config.num_classes else None
    y = Augmented(y, torch.ones(2, 2)) if net.config.augment_dim else y
    out = net(x, t, y)
    assert out.shape == x.shape
    out.square().sum().backward()
    untouched = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not untouched


@variants
def test_the_label_changes_the_output(variant):
    net, (x, t) = make(variant), inputs()
    assert (net(x, t + 0.5) - net(x, t)).abs().max() > 1e-4


def test_classes_and_none():
    net, (x, t) = make(), inputs()
    first, second = (net(x, t, torch.full((2,), k)) for k in (0, 1))
    assert not torch.allclose(first, second)
    assert torch.equal(net(x, t), net(x, t, torch.full((2,), 3)))


def test_augmentations_and_none():
    net, (x, t), y = make(), inputs(), torch.tensor([0, 2])
    with torch.no_grad():
        plain, none = net(x, t, y), net(x, t, Augmented(y, torch.zeros(2, 2)))
        told = net(x, t, Augmented(y, torch.tensor([[0.0, 0.0], [1.0, 0.0]])))
    assert torch.equal(none, plain)
    assert torch.equal(told[0], plain[0])
    assert (told[1] - plain[1]).abs().max() > 1e-3
    for wrong, got in ((make(), torch.zeros(2, 3)), (make(augment_dim=0), torch.zeros(2, 2))):
        with pytest.raises(InputError, match=rf"augmentation must be \(2, \d\), got \(2, {got.shape[1]}\)"):
            wrong(x, t, Augmented(y, got))


def test_a_config_goes_through_json():
    config = SongUNetConfig(**{**BASE, **VARIANTS["ncsn++"]})
    assert SongUNetConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_a_net_of_log_sigma_gives_a_score():
    class Log(torch.nn.Module):
        def forward(self, x, label, cond=None):
            return label[:, None, None, None].expand_as(x)

    sigma = torch.tensor([0.5, 8.0])
    score = SigmaLabel(Log(), scale=0.5)(torch.zeros(2, 3, 4, 4), sigma)
    torch.testing.assert_close(score[:, 0, 0, 0], (sigma / 2).log() / sigma)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "dense"}, r"encoder must be one of standard, skip, residual, got 'dense'"),
        ({"embedding": "none"}, "embedding must be one of"),
        ({"num_blocks": 0}, "num_blocks must be a positive integer, got 0"),
        ({"attention_factors": (4,)}, r"attention_factors must be among \[1, 2\] with 2 levels, got \[4\]"),
        ({"model_channels": 2}, "at least 4 channels"),
        ({"resample_filter": (1,)}, "taps of a filter must be two or more"),
        ({"num_head_channels": 5}, "16 channels cannot be split into heads of 5"),
    ],
)
def test_bad_configs(changes, message):
    with pytest.raises(InputError, match=message):
        SongUNet(SongUNetConfig(**{**BASE, **changes}))


def test_bad_inputs():
    net, (x, t) = make(), inputs()
    for args, message in (
        ((x[0], t), r"x must be \(B, 3, H, W\), got \(3, 8, 8\)"),
        ((x[..., :7], t), r"x must have H and W that are multiples of 2, at least 2, got \(8, 7\)"),
        ((x, t[:1]), r"t must be \(2,\), one label for each image, got \(1,\)"),
        ((x, t, torch.tensor([0.0, 1.0])), r"of an integer type, got \(2,\) of torch.float32"),
        ((x, t, torch.tensor([0, 4])), r"cond must be in 0\.\.3, got 0 to 4"),
    ):
        with pytest.raises(InputError, match=message):
            net(*args)
    with pytest.raises(InputError, match="this net has no classes"):
        make("skip")(x, t, torch.tensor([0, 1]))
