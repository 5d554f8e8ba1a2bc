"""NCSN's and NCSNv2's checkpoints: nets come back from lists of that form; bad files and configs are refused."""

import pytest
import torch
from cases import first
from foreign_files import checkpoint_of

from image_pipeline.interop import ncsn
from pcdiff.diffusion import corrector, sample
from pcdiff.errors import InputError

NCSN_CONFIG = {
    "data": {"image_size": 8, "channels": 2, "logit_transform": False},
    "model": {"ngf": 4, "num_classes": 6, "sigma_begin": 2.0, "sigma_end": 0.01},
}


@pytest.fixture
def listed(tmp_path):
    """Save a list as NCSNv2's code does; `change(list)` may spoil it first."""

    def save(name, change=None):
        _, net, checkpoint = checkpoint_of(name)
        weights = checkpoint["model"]
        if "module.sigmas" in weights:
            weights["module.sigmas"] = weights["module.sigmas"].float()
        average = {k.removeprefix("module."): 2 * v for k, v in weights.items() if "sigmas" not in k}
        entries = [weights, {"state": {}, "param_groups": []}, 0, 3, average]
        if change is not None:
            change(entries)
        torch.save(entries, tmp_path / "checkpoint.pth")
        return net, tmp_path / "checkpoint.pth"

    return save


@pytest.mark.parametrize("name", first(1, ["ncsn", "ncsnv2_128", "ncsnv2_256"]))
@pytest.mark.parametrize("config", [None, NCSN_CONFIG])
def test_ncsns_lists(listed, name, config):
    net, path = listed(name)
    x, label = torch.rand(2, 2, 16, 16), torch.tensor([0, 5])
    found = ncsn.load(path, config, ema=False)
    with torch.no_grad():
        torch.testing.assert_close(found.denoiser.net(x, label), net(x, label))
        torch.testing.assert_close(found.denoiser.score(x, 6 - label), net(x, label))
    averaged = ncsn.load(path, config)
    head = averaged.denoiser.net.head.weight
    torch.testing.assert_close(head, 2 * net.head.weight)
    assert (averaged.ema, found.ema) == (True, False)
    assert found.image_shape == ((2, None, None) if config is None else (2, 8, 8))
    largest = 1.0 if name == "ncsn" and config is None else 2.0
    assert found.denoiser.process.prior_std == pytest.approx(largest)
    assert found.name.startswith(name[:4])


def test_a_list_without_average_gives_its_weights(listed):
    net, path = listed("ncsn", lambda entries: entries.__delitem__(slice(2, None)))
    found = ncsn.load(path)
    assert not found.ema
    torch.testing.assert_close(found.denoiser.net.head.weight, net.head.weight)


def test_annealed_langevin_on_a_loaded_net(listed):
    _, path = listed("ncsn")
    found = ncsn.load(path, NCSN_CONFIG)
    langevin = corrector("ncsnv2", step_size=1e-6, num_steps=2)
    draw = torch.manual_seed(0)
    images = sample(found.denoiser, (1, 2, 8, 8), sampler="none", corrector=langevin, generator=draw)
    assert images.shape == (1, 2, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.clear(), "expected a checkpoint of NCSN or NCSNv2 .*, got a list"),
        (lambda e: e[0].pop("module.end_conv.bias"), r"the moving average has tensors .*: end_conv\.bias"),
        (lambda e: (e[0].pop("module.end_conv.bias"), e.pop()), r"missing: \['end_conv\.bias'\]"),
        (lambda e: e[4].pop("end_conv.bias"), r"the moving average lacks tensors of the weights: end_conv\.bias"),
        (lambda e: e[0].pop("module.begin_conv.weight"), "the moving average has tensors"),
        (lambda e: (e[0].pop("module.begin_conv.weight"), e.pop()), "with begin_conv and either"),
        (lambda e: e.__setitem__(0, 3), "the list's first entry must be a dict of tensors by name, got a int"),
        (lambda e: e.__setitem__(4, 3), "the moving average, must be a dict of tensors by name, got a int"),
    ],
)
def test_lists_that_are_not_whole(listed, change, message):
    _, path = listed("ncsnv2_128", change)
    with pytest.raises(InputError, match=rf"checkpoint\.pth: .*{message}"):
        ncsn.load(path, NCSN_CONFIG)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("model", "ngf", 8, r"config does not fit: model\.ngf is 8, the weights are of 4"),
        ("data", "channels", 3, r"config does not fit: data\.channels is 3, the weights are of 2"),
        ("model", "num_classes", 10, r"config does not fit: model\.num_classes is 10"),
        ("model", "sigma_begin", 1, "the file's levels, 2 to 0.01, are not what"),
        ("model", "sigma_dist", "uniform", "config does not fit: the file's levels"),
        ("model", "sigma_dist", "cosine", "sigma_dist must be 'geometric' or 'uniform', got 'cosine'"),
        (
            "model",
            "normalization",
            "VarianceNorm",
            r"normalization is .VarianceNorm., the weights are of .InstanceNorm\+\+",
        ),
        ("model", "nonlinearity", "tanh", "nonlinearity must be"),
        ("data", "logit_transform", True, "logit_transform is not supported"),
        ("data", "rescaled", "no", r"data\.rescaled must be bool"),
        ("data", "image_size", None, r"config lacks data\.image_size"),
    ],
)
def test_configs_that_do_not_fit_a_list(listed, section, key, value, message):
    _, path = listed("ncsnv2_128")
    config = {name: dict(part) for name, part in NCSN_CONFIG.items()}
    config[section][key] = value
    if value is None:
        del config[section][key]
    with pytest.raises(InputError, match=message):
        ncsn.load(path, config)


def test_images_that_come_rescaled(listed):
    net, path = listed("ncsnv2_128")
    found = ncsn.load(path, {**NCSN_CONFIG, "data": {**NCSN_CONFIG["data"], "rescaled": True}}, ema=False)
    x, label = torch.rand(1, 2, 8, 8), torch.tensor([3])
    assert found.data_range == (-1, 1)
    torch.testing.assert_close(found.denoiser.net(2 * x - 1, label), net(x, label))
