"""Models of clouds from parts by name: every process trains and samples; parts of one's own; runs of 0.1."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import first
from script_tools import script

import pcdiff
from image_pipeline.configs import read_config as read_image_config
from pcdiff.commands import cli
from pcdiff.config import ModelConfig, ProcessConfig, RunConfig, run_from_dict, to_json
from pcdiff.config.files import read_config
from pcdiff.config.presets import GENERATOR_PRESETS
from pcdiff.diffusion import SamplingReport
from pcdiff.errors import InputError
from pcdiff.models import Direct, build_model
from pcdiff.nets import NETS
from pcdiff.runtime import user_modules
from pcdiff.training import checkpoint

OLD = Path(__file__).parent / "runs_of_0_1"
TINY = """--preset demo --latent-dim 4 --encoder.widths 8 --encoder.head-widths 8 --max-iters 3 --val-every 0
    --num-points 16 --batch-size 4 --num-samples 2 --sample-points 8 --val-clouds 2 --val-points 8""".split()
POINTWISE = ["--net.widths", "8", "8"]
FLOW = ["--prior.depth", "2", "--prior.hidden-dim", "8"]
NET = '''
import torch
from torch import nn


class MyNet(nn.Module):
    """Points that see their cloud's mean."""

    def __init__(self, width: int = 8, cond_dim: int = 0, point_dim: int = 3):
        super().__init__()
        self.width = width
        self.first = nn.Linear(2 * point_dim + 1 + cond_dim, width)
        self.last = nn.Linear(width, point_dim)

    def forward(self, x, t, cond=None):
        cloud = [x.mean(dim=1), t[:, None].to(x)] + ([] if cond is None else [cond])
        told = torch.cat(cloud, dim=1)[:, None].expand(-1, x.shape[1], -1)
        return self.last(torch.relu(self.first(torch.cat([x, told], dim=2))))
