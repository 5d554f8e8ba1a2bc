"""Training shared by two processes (gloo): the same curve as one, one end for all, and continuing after a death.

The processes of a job are children of the nursery, with the variables that torchrun sets; the tests that are
marked slow start torchrun.
"""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from script_tools import ROOT, TINY, assert_same, logged, tensors

from pcdiff.config import RunConfig
from pcdiff.config.files import read_config
from pcdiff.errors import InputError
from pcdiff.runtime import run_folder
from pcdiff.training import checkpoint

FLAGS = [*TINY, "--categories", "chair", "--log-every", "1", "--save-every", "5", "--lr", "1e-3"]
RUNS = 10**6  # iterations: until it is stopped


@pytest.fixture
def flags(dataset, tmp_path):
    return [*FLAGS, "--dataset-path", dataset, "--out", tmp_path / "run"]


def torchrun(*flags, restarts=0, script="train_gen.py"):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--max-restarts={restarts}"]
    command = [*start, "--nproc-per-node=2", "--monitor-interval=0.2", script, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE)


def finish(process, timeout=400):
    _, errors = process.communicate(timeout=timeout)
    return process.returncode, errors


def workers(process):
    """Return the process ids of torchrun's workers."""
    found = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def wait_for(path, ended, seconds=200):
    """Wait for a file that a job writes, unless the job has ended."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert not ended()
        assert time.monotonic() < end, f"no {path} in {seconds} s"
        time.sleep(0.02)


def last_of(folder):
    return folder / "run" / "checkpoints" / "last.safetensors"


@pytest.mark.parametrize("script", ["train_gen.py", pytest.param("train_ae.py", marks=pytest.mark.slow)])
def test_two_processes_give_the_curve_of_one(script, nursery, dataset, tmp_path):
    flags = [*FLAGS, "--dataset-path", dataset, "--max-iters", 12, "--val-every", 6, "--ema-decay", 0.9]
    alone = nursery.start(tmp_path / "errors", script, *flags, "--out", tmp_path / "1")
    both = nursery.start_job(tmp_path / "errors", script, *[[*flags, "--out", tmp_path / "2"]] * 2)
    for pid, errors in zip([alone, *both], ["errors", "errors.0", "errors.1"], strict=True):
        assert nursery.wait(pid) == 0, (tmp_path / errors).read_text()
    one, two = (torch.tensor(logged(tmp_path / n / "tensorboard")) for n in ("1", "2"))
    assert len(one) == 12
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    alone, shared = tensors(tmp_path / "1", "best"), tensors(tmp_path / "2", "best")
    for name in alone:
        if "running" in name:  # batch normalization saw the rows of both
            torch.testing.assert_close(shared[name], alone[name], rtol=1e-2, atol=2e-3)
    assert (tmp_path / "2" / "results.json").is_file()


def test_a_signal_to_one_process_stops_all_at_one_step(nursery, flags, tmp_path):
    job = nursery.start_job(tmp_path / "errors", "train_gen.py", *[[*flags, "--max-iters", RUNS]] * 2)
    wait_for(last_of(tmp_path), lambda: nursery.status(job[0]) is not None)
    nursery.send(job[1], signal.SIGTERM)
    assert [nursery.wait(pid) for pid in job] == [0, 0], (tmp_path / "errors.0").read_text()
    told = (tmp_path / "errors.0").read_text()
    assert "interrupted: all is saved" in told
    assert "resume with: --resume" in told


@pytest.mark.slow
def test_a_signal_to_one_of_torchruns_processes_stops_all(flags, tmp_path):
    process = torchrun(*flags, "--max-iters", RUNS)
    wait_for(last_of(tmp_path), lambda: process.poll() is not None)
    os.kill(max(workers(process)), signal.SIGTERM)
    status, errors = finish(process)
    assert status == 0, errors
    assert "interrupted: all is saved" in errors
    assert "resume with: --resume" in errors


def test_a_dead_process_ends_the_other_and_the_next_job_goes_on(nursery, flags, tmp_path):
    """What torchrun does with a job that may restart, step by step; `test_torchrun_restarts_a_job` lets it."""
    first, second = nursery.start_job(tmp_path / "first", "train_gen.py", *[[*flags, "--max-iters", RUNS]] * 2)
    wait_for(last_of(tmp_path), lambda: nursery.status(first) is not None)
    os.kill(second, signal.SIGKILL)
    assert nursery.wait(second) == -signal.SIGKILL
    assert nursery.wait(first) == 1
    assert "error: process 0 lost the others" in (tmp_path / "first.0").read_text()
    step = checkpoint.read(last_of(tmp_path))[1]["step"]
    again, whole = [*flags, "--max-iters", step + 5], tmp_path / "whole"
    job = nursery.start_job(tmp_path / "again", "train_gen.py", again, again, restarted=True)
    job += nursery.start_job(tmp_path / "whole", "train_gen.py", *[[*again, "--out", whole / "run"]] * 2)
    assert [nursery.wait(pid) for pid in job] == [0] * 4
    told = (tmp_path / "again.0").read_text()
    assert f"resumed at step {step}" in told
    assert f"finished at step {step + 5}" in told
    assert_same(tensors(tmp_path / "run"), tensors(whole / "run"))


def test_a_job_that_may_restart_must_be_found_again(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")  # as torchrun does
    with pytest.raises(InputError, match="torchrun --max-restarts needs --out"):
        run_folder.open_run(RunConfig(), "gen", read_config)


@pytest.mark.slow
def test_torchrun_restarts_a_job(flags, tmp_path):
    flags = [*flags, "--max-iters", 100]
    process = torchrun(*flags, restarts=1)
    wait_for(last_of(tmp_path), lambda: process.poll() is not None)
    os.kill(max(workers(process)), signal.SIGKILL)
    status, errors = finish(process)
    assert status == 0, errors
    resumed = re.search(r"resumed at step (\d+)", errors)
    assert int(resumed[1]) % 5 == 0
    assert "finished at step 100" in errors
    whole = torchrun(*flags, "--out", tmp_path / "whole" / "run")
    assert finish(whole)[0] == 0
    assert_same(tensors(tmp_path / "run"), tensors(tmp_path / "whole" / "run"))


@pytest.mark.slow
def test_without_restarts_torchrun_ends_the_others(flags, tmp_path):
    process = torchrun(*flags, "--max-iters", RUNS)
    wait_for(last_of(tmp_path), lambda: process.poll() is not None)
    os.kill(max(workers(process)), signal.SIGKILL)
    status, errors = finish(process)
    assert status != 0
    assert re.search(r"error: process 0 lost the others|SIGTERM|Sending process", errors)
    assert tensors(tmp_path / "run")


@pytest.mark.slow
def test_torchrun_refuses_a_job_that_it_could_not_find_again(dataset):
    status, errors = finish(torchrun(*FLAGS, "--dataset-path", dataset, restarts=1))
    assert status != 0
    assert "torchrun --max-restarts needs --out" in errors
