"""PVD's and TIGER's checkpoints: names of weights, chains by category, and files that are not theirs."""

import numpy as np
import pytest
import torch
from torch import nn

import pcdiff
from pcdiff.commands import model_commands
from pcdiff.config.pvd_presets import CHAINS
from pcdiff.errors import InputError
from pcdiff.interop import checkpoints, pvd
from pcdiff.models import Completion, Direct
from pcdiff.nets import PVCNN, PVCNNConfig

SMALL = PVCNNConfig(
    down_channels=(8, 8, 0),
    down_blocks=(1, 1, 0),
    down_resolutions=(4, 3, 0),
    centers=(12, 6, 4),
    radii=(0.5, 1.0, 2.0),
    neighbors=(4, 3, 2),
    down_widths=("8", "8,16", "16"),
    up_widths=("16", "16,8", "8"),
    up_blocks=(1, 0, 1),
    up_resolutions=(3, 0, 4),
    time_dim=8,
    head_width=8,
)
# the names that PVD's code gives what SMALL builds, by ours
THEIRS = {
    "down.0.blocks.0": "sa_layers.0.0",
    "down.1.blocks.0": "sa_layers.1.0",
    "down.0.abstraction.mlp": "sa_layers.0.1.mlps.0.layers",
    "down.1.abstraction.mlp": "sa_layers.1.1.mlps.0.layers",
    "down.2.abstraction.mlp": "sa_layers.2.mlps.0.layers",
    "up.0.propagation.mlp": "fp_layers.0.0.mlp.layers",
    "up.1.propagation.mlp": "fp_layers.1.mlp.layers",
    "up.2.propagation.mlp": "fp_layers.2.0.mlp.layers",
    "up.0.blocks.0": "fp_layers.0.1",
    "up.2.blocks.0": "fp_layers.2.1",
    "attention": "global_att",
    "head.0": "classifier.0.layers",
    "head.2": "classifier.2",
    "time": "embedf",
}
INNER = {
    "conv1": "voxel_layers.0",
    "norm1": "voxel_layers.1",
    "conv2": "voxel_layers.4",
    "norm2": "voxel_layers.5",
    "attention": "voxel_layers.6",
    "gate.squeeze": "voxel_layers.7.fc.0",
    "gate.excite": "voxel_layers.7.fc.2",
    "points": "point_features.layers",
}


def their_name(key):
    for ours, theirs in THEIRS.items():
        if key.startswith(f"{ours}."):
            rest = key.removeprefix(f"{ours}.")
            for inner, name in INNER.items() if ".blocks." in ours else ():
                if rest.startswith(f"{inner}."):
                    return f"{theirs}.{name}.{rest.removeprefix(f'{inner}.')}"
            return f"{theirs}.{rest}"
    raise AssertionError(key)


def save(path, net=None, **others):
    """Write a file as PVD does, of a net of ours."""
    torch.manual_seed(0)
    net = PVCNN(SMALL) if net is None else net
    weights = {f"model.module.{their_name(key)}": value for key, value in net.state_dict().items()}
    optimizer = torch.optim.Adam(nn.Linear(1, 1).parameters()).state_dict()
    torch.save({"epoch": 7, "model_state": weights | others, "optimizer_state": optimizer}, path)
    return net


def test_weights_and_chain_are_those_of_the_file(tmp_path):
    path = tmp_path / "chair_1799.pth"
    net = save(path)
    model = pvd.load(path, net=SMALL)
    assert isinstance(model, Direct)
    own, theirs = model.denoiser.net.state_dict(), net.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in theirs)
    assert model.metadata["step"] == 7
    assert model.metadata["config"]["data"]["normalization"] == "global"
    assert not model.training
    x, t = torch.randn(2, 20, 3), torch.tensor([1, 500])
    torch.testing.assert_close(model.denoiser.eps(x, t), net.eval()(x, t - 1))  # steps are counted from 0