'''
PROCESSES = {
    "v": ["--predicts", "v"],
    "edm": ["--process", "edm"],
    "flow matching": ["--process", "rectified_flow"],
    "vp": ["--process", "vp"],
    "ve": ["--process", "ve"],
    "cosine": ["--schedule", "cosine", "--num-steps", "20"],
}


def parsed(*flags):
    return cli.parse_run(GENERATOR_PRESETS, [*TINY, *map(str, flags)])


def x(count=4, points=16):
    return torch.randn(count, points, 3, generator=torch.Generator().manual_seed(0))


def forget(path, monkeypatch):
    """Be as a process that has not imported a file."""
    sys.modules.pop(path.stem, None)
    monkeypatch.setattr(user_modules, "_LOADED", {})
    monkeypatch.setattr(NETS, "_outside", {})


@pytest.fixture
def my_net(tmp_path, monkeypatch):
    """A file with a net; what it is imported as is forgotten afterward."""
    path = tmp_path / "one_of_mine.py"
    path.write_text(NET)
    forget(path, monkeypatch)
    yield path
    sys.modules.pop(path.stem, None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("latent", name) for name in sorted(PROCESSES)), ("direct", "edm"), ("direct", "v"), ("autoencoder", "vp")],
)
def test_every_process_is_trained_and_sampled(kind, name):
    config = parsed("--kind", kind, *PROCESSES[name], *POINTWISE, *(FLOW if kind == "latent" else []))
    assert run_from_dict(json.loads(to_json(config)), "here") == config
    torch.manual_seed(0)
    model, report = build_model(config), SamplingReport()
    draws = model.draw(x(), 4, torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(20):  # on the same draws: what falls is no accident of theirs
        optimizer.zero_grad()
        loss = model.loss_terms(x(), torch.Generator().manual_seed(0), **draws)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.99 * losses[0]
    model.eval()
    z = torch.zeros(2, model.code_dim)
    clouds = model.decode(z, 8, generator=torch.Generator().manual_seed(1), report=report)
    assert clouds.shape == (2, 8, 3)
    assert clouds.isfinite().all()
    assert report.num_steps == {"edm": 18, "cosine": 20, "v": 100}.get(name, 20)


def test_another_process_takes_nothing_of_the_presets():
    config = parsed("--process", "edm")
    assert (config.process.predicts, config.process.time_input, config.process.sigma_data) == ("edm", "edm", 1.0)
    assert config.process.schedule is None
    assert (config.objective.objectives, config.objective.time_draw) == (("regression",), "log_normal")
    assert parsed("--process", "rectified_flow").objective.objectives == ("flow",)
    former = parsed("--process", "straight")  # the name of 0.1
    assert (former.process.predicts, former.objective.objectives) == ("velocity", ("flow",))
    assert parsed("--process.name", "ddpm").process == GENERATOR_PRESETS["demo"].process


def test_the_flags_of_0_1_are_those_of_today():
    old = "--kind flow --flow cnf --cnf-widths 5 --encoder_widths 7 --beta_T=0.03 --num-steps 9 --objective elbo"
    new = """--kind latent --prior cnf --prior.widths 5 --encoder.widths 7 --process.beta-T 0.03
        --process.num-steps 9 --objectives elbo"""
    assert cli.parse_run(GENERATOR_PRESETS, old.split()) == cli.parse_run(GENERATOR_PRESETS, new.split())
    gaussian = cli.parse_run(GENERATOR_PRESETS, ["--kind", "gaussian"])
    assert (gaussian.model.kind, gaussian.model.prior) == ("latent", "gaussian")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--net", "unet3d"], r"net must be one of pointwise, .*set_transformer, got 'unet3d'"),
        (["--net", "missing.py:Net"], r"net missing\.py:Net: no such \.py file"),
        (["--net", "json:Net"], "net json:Net: no Net there"),
        (["--prior", "glow"], r"prior must be one of cnf, coupling, diffusion, gaussian"),
        (["--process", "ddim"], r"process must be one of .*ddpm.*, got 'ddim'"),
        (["--flexibility", "0.5", "--process", "vp"], "flexibility is a DDPM chain's, got 0.5 with vp"),
        (
            ["--objectives", "simple", "elbo"],
            r"weights must be one for each of the objectives",
        ),
        (
            ["--process", "rectified_flow", "--predicts", "eps"],
            "predicts 'eps' does not determine the data",
        ),
        (["--process.sigma-data", "0.5"], "sigma_data goes with predicts edm or objective edm"),
    ],
)
def test_what_does_not_go_together(flags, message):
    with pytest.raises(InputError, match=message):
        build_model(parsed(*flags))


def test_a_net_whose_points_see_one_another_has_one_time_a_cloud(my_net):
    flags = ["--net", f"{my_net}:MyNet", *FLOW]
    assert parsed(*flags).objective.times_per_cloud == 1
    with pytest.raises(InputError, match=r"times_per_cloud must be 1 for the net .*MyNet, got 4"):
        build_model(parsed(*flags, "--times-per-cloud", 4))


@pytest.mark.parametrize("kind", ["latent", "direct"])
def test_a_net_from_a_file_trains_is_resumed_and_asked_for(kind, my_net, dataset, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    sizes = FLOW if kind == "latent" else []
    flags = [*TINY, *sizes, "--kind", kind, "--net", f"{my_net}:MyNet", "--net.width", 6, "--process", "edm"]
    assert script("train_gen.py", *flags, "--categories", "chair", "--dataset-path", dataset, "--out", run) == 0
    assert np.isfinite(np.load(run / "samples.npy")).all()
    assert f"evaluate.py --run {run} --import {my_net}" in (run / "log.txt").read_text()
    assert pcdiff.load(run).denoiser.net.first.out_features == 6
    forget(my_net, monkeypatch)
    with pytest.raises(
        InputError, match=rf"its code is not part of pcdiff, and is not run unasked; give --import {my_net}"
    ):
        pcdiff.load(run)
    capsys.readouterr()
    assert script("train_gen.py", "--resume", run, "--max-iters", 4) == 2
    assert f"give --import {my_net}" in capsys.readouterr().err
    elsewhere = tmp_path / "moved" / my_net.name
    elsewhere.parent.mkdir()
    shutil.move(my_net, elsewhere)
    assert script("train_gen.py", "--resume", run, "--max-iters", 4, "--import", elsewhere) == 0
    assert checkpoint.read(run / "checkpoints" / "last.safetensors")[1]["step"] == 4


SETS = """--net.width 8 --net.depth 1 --net.num-heads 2 --net.num-inducers 4 --net.norm-groups 2""".split()


@pytest.mark.parametrize("kind", [pytest.param("latent", marks=pytest.mark.slow), "direct"])
def test_a_set_transformer_trains_is_saved_resumed_and_sampled(kind, dataset, tmp_path):
    run, sizes = tmp_path / "run", FLOW if kind == "latent" else []
    flags = [*TINY, *sizes, "--kind", kind, "--net", "set-transformer", *SETS, "--process", "edm"]
    flags += ["--time-draw", "log_uniform", "--stratified-times"]
    assert script("train_gen.py", *flags, "--categories", "chair", "--dataset-path", dataset, "--out", run) == 0
    assert read_config(run).model.net == "set_transformer"
    assert np.isfinite(np.load(run / "samples.npy")).all()
    assert script("train_gen.py", "--resume", run, "--max-iters", 4) == 0
    model = pcdiff.load(run)
    assert model.denoiser.net.config.num_inducers == 4
    assert model.sample(2, 24, num_steps=2).shape == (2, 24, 3)


VOXELS = """--net.centers 12 6 --net.radii 0.5 1 --net.neighbors 4 3 --net.down-widths 8,8 16
--net.down-channels 8 0 --net.down-blocks 1 0 --net.down-resolutions 4 0 --net.up-widths 16 8
--net.up-blocks 0 1 --net.up-resolutions 0 4
--net.attention-levels 0 --net.time-dim 16 --net.head-width 8 --net.branch-depth 1 --net.branch-level 0
--net.branch-width 8 --net.branch-heads 2""".split()


@pytest.mark.parametrize("kind", [pytest.param("latent", marks=pytest.mark.slow), "direct"])
def test_a_point_voxel_net_trains_is_saved_resumed_and_sampled(kind, dataset, tmp_path):
    run, sizes = tmp_path / "run", FLOW if kind == "latent" else []
    flags = [*TINY, *sizes, "--kind", kind, "--net", "pvcnn", *VOXELS, "--process.time-input", "step"]
    flags += [
        "--process.schedule",
        "warm",
        "--process.warm",
        0.5,
        "--process.num-steps",
        8,
        "--lr-schedule",
        "exponential",
    ]
    assert script("train_gen.py", *flags, "--categories", "chair", "--dataset-path", dataset, "--out", run) == 0
    assert read_config(run).model.net == "pvcnn"
    assert np.isfinite(np.load(run / "samples.npy")).all()
    assert script("train_gen.py", "--resume", run, "--max-iters", 4) == 0
    model = pcdiff.load(run)
    assert model.denoiser.net.config.down_widths == ("8,8", "16")
    assert model.denoiser.net.config.radii == (0.5, 1.0)
    assert model.sample(2, 24, num_steps=2).shape == (2, 24, 3)


def test_a_set_transformer_may_learn_the_variance_and_attend_to_all():
    options = ["--net", "set_transformer", *SETS, "--net.attention", "full", "--net.learned-variance"]
    model = build_model(parsed("--kind", "direct", *options, "--objectives", "hybrid"))
    assert model.denoiser.variance == "learned_range"
    model.loss_terms(x(), torch.Generator().manual_seed(0))["loss"].backward()
    assert model.denoiser.net.lower.weight.grad.chunk(2)[1].any()
    assert model.sample(2, 8).isfinite().all()


def test_a_direct_model_has_no_codes():
    model = Direct(ModelConfig(kind="direct"), ProcessConfig(name="vp"))
    with pytest.raises(InputError, match="a direct model has no encoder"):
        model.encode(x())
    with pytest.raises(InputError, match="truncate_std is a latent's"):
        model.sample(2, 4, truncate_std=1.0)
    one, two = (model.sample(2, 4, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", first(1, ["coupling", "cnf", "gaussian"]))
def test_a_run_of_0_1_opens_and_goes_on(name, tmp_path):
    """Its samples, drawn by version 0.1 after two more steps, come again; float32 sums may differ by CPU."""
    run = tmp_path / name
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(OLD / name / "config.json", run)
    shutil.copy(OLD / name / "last.safetensors", run / "checkpoints")
    assert read_config(run).model.prior == name
    assert pcdiff.load(run).metadata["step"] == 2
    assert script("train_gen.py", "--resume", run, "--device", "cpu") == 0
    np.testing.assert_allclose(np.load(run / "samples.npy"), np.load(OLD / name / "samples.npy"), atol=1e-3)


def test_an_autoencoder_and_images_of_0_1_open(tmp_path):
    model = pcdiff.load(OLD / "autoencoder" / "last.safetensors")
    assert model.reconstruct(x(), 5).shape == (4, 5, 3)
    assert read_image_config(OLD / "digits").process.name
    assert read_config(OLD / "autoencoder").process.beta_T == pytest.approx(0.05, abs=0.1)


def test_a_config_says_what_it_is_composed_of():
    from pcdiff.training.job import describe

    assert describe(RunConfig()) == "latent (encoder pointnet, prior coupling, net pointwise; ddpm, predicts eps)"
