"""A completion model from flags to files: trained, resumed, used and scored."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from refusals import refused
from script_tools import script

import pcdiff
from pcdiff.commands import cli
from pcdiff.config import PartialConfig
from pcdiff.config.files import read_config
from pcdiff.config.presets import GENERATOR_PRESETS
from pcdiff.data import load_clouds, load_raw
from pcdiff.errors import InputError, UnknownField
from pcdiff.metrics import completion_scores
from pcdiff.models import Completion, build_model, editing
from pcdiff.models.upsampling import upsample
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


INDUCERS = """--preset set-quick --net.width 16 --net.depth 1 --net.num-heads 2 --net.num-inducers 4
    --sampling.num-steps 2 --process.sigma-data 1.0""".split()


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


@pytest.fixture(scope="module")
def shared_run(net, dataset, tmp_path_factory):
    """A run in the training set's statistics, as PVD's are."""
    folder = tmp_path_factory.mktemp("runs") / "shared"
    flags = [*TINY, "--net", f"{net}:MeanNet", "--categories", "chair", "--dataset-path", dataset]
    once = ["--normalization", "global", "--max-iters", 1, "--val-every", 0, "--num-samples", 1]
    assert script("train_gen.py", *flags, *once, "--out", folder) == 0
    return folder


def parsed(net, *flags):
    return cli.parse_run(GENERATOR_PRESETS, [*TINY, "--net", f"{net}:MeanNet", *map(str, flags)])


def test_a_run_completes_validation_clouds_and_scores_them(run):
    config = read_config(run)
    assert (config.model.kind, config.data.partial.rule) == ("completion", "view")
    assert config.data.normalization == "shape_unit_per_axis"
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


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(net, run, dataset, tmp_path):
    flags = [*TINY, "--net", f"{net}:MeanNet", "--categories", "chair", "--dataset-path", dataset]
    assert script("train_gen.py", *flags, "--out", tmp_path / "half", "--max-iters", 3) == 0
    assert script("train_gen.py", "--resume", tmp_path / "half", "--max-iters", 6) == 0
    weights = [checkpoint.read(at / "checkpoints" / "last.safetensors")[0] for at in (tmp_path / "half", run)]
    names = [name for name in weights[0] if name.startswith("model.")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in names)


def test_a_notebooks_trainer_cuts_the_clouds_too(dataset, tmp_path):
    data = load_clouds(dataset, "chair", "train")
    model = build_model(cli.parse_run(GENERATOR_PRESETS, [*INDUCERS, "--kind", "completion", "--num-given", "12"]))
    partial = PartialConfig(rule="nearest", removed=(0.5,))
    trainer = pcdiff.Trainer(
        *(model, data, tmp_path / "mine"), steps=1, batch_size=4, partial=partial, validation=data.points[:2]
    )
    batch = trainer.loop.batches(0)
    torch.testing.assert_close(batch[:, :12].mean(dim=1), torch.zeros(4, 3), rtol=0, atol=1e-6)
    assert "CD-L2" in trainer.fit().best
    config = read_config(tmp_path / "mine")
    assert (config.data.normalization, config.data.partial) == ("shape_unit_per_axis", partial)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--normalization", "shape_unit"],
            "must be one of shape_unit_per_axis, .*none.* for a completion model, got shape_unit:",
        ),
        (["--num-given", 0], "num_given must be at least 1, got 0"),
        (["--num-given", 40], "num_points must be above num_given = 40, got 40"),
        (["--partial.removed", "0.5", "1.5"], r"partial.removed must be shares in \(0, 1\), got \[0.5, 1.5\]"),
        (["--partial.resolution", 0], "partial.resolution must be at least 1, got 0"),
        (["--partial.rule", "half"], "--partial.rule must be one of view, nearest, got 'half'"),
    ],
)
def test_flags_that_do_not_fit_are_refused_first(net, flags, message):
    with pytest.raises(InputError, match=message):
        parsed(net, *flags)


@pytest.fixture
def half(run, dataset, tmp_path):
    """Two whole chairs, and halves of them, in the data set's unit."""
    whole = load_raw(dataset, "chair", "test")[:2]
    np.save(tmp_path / "whole.npy", whole.numpy())
    np.save(tmp_path / "half.npy", whole[:, :32].numpy())
    return tmp_path


def complete(net, run, half, *args):
    files = ["--input", half / "half.npy", "--output", half / "done.npy", "--import", net]
    return script("pcdiff/__main__.py", "complete", "--run", run, *files, "--device", "cpu", *args)


