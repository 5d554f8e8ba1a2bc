"""evaluate.py as a user runs it: on runs and files, stopped and resumed, shared by processes."""

import json
import re

import numpy as np
import pytest
import torch
import trimesh
from script_tools import script, train

import pcdiff
from pcdiff.data import load_clouds
from pcdiff.metrics import fingerprint


def test_evaluate_a_generator(generator_run, tmp_path):
    assert script("evaluate.py", "--run", generator_run, "--out", tmp_path, "--device", "cpu") == 0
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["split"] == "test"
    assert result["counts"] == {"samples": 6, "reference": 6, "train": 10, "points": 32}
    assert {"MMD-CD", "COV-CD", "1-NNA-CD", "MMD-EMD", "COV-EMD", "1-NNA-EMD", "JSD"} <= set(result["scores"])
    assert result["protocol"]["name"] == "dpm"
    assert result["dataset"]["fingerprint"] == result["trained_on"]["fingerprint"]


def test_evaluate_an_autoencoder(autoencoder_run, tmp_path):
    assert script("evaluate.py", "--run", autoencoder_run, "--out", tmp_path, "--device", "cpu") == 0
    result = json.loads((tmp_path / "results.json").read_text())
    assert {"CD", "CD-median", "EMD", "F-score"} <= set(result["scores"])


def test_a_run_is_scored_with_any_sampler(generator_run, tmp_path, capsys):
    common = ["evaluate.py", "--run", generator_run, "--emd", "no", "--resamples", 0, "--device", "cpu"]
    assert script(*common, "--out", tmp_path, "--sampler", "dpmpp", "--num-steps", 2, "--precision", "bf16") == 0
    result = json.loads((tmp_path / "results.json").read_text())
    assert {"sampler": "dpmpp", "num_steps": 2, "precision": "bf16"}.items() <= result["settings"].items()
    assert "drawn with sampler dpmpp, steps 2, precision bf16" in result["details"]["notes"]
    assert script(*common, "--out", tmp_path / "no", "--sampler", "dmppp") == 2
    assert "predictor must be one of" in capsys.readouterr().err
    assert not (tmp_path / "no" / "results.json").exists()


def test_a_stopped_evaluation_goes_on(dataset, tmp_path, monkeypatch):
    for module in (
        "evaluation.runs",
        "evaluation.job",
        "models.sampling",
    ):  # the last is where the others have it from
        monkeypatch.setattr(f"pcdiff.{module}.CHUNK", 2)
    run = train("train_gen.py", dataset, tmp_path / "run", "--max-iters", 2)
    common = ["--device", "cpu", "--emd", "no"]
    assert script("evaluate.py", "--run", run, "--out", tmp_path / "whole", *common) == 0
    assert script("evaluate.py", "--run", run, "--out", tmp_path / "parts", "--max-iters", 2, *common) == 0
    assert (tmp_path / "parts" / "results.partial").is_file()
    assert not (tmp_path / "parts" / "results.json").exists()
    assert script("evaluate.py", "--resume", run, "--out", tmp_path / "parts", *common) == 0
    whole, parts = (json.loads((tmp_path / d / "results.json").read_text()) for d in ("whole", "parts"))
    assert whole["scores"] == parts["scores"]
    assert not (tmp_path / "parts" / "results.partial").exists()


def test_evaluate_files(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.normal(size=(6, 40, 3)).astype(np.float32))
    np.save(tmp_path / "b.npy", rng.normal(size=(6, 40, 3)))
    output = tmp_path / "scores.json"
    files = ["--samples", tmp_path / "a.npy", "--reference", tmp_path / "b.npy", "--output", output]
    assert script("evaluate.py", *files) == 0
    assert json.loads(output.read_text())["scores"]["MMD-EMD"] > 0


def test_scoring_against_another_data_set_is_refused_unless_told(generator_run, dataset, tmp_path, capsys):
    other = ["evaluate.py", "--run", generator_run, "--dataset-path", dataset, "--categories", "airplane"]
    assert script(*other, "--out", tmp_path / "no", "--device", "cpu") == 2
    assert re.search(r"was trained on .*\(chair, .*not on .*\(airplane", capsys.readouterr().err)
    assert not (tmp_path / "no" / "results.json").exists()
    assert script(*other, "--out", tmp_path / "yes", "--device", "cpu", "--allow-other-dataset", "--emd", "no") == 0
    result = json.loads((tmp_path / "yes" / "results.json").read_text())
    assert result["dataset"] != result["trained_on"]


def test_evaluate_refuses_another_models_checkpoint(generator_run, autoencoder_run, tmp_path, capsys):
    run = tmp_path / "mixed"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text((generator_run / "config.json").read_text())
    source = autoencoder_run / "checkpoints" / "last.safetensors"
    (run / "checkpoints" / "last.safetensors").write_bytes(source.read_bytes())
    assert script("evaluate.py", "--run", run, "--device", "cpu") == 2
    assert "holds another model than" in capsys.readouterr().err


