"""What a researcher writes in a notebook: a net of one's own, ten lines, and the same run from the command line."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import first
from script_tools import ROOT, script
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pcdiff
from pcdiff.__main__ import main as command
from pcdiff.config import DataConfig, RunConfig
from pcdiff.data import load_clouds
from pcdiff.errors import InputError
from pcdiff.models import AutoEncoder, Direct, Latent, ddpm_denoiser, edm_denoiser, flow_matching_denoiser
from pcdiff.nets import NETS
from pcdiff.notebook import LoaderBatches
from pcdiff.runtime import user_modules
from pcdiff.training import checkpoint

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\w+\n(.*?)```", README, flags=re.DOTALL)
NET = next(block for block in BLOCKS if block.startswith("# my_net.py\n"))
NOTEBOOK = next(block for block in BLOCKS if "pcdiff.Trainer(" in block)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if "my_net.py:MyNet" in line]
SMALL = {
    '"data/shapenet.hdf5", "airplane"': '"DATASET", "chair"',
    "steps=20_000, batch_size=32": "steps=3, batch_size=4",
    "sample(100, 2048,": "sample(2, 32,",
}
TINY = """--preset demo --latent-dim 4 --encoder.widths 8 --encoder.head-widths 8 --prior.depth 2
    --prior.hidden-dim 8 --max-iters 3 --val-every 0 --num-points 16 --batch-size 4 --num-samples 2
    --sample-points 8 --val-clouds 2 --val-points 8 --categories chair --net.width 6""".split()


class MeanNet(nn.Module):
    def __init__(self, width: int = 16, cond_dim: int = 0, point_dim: int = 3):
        super().__init__()
        self.width, self.cond_dim, self.point_dim = width, cond_dim, point_dim
        self.layers = nn.Sequential(
            nn.Linear(2 * point_dim + 1 + cond_dim, width), nn.SiLU(), nn.Linear(width, point_dim)
        )

    def forward(self, x, t, cond=None):
        cloud = torch.cat([x.mean(dim=1), t[:, None].to(x), *([] if cond is None else [cond])], dim=1)
        return self.layers(torch.cat([x, cloud[:, None].expand(-1, x.shape[1], -1)], dim=2))


def clouds(count=24, points=32, seed=0):
    """Boxes of several sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(count, 1, 3, generator=generator) + 0.5
    return (torch.rand(count, points, 3, generator=generator) - 0.5) * 2 * sizes