def test_the_command_completes_in_the_inputs_unit_and_scores(net, run, half, capsys):
    capsys.readouterr()
    flags = ["--num-points", 64, "--num-completions", 2, "--truth", half / "whole.npy"]
    assert complete(net, run, half, *flags) == 0
    line = capsys.readouterr().out
    assert "by a model trained for it, from 12 of 32 points" in line
    made, given = np.load(half / "done.npy"), np.load(half / "half.npy")
    assert made.shape == (4, 64, 3)
    assert np.array_equal(made[:, :32], given.repeat(2, axis=0))
    assert not np.array_equal(made[0], made[1])
    scores = json.loads((half / "done.json").read_text())
    assert scores["counts"] == {"pairs": 2, "points": [64, 64], "completions": 2}
    assert f"CD-L1 {scores['scores']['CD-L1']:.4g}" in line
    whole = np.load(half / "whole.npy")
    again = completion_scores(completions=made.reshape(2, 2, 64, 3), reference=whole, given=given)
    assert again["scores"] == pytest.approx(scores["scores"])
    # the first of several is the one that is asked for alone, and a cloud's does not depend on the others
    np.save(half / "half.npy", given[:1])
    assert complete(net, run, half, "--num-points", 64) == 0
    np.testing.assert_allclose(np.load(half / "done.npy")[0], made[0], rtol=1e-5, atol=1e-6)


def test_a_completion_follows_its_input_wherever_it_lies_and_however_large_it_is(net, run, half):
    """Normalized by the given points: in another unit at another place it is the same completion."""
    given = np.load(half / "half.npy")[:, :12]
    made = []
    for scale, shift in ((1, 0), (8, 16)):
        np.save(half / "half.npy", given * np.float32(scale) + np.float32(shift))
        assert complete(net, run, half, "--num-points", 20) == 0
        made.append(np.load(half / "done.npy"))
    np.testing.assert_allclose(made[1], 8 * made[0] + 16, rtol=1e-5)


