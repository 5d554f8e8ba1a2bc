"""A completion model from flags to files: trained, resumed, used and scored."""

import json
import sys

import numpy as np
import pytest
import torch
from script_tools import script

import pcdiff
from pcdiff.commands import cli
from pcdiff.config.files import read_config
from pcdiff.config.presets import GENERATOR_PRESETS
from pcdiff.errors import InputError
from pcdiff.models import Completion
from pcdiff.runtime import user_modules
from pcdiff.training import checkpoint

NET = '''
import torch
from torch import nn


class MeanNet(nn.Module):
    """Points that see their cloud's mean."""

    def __init__(self, width: int = 8, cond_dim: int = 0, point_dim: int = 3):
        super().__init__()
        self.width = width
        self.first = nn.Linear(2 * point_dim + 1 + cond_dim, width)
        self.last = nn.Linear(width, point_dim)

    def forward(self, x, t, cond=None):
        told = torch.cat([x.mean(dim=1), t[:, None].to(x)], dim=1)[:, None].expand(-1, x.shape[1], -1)
        return self.last(torch.relu(self.first(torch.cat([x, told], dim=2))))
'''
TINY = """--kind completion --preset demo --process edm --num-given 12 --max-iters 6 --val-every 3 --num-points 40
    --batch-size 4 --num-samples 2 --sample-points 48 --val-clouds 3 --val-points 48
    --sampling.num-steps 3""".split()


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("nets") / "mean_net.py"
    path.write_text(NET)
    yield path
    sys.modules.pop(path.stem, None)
    user_modules._LOADED.pop(str(path), None)


@pytest.fixture(scope="module")
def run(net, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "half"
    flags = [*TINY, "--net", f"{net}:MeanNet", "--categories", "chair", "--dataset-path", dataset]
    assert script("train_gen.py", *flags, "--out", folder) == 0
    return folder


def parsed(net, *flags):
    return cli.parse_run(GENERATOR_PRESETS, [*TINY, "--net", f"{net}:MeanNet", *map(str, flags)])


def test_a_run_completes_validation_clouds_and_scores_them(run):
    config = read_config(run)
    assert (config.model.kind, config.data.normalization, config.data.partial.rule) == (
        "completion",
        "global",
        "view",
    )
    clouds = np.load(run / "samples.npy")
    assert clouds.shape == (2 * 3, 48, 3)  # three completions of each
    given = clouds.reshape(2, 3, 48, 3)[:, :, :12]
    assert (given == given[:, :1]).all()
    results = json.loads((run / "results.json").read_text())
    assert results["counts"] == {"pairs": 2, "points": [48, 48], "completions": 3}
    assert {"CD-L1", "CD-L2", "F-score", "TMD"} <= set(results["scores"])
    assert results["training"]["best"]["score"] == results["training"]["best"]["CD-L2"]
    assert (run / "samples.png").stat().st_size > 0
    assert isinstance(pcdiff.load(run), Completion)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(net, run, dataset, tmp_path):
    flags = [*TINY, "--net", f"{net}:MeanNet", "--categories", "chair", "--dataset-path", dataset]
    assert script("train_gen.py", *flags, "--out", tmp_path / "half", "--max-iters", 3) == 0
    assert script("train_gen.py", "--resume", tmp_path / "half", "--max-iters", 6) == 0
    weights = [checkpoint.read(at / "checkpoints" / "last.safetensors")[0] for at in (tmp_path / "half", run)]
    names = [name for name in weights[0] if name.startswith("model.")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in names)


def test_the_statistics_of_the_training_set_are_the_default(net):
    assert parsed(net).data.normalization == "global"
    assert parsed(net, "--normalization", "none").data.normalization == "none"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--normalization", "shape_unit"],
            "normalization must be global or none for a completion model, got shape",
        ),
        (["--num-given", 0], "num_given must be at least 1, got 0"),
        (["--num-given", 40], "num_points must be above num_given = 40, got 40"),
        (["--sample-points", 12], "sample_points must be above num_given = 12, got 12"),
        (["--partial.removed", "0.5", "1.5"], r"partial.removed must be shares in \(0, 1\), got \[0.5, 1.5\]"),
        (["--partial.resolution", 0], "partial.resolution must be at least 1, got 0"),
        (["--partial.radius", -1], "partial.radius must be at least 0, got -1"),
        (["--partial.rule", "half"], "--partial.rule must be one of view, nearest, got 'half'"),
    ],
)
def test_flags_that_do_not_fit_are_refused_first(net, flags, message):
    with pytest.raises(InputError, match=message):
        parsed(net, *flags)