def python(code, folder):
    """Run code in another process, in a folder."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )


def test_the_notebook_of_the_readme(dataset, tmp_path):
    code = NOTEBOOK
    for long, short in SMALL.items():
        assert long in code
        code = code.replace(long, short)
    (tmp_path / "my_net.py").write_text(NET)
    done = python(code.replace("DATASET", str(dataset)), tmp_path)
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout.split()[-1]) <= 100
    said = checkpoint.read(tmp_path / "runs/mine/checkpoints/last.safetensors")[1]
    assert said["config"]["model"]["net"].endswith(":MyNet")
    assert said["dataset"]["name"].startswith("shapenet.hdf5 layout")
    with pytest.raises(InputError, match="not part of pcdiff, and is not run unasked"):
        pcdiff.load(tmp_path / "runs/mine")  # another process: it has not run the notebook


@pytest.mark.parametrize("line", COMMANDS)
def test_the_net_of_the_readme_trains_and_is_asked_for(line, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_modules, "_LOADED", {})
    monkeypatch.setattr(NETS, "_outside", {})
    Path("my_net.py").write_text(NET)
    flags = shlex.split(line, comments=True)[2:]
    assert script("train_gen.py", *flags, *TINY, "--dataset-path", dataset, "--out", "run") == 0
    monkeypatch.setattr(user_modules, "_LOADED", {})
    monkeypatch.setattr(NETS, "_outside", {})
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    with pytest.raises(InputError, match=r"is not run unasked; give --import .*my_net\.py"):
        pcdiff.load("run")
    command("sample --run run --import my_net.py --output new.npy --num-samples 2".split())
    assert np.isfinite(np.load("new.npy")).all()
    sys.modules.pop("my_net", None)


@pytest.mark.parametrize("process", first(1, ["edm", "rectified_flow", "v"]))
def test_losses_fall_and_going_on_is_exact(process, tmp_path):
    """The draws are the same before and after, so that the fall is no accident."""

    def model():
        torch.manual_seed(0)
        if process == "v":
            return Direct(net=MeanNet(), process=pcdiff.config.ProcessConfig(name="vp", predicts="v"))
        return Direct(net=MeanNet(), process=process)

    def loss(trained):
        draws = trained.draw(clouds(), 24, torch.Generator().manual_seed(5))
        return float(trained.loss_terms(clouds(), **draws)["loss"].detach())

    whole = model()
    before = loss(whole)
    settings = {"batch_size": 8, "lr": 1e-2, "lr_decay_end": 200}
    pcdiff.Trainer(whole, clouds(), tmp_path / "whole", steps=200, **settings).fit()
    assert loss(whole) < 0.95 * before
    pcdiff.Trainer(model(), clouds(), tmp_path / "halves", steps=100, **settings).fit()
    resumed = pcdiff.Trainer(model(), clouds(), tmp_path / "halves", steps=200, resume=True, **settings)
    assert resumed.loop.step == 100
    resumed.fit()
    a, b = (checkpoint.read(tmp_path / name / "checkpoints/last.safetensors")[0] for name in ("whole", "halves"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    loaded = pcdiff.load(tmp_path / "whole")
    drawn, again = (m.sample(2, 16, generator=torch.Generator().manual_seed(0)) for m in (loaded, whole.eval()))
    assert torch.equal(drawn, again)
    assert drawn.isfinite().all()


@pytest.mark.parametrize("own_generator", [False, True])
def test_a_loaders_order_is_that_of_its_seed(own_generator, tmp_path):
    def loader():
        generator = torch.Generator() if own_generator else None
        return DataLoader(TensorDataset(clouds()), batch_size=8, shuffle=True, generator=generator)

    def model():
        torch.manual_seed(0)
        return Direct(net=MeanNet(), process="edm")

    pcdiff.Trainer(model(), loader(), tmp_path / "whole", steps=7, lr_decay_end=7).fit()
    pcdiff.Trainer(model(), loader(), tmp_path / "halves", steps=4, lr_decay_end=7).fit()
    pcdiff.Trainer(model(), loader(), tmp_path / "halves", steps=7, lr_decay_end=7, resume=True).fit()
    a, b = (checkpoint.read(tmp_path / name / "checkpoints/last.safetensors")[0] for name in ("whole", "halves"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        lambda p: torch.optim.AdamW([{"params": list(p)[:1], "lr": 1e-2}, {"params": list(p)[1:]}], lr=1e-3),
    ],
)
def test_an_optimizer_of_ones_own_is_kept_and_goes_on(optimizer, tmp_path):
    def trainer(folder, steps, **options):
        torch.manual_seed(0)
        model = Direct(net=MeanNet(), process="edm")
        settings = {
            "optimizer": optimizer(list(model.parameters())),
            "batch_size": 8,
            "lr": 1e-2,
            "lr_decay_end": 6,
        }
        return pcdiff.Trainer(model, clouds(), tmp_path / folder, steps=steps, **settings, **options)

    whole = trainer("whole", 6)
    whole.fit()
    trainer("halves", 3).fit()
    trainer("halves", 6, resume=True).fit()
    a, b = (checkpoint.read(tmp_path / name / "checkpoints/last.safetensors")[0] for name in ("whole", "halves"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert type(whole.loop.optimizer) is type(optimizer(list(nn.Linear(2, 2).parameters())))
    rates = [group["lr"] for group in whole.loop.optimizer.param_groups]
    assert rates == pytest.approx([rates[0] * scale for scale in ((1,) if len(rates) == 1 else (1, 0.1))])


def test_parts_as_names_classes_and_objects():
    named = Latent(net="pointwise", prior="gaussian", process="vp")
    assert (named.config.prior, named.process_config.name) == ("gaussian", "vp")
    assert type(AutoEncoder(net=MeanNet).denoiser.net) is MeanNet
    net = MeanNet(width=4)
    model = Direct(net=net)
    assert model.denoiser.net is net
    assert model.config.net_options.width == 4
    with pytest.raises(InputError, match="net must be a name, a class or a module, got a int"):
        Direct(net=3)
    with pytest.raises(InputError, match=r"parts must be among \['encoder', 'prior', 'net'\], got 'head'"):
        Direct(head="x")
    with pytest.raises(InputError, match="a direct model has no encoder; its parts are net"):
        Direct(encoder="pointnet")
    with pytest.raises(InputError, match="kind must be direct for Direct, got latent"):
        Direct(RunConfig().model)

    class Forgets(nn.Module):
        def __init__(self, width: int = 3):
            super().__init__()

    with pytest.raises(InputError, match=r"Forgets: keep its argument 'width' as an attribute"):
        Direct(net=Forgets())


def test_what_is_drawn_for_a_batch_comes_again_and_leaves_the_random_state_alone():
    """Noise that the loader adds is that of its step, whether or not the batches before it were used."""

    def noisy(rows):
        return torch.stack([row for (row,) in rows]) + torch.rand(1)

    def batches():
        loader = DataLoader(TensorDataset(clouds()), batch_size=8, shuffle=True, collate_fn=noisy)
        return LoaderBatches(loader, 3, torch.device("cpu"))

    before, through, again = torch.get_rng_state(), batches(), batches()
    whole = [through(step) for step in range(7)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again(5), whole[5])
    assert torch.equal(again(6, slice(2, 4)), whole[6][2:4])
    assert not torch.equal(whole[0], whole[3])  # another epoch, another order


def test_a_smaller_last_batch_is_refused():
    short = DataLoader(TensorDataset(clouds()), batch_size=7)
    with pytest.raises(InputError, match="last batch holds 3 of 7 clouds; give it drop_last=True"):
        LoaderBatches(short, 0, torch.device("cpu"))
    ragged = LoaderBatches([clouds(4), clouds(3)], 0, torch.device("cpu"))
    ragged(0)
    with pytest.raises(InputError, match="must be of one size, got 4 and 3"):
        ragged(1)


def test_what_a_trainer_refuses(dataset, tmp_path):
    model = Direct(net=MeanNet(), process="edm")
    for data in (iter([1]), [], 3):
        with pytest.raises(InputError, match=r"data must be clouds \(n, P, 3\), a CloudDataset, or a DataLoader"):
            pcdiff.Trainer(model, data, tmp_path / "a")
    with pytest.raises(InputError, match=r"settings must be fields of TrainConfig, .* got \['lrr'\]"):
        pcdiff.Trainer(model, clouds(), tmp_path / "a", lrr=1)
    with pytest.raises(InputError, match="lr must be above 0, got 0"):
        pcdiff.Trainer(model, clouds(), tmp_path / "a", lr=0)
    pcdiff.Trainer(model, clouds(), tmp_path / "a", steps=1, batch_size=2).fit()
    with pytest.raises(InputError, match="holds a run already; resume=True continues it"):
        pcdiff.Trainer(model, clouds(), tmp_path / "a")
    with pytest.raises(InputError, match="checkpoint"):
        pcdiff.Trainer(model, clouds(), tmp_path / "b", resume=True)


def test_validation_and_scores_take_data_sets(dataset, tmp_path):
    train, val = (load_clouds(dataset, "chair", split) for split in ("train", "val"))
    trainer = pcdiff.Trainer(
        Direct(net=MeanNet(), process="edm"),
        train,
        tmp_path / "run",
        steps=2,
        batch_size=2,
        validation=val,
        val_every=2,
    )
    outcome = trainer.fit()
    assert set(outcome.best) >= {"1-NNA-CD", "score"}
    assert isinstance(trainer.run.data, DataConfig)
    result = pcdiff.evaluate(val.points.numpy(), reference=val, train=train, resamples=0)
    assert result["scores"]["MMD-CD"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("make", [edm_denoiser, flow_matching_denoiser, ddpm_denoiser])
def test_recipes_are_denoisers_of_any_rank(make):
    class Net(nn.Module):
        def forward(self, x, t, cond=None):
            return 0.5 * x

    for shape in ((2, 5, 3), (2, 1, 4, 4)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        t = torch.full((2,), make(Net()).process.last_time() / 2)
        t = t.round().long() if make is ddpm_denoiser else t
        assert make(Net())(x, t).shape == shape


def test_presets_build_their_models():
    model = pcdiff.build_model(pcdiff.generator_preset("demo"))
    assert np.isclose(sum(p.numel() for p in model.parameters()), 541_400, rtol=1e-4)