@pytest.mark.slow
def test_the_rest_is_in_the_statistics_of_the_training_set(net, shared_run, half):
    """What is drawn is brought back by `x * std + mean`, of the run's own statistics."""
    model = pcdiff.load(shared_run)
    given = torch.from_numpy(np.load(half / "half.npy")[:, :12])
    mean, std = (torch.tensor(model.metadata["statistics"][key]) for key in ("mean", "std"))
    np.save(half / "half.npy", given.numpy())
    assert complete(net, shared_run, half, "--num-points", 20) == 0
    made = torch.from_numpy(np.load(half / "done.npy"))
    drawn = editing.complete(model, (given - mean) / std, 20, 2020)[:, 12:]
    torch.testing.assert_close(made[:, 12:], drawn * std + mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-points", 32], "num_points must be more than the 32 points given, got 32"),
        (["--input-points", 8, "--num-points", 32], "trained to complete clouds of 12 points or more, got 8"),
        (["--num-points", 40, "--num-completions", 0], "--num-completions must be at least 1, got 0"),
        (["--num-points", 40, "--truth", "{half}/one.npy"], "must hold one cloud for each of 2, got 1"),
    ],
)
def test_a_completion_that_cannot_be_is_one_line(net, run, half, capsys, flags, message):
    np.save(half / "one.npy", np.zeros((1, 5, 3), dtype=np.float32))
    assert complete(net, run, half, *(str(flag).format(half=half) for flag in flags)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_completion_model_does_not_sample(net, run, tmp_path, capsys):
    flags = ["sample", "--run", run, "--import", net, "--output", tmp_path / "x.npy"]
    assert script("pcdiff/__main__.py", *flags) == 2
    assert "a completion model needs given points; take complete" in capsys.readouterr().err
    for name in ("invert", "reconstruct", "log-likelihood"):
        output = tmp_path / ("x.json" if name == "log-likelihood" else "x.npy")
        flags = ["--run", run, "--input", tmp_path / "in.npy", "--output", output]
        np.save(tmp_path / "in.npy", np.eye(3, dtype=np.float32)[None])
        extra = ["--import", net] if name == "reconstruct" else []
        assert script("pcdiff/__main__.py", name, *flags, *extra) == 2
        assert "a completion model has no encoder, so clouds have no codes" in capsys.readouterr().err


def test_other_models_complete_by_a_constraint_and_say_so(generator_run, half, capsys):
    assert complete("tests/script_tools.py", generator_run, half, "--num-points", 40) == 0
    assert "by a constraint: the model was not trained for it" in capsys.readouterr().out


def test_a_direct_model_completes_without_a_code(net, half):
    config = parsed(net)
    config = replace(config, model=replace(config.model, kind="direct"))
    model = build_model(config).eval()
    given = torch.from_numpy(np.load(half / "half.npy"))
    made = editing.complete(model, given, 40, 0, num_steps=3)
    torch.testing.assert_close(made[:, :32], given)
    assert made.isfinite().all()


def evaluated(net, run, *args):
    return script("evaluate.py", "--run", run, "--import", net, "--device", "cpu", "--num-points", 40, *args)


def test_a_run_is_scored_on_the_test_split_beside_the_nearest_training_clouds(net, run, dataset, tmp_path, capsys):
    flags = ["--num-samples", 2, "--num-completions", 2, "--num-steps", 2, "--sampler", "dpmpp"]
    assert evaluated(net, run, *flags, "--out", tmp_path / "a") == 0
    result = json.loads((tmp_path / "a" / "results.json").read_text())
    assert result["counts"] == {"pairs": 2, "points": [40, 40], "completions": 2}
    made = np.load(tmp_path / "a" / "samples.npy").reshape(2, 2, 40, 3)
    mode = "shape_unit_per_axis"  # of each whole cloud, which is the unit of the scores
    assert result["unit"] == f"each whole cloud normalized ({mode})"
    whole, train = (load_clouds(dataset, "chair", split, mode).points.numpy() for split in ("test", "train"))
    reference = whole[:2, :40]
    own = completion_scores(completions=made, reference=reference, given=made[:, 0, :12])
    assert own["scores"] == pytest.approx(result["scores"], rel=1e-5, abs=1e-6)
    # the points given are some of the true cloud's
    for given, cloud in zip(made[:, 0, :12], whole[:2], strict=True):
        assert np.abs(given[:, None] - cloud[None]).sum(axis=2).min(axis=1).max() < 1e-5
    nearest = train[result["baseline"]["train_index"], :40]
    baseline = completion_scores(completions=nearest, reference=reference)["scores"]
    assert baseline == pytest.approx(result["baseline"]["scores"], rel=1e-5)
    assert result["partial"]["rule"] == "view"
    text = (tmp_path / "a" / "results.md").read_text()
    assert "nearest training cloud, by the points given" in text
    assert "drawn with sampler dpmpp, steps 2" in text
    # stopped after one chunk and gone on with, it is the same
    assert evaluated(net, run, *flags, "--out", tmp_path / "b", "--max-iters", 1) == 0
    assert not (tmp_path / "b" / "results.json").exists()
    assert script("evaluate.py", "--resume", tmp_path / "b", "--import", net, "--max-iters", 100) == 0
    assert json.loads((tmp_path / "b" / "results.json").read_text())["scores"] == result["scores"]
    capsys.readouterr()
    assert script("evaluate.py", "--compare", tmp_path / "a" / "results.json", tmp_path / "b" / "results.json") == 0
    assert evaluated(net, run, "--num-completions", 0) == 2
    assert "num_completions must be at least 1, got 0" in capsys.readouterr().err
    assert script("evaluate.py", "--run", run, "--import", net, "--num-points", 12, "--out", tmp_path) == 2
    assert "num_points must be more than the 12 points given, got 12" in capsys.readouterr().err


def test_the_states_of_inducers_complete_too(half):
    model = build_model(cli.parse_run(GENERATOR_PRESETS, INDUCERS)).eval()
    given = torch.from_numpy(np.load(half / "half.npy"))
    made = editing.completions(model, given, 40, 0, 2, method="inducers")
    assert torch.equal(made[:, :, :32], given[:, None].expand(-1, 2, -1, -1))
    torch.testing.assert_close(made[:, 0, 32:], upsample(model, given, 8, 0))
    assert not torch.equal(made[:, 0], made[:, 1])
    torch.testing.assert_close(editing.completions(model, given[:1], 40, 0, method="inducers")[0, 0], made[0, 0])
    with pytest.raises(InputError, match=r"draws by Heun's method .*, got .*'dpmpp'"):
        editing.complete(model, given, 40, 0, method="inducers", sampler="dpmpp")
    with pytest.raises(InputError, match="guidance must be 1 for further points of given clouds, got 2"):
        editing.completions(model, given, 40, 0, method="inducers", guidance=2.0)
    with refused(UnknownField, unknown=("churn",)):
        editing.completions(model, given, 40, 0, method="inducers", churn=3.0)


def test_a_set_transformer_is_trained_to_complete(half):
    """The given points reach it through its inducers; with a mark as a fourth coordinate."""
    flags = [*INDUCERS, "--kind", "completion", "--num-given", "12"]
    for mark in ("--no-mark-given", "--mark-given"):
        model = build_model(cli.parse_run(GENERATOR_PRESETS, [*flags, mark])).eval()
        for parameter in model.parameters():  # the last layer starts near 0
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
        given = torch.from_numpy(np.load(half / "half.npy"))[:, :12]
        made, other = (model.complete(g, 20, generator=torch.Generator().manual_seed(0)) for g in (given, -given))
        assert made.isfinite().all()
        assert (made[:, 12:] - other[:, 12:]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "method", "message"),
    [
        ("direct", "trained", "method trained does not go with a model that has not been trained to complete"),
        (
            "completion",
            "constraint",
            "method constraint does not go with a model that has been trained to complete",
        ),
        ("direct", "magic", "method must be one of trained, constraint, inducers, got 'magic'"),
        ("direct", "inducers", "further points need a net with inducers, such as set_transformer, got MeanNet"),
    ],
)
def test_methods_that_do_not_go_with_a_model(net, half, kind, method, message):
    config = parsed(net)
    model = build_model(replace(config, model=replace(config.model, kind=kind))).eval()
    with pytest.raises(InputError, match=message):
        editing.complete(model, torch.from_numpy(np.load(half / "half.npy")), 40, 0, method=method)
