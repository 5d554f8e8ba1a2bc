"""An evaluation that is killed, stopped or shared gives the same result, to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from script_tools import ROOT, script

from pcdiff.metrics import emd_seconds, evaluate

COUNT, POINTS = 26, 96


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clouds")
    g = np.random.default_rng(0)
    for name, count in (("a", COUNT), ("b", COUNT), ("train", 2 * COUNT)):
        shape = g.normal(size=(count, POINTS, 3)) * g.uniform(0.3, 1, size=(count, 1, 3))
        np.save(folder / f"{name}.npy", shape.astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def flags(files):
    sets = ["--samples", files / "a.npy", "--reference", files / "b.npy", "--train", files / "train.npy"]
    return [*map(str, sets), "--device", "cpu", "--resamples", "50"]


@pytest.fixture(scope="module")
def expected(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert script("evaluate.py", *flags, "--out", out) == 0
    return (out / "results.json").read_bytes()


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_still_gives_the_same_result(kills, nursery, flags, expected, tmp_path):
    tmp_path, errors = tmp_path / "out", tmp_path / "errors"
    argv = [*flags, "--out", tmp_path]
    journal, chance, killed, sizes = tmp_path / "results.partial", random.Random(1), 0, []
    while killed < kills:
        child = nursery.start(errors, "evaluate.py", *argv)
        before = journal.stat().st_size if journal.exists() else 0
        # Some die before they have written anything, the others after a random number of blocks.
        wanted = before + chance.choice([0, 1, 1000, 2000])
        deadline = time.monotonic() + 60
        while nursery.status(child) is None and time.monotonic() < deadline:
            if journal.exists() and journal.stat().st_size >= wanted:
                time.sleep(chance.random() * 0.01)
                break
            time.sleep(0.001)
        nursery.send(child, signal.SIGKILL)
        status = nursery.wait(child)
        if status == 0:
            break
        assert status == -signal.SIGKILL, errors.read_text()
        killed += 1
        sizes.append(journal.stat().st_size if journal.exists() else 0)
    assert killed == kills, "it was done before it could be killed so often"
    assert not (tmp_path / "results.json").exists()
    assert len(set(sizes)) > kills // 3  # it did get on between the kills
    assert script("evaluate.py", "--resume", tmp_path) == 0
    assert (tmp_path / "results.json").read_bytes() == expected
    assert not journal.exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["files", "run"])
def test_two_processes_give_the_result_of_one(what, flags, generator_run, tmp_path):
    if what == "run":
        flags = ["--run", str(generator_run), "--device", "cpu", "--emd", "yes", "--resamples", "50"]
    # Torch's sums depend on the number of threads; the ops' do not.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone = [sys.executable, ROOT / "evaluate.py", *flags, "--out", tmp_path / "one"]
    shared = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--"]
    shared += [ROOT / "evaluate.py", *flags, "--out", tmp_path / "two"]
    for command in (alone, shared):
        done = subprocess.run(
            list(map(str, command)), env=env, cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    assert done.stderr.count("results: ") == 1
    one, two = ((tmp_path / name / "results.json").read_bytes() for name in ("one", "two"))
    assert one == two
    if what == "run":
        clouds = [np.load(tmp_path / name / "samples.npy") for name in ("one", "two")]
        np.testing.assert_array_equal(*clouds)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_keeps_what_is_done_and_says_how_to_go_on(number, nursery, flags, expected, tmp_path):
    tmp_path, errors = tmp_path / "out", tmp_path / "errors"
    process = nursery.start(errors, "evaluate.py", *flags, "--out", tmp_path)
    journal, deadline = tmp_path / "results.partial", time.monotonic() + 60
    while not (journal.exists() and journal.stat().st_size > 1000) and time.monotonic() < deadline:
        time.sleep(0.001)
    nursery.send(process, number)
    assert nursery.wait(process) == 0
    error = errors.read_text()
    assert f"resume with: --resume {tmp_path}" in error
    assert "Traceback" not in error
    assert not (tmp_path / "results.json").exists()
    assert script("evaluate.py", "--resume", tmp_path) == 0
    assert (tmp_path / "results.json").read_bytes() == expected


@pytest.mark.slow
def test_a_time_limit_stops_and_the_same_command_goes_on(flags, expected, tmp_path, capsys):
    output = tmp_path / "scores.json"
    for _ in range(1000):
        capsys.readouterr()
        assert script("evaluate.py", *flags, "--output", output, "--max-minutes", 1e-9) == 0
        if output.exists():
            break
        assert "resume with: the same command" in capsys.readouterr().err
    assert output.read_bytes() == expected
    assert {path.name for path in tmp_path.iterdir()} == {"scores.json", "scores.md", "scores.png"}


def test_other_flags_do_not_go_on_with_the_journal_and_do_not_lose_it(flags, tmp_path, capsys):
    assert script("evaluate.py", *flags, "--out", tmp_path, "--max-minutes", 1e-9) == 0
    before = (tmp_path / "results.partial").read_bytes()
    settings = (tmp_path / "evaluation.json").read_text()
    assert script("evaluate.py", *flags, "--out", tmp_path, "--num-points", 50) == 2
    assert "holds stopped work with num_points = null, not 50" in capsys.readouterr().err
    assert (tmp_path / "results.partial").read_bytes() == before
    assert (tmp_path / "evaluation.json").read_text() == settings


def test_the_result_names_what_it_is_of(expected, files):
    result = json.loads(expected)
    assert result["dataset"]["samples"]["source"] == str(files / "a.npy")
    assert {len(entry["sha256"]) for entry in result["dataset"].values()} == {64}
    assert result["counts"] == {"samples": COUNT, "reference": COUNT, "train": 2 * COUNT, "points": POINTS}
    assert result["details"]["EMD"]["method"] == "exact"
    assert result["seed"] == 2020
    assert {"version", "commit", "floor", "memorization", "intervals", "nearest"} <= set(result)


def test_killed_after_the_last_block_it_loses_nothing(flags, expected, tmp_path, monkeypatch):
    def killed(*args):
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr("pcdiff.evaluation.files.report", killed)
        with pytest.raises(RuntimeError, match="killed"):
            script("evaluate.py", *flags, "--out", tmp_path)
    monkeypatch.setattr("pcdiff.metrics.neighbors.pairwise", None)  # nothing is computed again
    monkeypatch.setattr("pcdiff.metrics.emd_search.emd_pairs", None)
    assert script("evaluate.py", "--resume", tmp_path) == 0
    assert (tmp_path / "results.json").read_bytes() == expected
    assert not (tmp_path / "results.partial").exists()
    assert not (tmp_path / "evaluation.json").exists()


def test_reconstructions_go_on_too(files, tmp_path):
    sets = ["--reconstructions", files / "a.npy", "--reference", files / "b.npy"]
    assert script("evaluate.py", *sets, "--out", tmp_path / "whole") == 0
    parts = tmp_path / "parts"
    for _ in range(20):
        assert script("evaluate.py", *sets, "--out", parts, "--max-minutes", 1e-9) == 0
        if (parts / "results.json").exists():
            break
        assert (parts / "results.partial").exists()
    assert (parts / "results.json").read_bytes() == (tmp_path / "whole" / "results.json").read_bytes()


def test_the_number_of_threads_decides_nothing(files):
    results = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        clouds = [np.load(files / f"{name}.npy") for name in ("a", "b")]
        results.append(evaluate(samples=clouds[0], reference=clouds[1], resamples=20))
        torch.set_num_threads(before)
    assert results[0] == results[1]
    assert emd_seconds(405, 2048) == pytest.approx(0.03 * 0.05 / 2 * 405 * 809)