@pytest.mark.parametrize(
    ("name", "category", "chain"),
    [
        ("airplane_2799.pth", None, "airplane"),
        ("CAR/last.pt", None, "car"),
        ("chair/airplane.pt", None, "airplane"),  # the file's name before its folder's
        ("last.pt", "chair", "chair"),
        ("airplane.pt", "car", "car"),
    ],
)
def test_the_chain_is_the_categorys(tmp_path, name, category, chain):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    save(path)
    model = pvd.load(path, category, SMALL)
    assert model.process_config == CHAINS[chain]
    last = {"airplane": 0.008, "chair": 0.02, "car": 0.02}[chain]
    assert float(model.denoiser.process.betas[1000]) == pytest.approx(last, rel=1e-12)
    assert float(model.denoiser.process.betas[100]) == pytest.approx(
        {0.008: 0.008, 0.02: 1e-4 + 99 / 999 * 0.0199}[last], rel=1e-12
    )


def test_completion_is_told_by_its_weights(tmp_path, monkeypatch):
    net = PVCNN(PVCNNConfig(**vars(SMALL) | {"gate_after_attention": False}))
    save(tmp_path / "chair.pt", net)
    monkeypatch.setattr(pvd, "PVD", SMALL)
    model = pvd.load(tmp_path / "chair.pt")
    assert isinstance(model, Completion)
    assert model.config.net_options.head_dropout == 0.5
    given = torch.randn(2, 9, 3)
    made = model.complete(given, 20, num_steps=2, sampler="ddim")
    assert torch.equal(made[:, :9], given)
    assert made.shape == (2, 20, 3)


def test_the_commands_sample_from_it(tmp_path, monkeypatch):
    path = tmp_path / "airplane.pth"
    save(path)
    monkeypatch.setattr(pvd, "PVD", SMALL)
    flags = ["--run", path, "--output", tmp_path / "made.npy", "--num-samples", 3, "--num-points", 25]
    flags += ["--sampler", "ddim", "--num-steps", 2]
    scaled = [*flags, "--std", 2.0, "--mean", 1.0, 2.0, 3.0]
    for given, out in ((flags, "made.npy"), (scaled, "scaled.npy")):
        argv = [str(tmp_path / out) if value == tmp_path / "made.npy" else str(value) for value in given]
        model_commands.main("sample", argv, "pcdiff")
    made, placed = (np.load(tmp_path / out) for out in ("made.npy", "scaled.npy"))
    assert made.shape == (3, 25, 3)
    np.testing.assert_allclose(placed, 2 * made + [1, 2, 3], rtol=1e-5, atol=1e-5)
    assert isinstance(pcdiff.load(path), Direct)


def test_what_does_not_fit_is_listed(tmp_path):
    save(tmp_path / "chair.pt", None, **{"model.module.extra.weight": torch.zeros(1)})
    with pytest.raises(
        InputError, match=r"does not fit .*left over: \['model.module.extra.weight'\], missing: \[\]"
    ):
        pvd.load(tmp_path / "chair.pt", net=SMALL)
    save(tmp_path / "chair.pt", None, **{"model.module.embedf.0.bias": torch.zeros(9)})
    with pytest.raises(InputError, match=r"does not fit .*embedf.0.bias is \(9,\), not \(8,\)"):
        pvd.load(tmp_path / "chair.pt", net=SMALL)
    save(tmp_path / "chair.pt")
    with pytest.raises(InputError, match=r"the file holds .* numbers|missing: \['"):
        pvd.load(tmp_path / "chair.pt")  # not the published net


def test_files_that_are_not_theirs(tmp_path):
    save(tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x.pt: does not say on which category's chain .* put one of airplane"):
        checkpoints.load(tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"category must be one of \['airplane', 'car', 'chair'\], got 'boat'"):
        pvd.load(tmp_path / "x.pt", "boat", SMALL)
    with pytest.raises(InputError, match=r"none.pt: no such file; expected a PVD checkpoint"):
        pvd.load(tmp_path / "none.pt")
    torch.save({"model_state": {"weight": torch.zeros(1)}}, tmp_path / "car.pt")
    with pytest.raises(InputError, match=r"car.pt: expected a dict with 'model_state' of sa_layers"):
        pvd.load(tmp_path / "car.pt")
    torch.save({"model_state": {"model.module.sa_layers.0": 3}}, tmp_path / "car.pt")
    with pytest.raises(InputError, match=r"must be a dict of tensors by name"):
        pvd.load(tmp_path / "car.pt")