def test_renamed_data_is_the_same_data(generator_run, dataset, tmp_path):
    renamed = tmp_path / "renamed.hdf5"
    renamed.write_bytes(dataset.read_bytes())
    common = ["--dataset-path", renamed, "--out", tmp_path / "out", "--device", "cpu", "--emd", "no"]
    assert script("evaluate.py", "--run", generator_run, *common) == 0


def test_evaluation_keeps_what_the_training_said(dataset, tmp_path):
    run = train("train_gen.py", dataset, tmp_path / "run", "--max-iters", 2)
    assert script("evaluate.py", "--run", run, "--device", "cpu", "--emd", "no") == 0
    result = json.loads((run / "results.json").read_text())
    assert result["split"] == "test"
    assert result["training"]["steps"] == 2


def test_autoencoders_are_scored_in_the_data_sets_own_unit(dataset, tmp_path):
    run = train("train_ae.py", dataset, tmp_path / "run", "--max-iters", 1)
    assert script("evaluate.py", "--run", run, "--device", "cpu", "--out", tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    clouds = load_clouds(dataset, "chair", "test", "shape_unit")
    made = torch.from_numpy(np.load(tmp_path / "out" / "samples.npy"))
    assert made.shape == (6, 32, 3)
    own = [clouds.denormalize(v, range(6)) for v in (made, clouds.points[:, :32])]
    assert result["scores"]["CD"] == pytest.approx(float(pcdiff.chamfer(*own).mean()), rel=1e-4)
    assert "denormalized" in result["unit"]


def test_a_damaged_partial_evaluation_is_one_clear_line(generator_run, tmp_path, capsys):
    (tmp_path / "results.partial").write_bytes(b"PK not an archive")
    flags = ["--resume", generator_run, "--out", tmp_path, "--device", "cpu"]
    assert script("evaluate.py", *flags) == 2
    assert "results.partial: not a journal" in capsys.readouterr().err


def _save(path, n=6, points=40, seed=0):
    clouds = np.random.default_rng(seed).normal(size=(n, points, 3)).astype(np.float32)
    np.save(path, clouds)
    return clouds


def _scores(path):
    return json.loads(path.read_text())["scores"]


def test_a_folder_of_other_formats_scores_like_the_array(tmp_path):
    clouds = _save(tmp_path / "a.npy")
    _save(tmp_path / "b.npy", seed=1)
    (tmp_path / "folder").mkdir()
    for i, cloud in enumerate(clouds):
        trimesh.PointCloud(cloud).export(tmp_path / "folder" / f"{i}.ply")
    for name in ("a.npy", "folder"):
        files = ["--samples", tmp_path / name, "--reference", tmp_path / "b.npy"]
        assert script("evaluate.py", *files, "--output", tmp_path / f"{name[:1]}.json") == 0
    assert _scores(tmp_path / "a.json") == _scores(tmp_path / "f.json")
    for suffix in (".json", ".md", ".png"):
        assert (tmp_path / f"a{suffix}").stat().st_size > 500


def test_clouds_of_unequal_sizes_need_a_rule(tmp_path, capsys):
    _save(tmp_path / "b.npy")
    (tmp_path / "folder").mkdir()
    for i in range(6):
        _save(tmp_path / "folder" / f"{i}.npy", n=1, points=30 + i, seed=i)
    files = ["--samples", tmp_path / "folder", "--reference", tmp_path / "b.npy", "--output", tmp_path / "s.json"]
    assert script("evaluate.py", *files) == 2
    assert "--point-rule" in capsys.readouterr().err
    assert not list(tmp_path.glob("s.*"))
    for rule in ("first", "random", "farthest"):
        assert script("evaluate.py", *files, "--point-rule", rule) == 0
        result = json.loads((tmp_path / "s.json").read_text())
        assert result["counts"]["points"] == 30
        assert "MMD-EMD" in result["scores"]


def test_reconstructions_stand_beside_the_oracle(tmp_path, capsys):
    reference = _save(tmp_path / "b.npy", points=60)
    np.save(tmp_path / "a.npy", reference + 0.01)
    files = ["--reconstructions", tmp_path / "a.npy", "--reference", tmp_path / "b.npy"]
    assert script("evaluate.py", *files, "--output", tmp_path / "s.json") == 0
    result = json.loads((tmp_path / "s.json").read_text())
    assert result["scores"]["EMD"] == pytest.approx(0.01 * 3**0.5, rel=1e-3)
    assert len(result["per_cloud"]["CD"]) == 6
    assert result["oracle"]["points"] == 30
    assert result["dataset"]["reference"]["source"] == str(tmp_path / "b.npy")
    assert "oracle (two samplings of one shape)" in capsys.readouterr().err
    _save(tmp_path / "c.npy", points=60, seed=2)
    assert script("evaluate.py", *files, "--oracle", tmp_path / "c.npy", "--output", tmp_path / "s.json") == 0
    assert json.loads((tmp_path / "s.json").read_text())["oracle"]["points"] == 60


def test_results_stand_side_by_side_or_are_refused(tmp_path, capsys):
    _save(tmp_path / "ref.npy", seed=9)
    for i, protocol in enumerate(["dpm", "dpm", "raw"]):
        _save(tmp_path / f"{i}.npy", seed=i)
        files = ["--samples", tmp_path / f"{i}.npy", "--reference", tmp_path / "ref.npy"]
        assert script("evaluate.py", *files, "--output", tmp_path / f"r{i}.json", "--protocol", protocol) == 0
    capsys.readouterr()
    assert script("evaluate.py", "--compare", tmp_path / "r0.json", tmp_path / "r1.json") == 0
    text = capsys.readouterr().err
    assert "| r0 " in text
    assert "| r1 " in text
    pair = [tmp_path / "r0.json", tmp_path / "r1.json"]
    for form, begins in (("csv", "row,score,value,low,high,verdict\nr0,MMD-CD,"), ("latex", "% Protocol `dpm`: ")):
        assert script("evaluate.py", "--compare", *pair, "--format", form) == 0
        assert capsys.readouterr().out.startswith(begins)
    assert script("evaluate.py", "--run", tmp_path, "--format", "csv") == 2
    assert "--format csv goes with --compare only" in capsys.readouterr().err
    assert script("evaluate.py", "--compare", tmp_path / "r0.json", tmp_path / "r2.json") == 2
    assert "protocol name differs, 'dpm' and 'raw'" in capsys.readouterr().err


def test_pointflow_compares_in_the_data_sets_own_unit(generator_run, dataset, tmp_path, capsys):
    lion = ["--protocol", "pointflow-lion", "--device", "cpu", "--emd", "no"]
    assert script("evaluate.py", "--run", generator_run, "--out", tmp_path / "no", *lion) == 2
    assert "--normalization global" in capsys.readouterr().err
    assert script("evaluate.py", "--run", generator_run, "--out", tmp_path / "no", "--protocol", "pointflow") == 2
    assert "--normalization global" in capsys.readouterr().err
    run = train("train_gen.py", dataset, tmp_path / "run", "--max-iters", 2, "--normalization", "global")
    assert script("evaluate.py", "--run", run, *lion) == 0
    result = json.loads((run / "results.json").read_text())
    assert result["split"] == "val"
    raw = load_clouds(dataset, "chair", "val", "none").points[:, :32]
    assert result["dataset"]["reference"]["sha256"] == fingerprint(raw)
    own = load_clouds(dataset, "chair", "val", "global")
    made = own.denormalize_generated(torch.from_numpy(np.load(run / "samples.npy")))
    assert result["dataset"]["samples"]["sha256"] == fingerprint(made)
    other = ["--categories", "airplane", "--allow-other-dataset", "--out", tmp_path / "no"]
    assert script("evaluate.py", "--run", run, *lion, *other) == 2
    assert "undoes the normalization of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: _save(f / "b.npy", n=5), "must hold equally many clouds, got 6 and 5.*--num-samples 5"),
        (lambda f: np.save(f / "b.npy", np.where(np.arange(6)[:, None, None] == 3, np.nan, _save(f / "b.npy"))),
         r"b\.npy\[3\]: NaN or inf"),
        (lambda f: np.save(f / "b.npy", np.zeros((6, 40, 2), np.float32)), r"b\.npy: .*\(6, 40, 2\)"),
        (lambda f: ((f / "b.npy").unlink(), (f / "b.npy").mkdir()), r"b\.npy: no file of clouds; found 0 folders"),
        (lambda f: (f / "b.npy").unlink(), r"b\.npy: no such file"),
    ],
)  # fmt: skip
def test_bad_sets_are_one_clear_line_and_leave_nothing(change, message, tmp_path, capsys):
    _save(tmp_path / "a.npy")
    _save(tmp_path / "b.npy")
    change(tmp_path)
    files = ["--samples", tmp_path / "a.npy", "--reference", tmp_path / "b.npy"]
    for place in (["--output", tmp_path / "s.json"], ["--out", tmp_path / "s.out"]):
        capsys.readouterr()
        assert script("evaluate.py", *files, *place) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert re.search(f"^error: .*{message}", lines[0]), lines[0]
        assert not list(tmp_path.glob("s.*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "a.npy"], "--samples needs --reference"),
        (["--run", "r", "--reference", "b.npy"], "--reference goes with --samples or --reconstructions"),
        (
            ["--samples", "a.npy", "--reference", "b.npy", "--oracle", "c.npy"],
            "--oracle goes with --reconstructions",
        ),
        (
            ["--reconstructions", "a.npy", "--reference", "b.npy", "--train", "c"],
            "--train goes with --samples only",
        ),
        (["--compare", "a.json", "--run", "r"], "give one of .*, got --run and --compare"),
        (["--samples", "a.npy", "--reference", "b.npy", "--output", "s.png"], "--output must end in .json"),
        (["--samples", "a.npy", "--reference", "b.npy", "--num-steps", "9"], "--num-steps goes with --run only"),
        (["--resume", "nowhere"], "--resume nowhere: no stopped evaluation there"),
    ],
)
def test_flags_that_contradict(flags, message, capsys):
    assert script("evaluate.py", *flags) == 2
    assert re.search(message, capsys.readouterr().err)
