"""Training shared by two processes (gloo): the same curve as one, one end for all, and going on after a death."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from script_tools import ROOT, TINY, logged, tensors

FLAGS = [*TINY, "--categories", "chair", "--log-every", "1", "--save-every", "5", "--lr", "1e-3"]


def job(dataset, out, *flags, processes=2, restarts=0, script="train_gen.py", **options):
    """Start train_gen.py, by torchrun unless it is one process alone."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--max-restarts={restarts}"]
    start += [f"--nproc-per-node={processes}", "--monitor-interval=0.2"]
    alone = [sys.executable] if processes == 1 else start
    place = [] if out is None else ["--out", out]
    command = [*alone, script, *FLAGS, "--dataset-path", dataset, *place, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE, **options
    )


def finish(process, timeout=400):
    _, errors = process.communicate(timeout=timeout)
    return process.returncode, errors


def workers(process):
    """Return the process ids of torchrun's workers."""
    found = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def wait_for(path, process, seconds=200):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, f"no {path} in {seconds} s"
        time.sleep(0.02)


@pytest.mark.parametrize("script", ["train_gen.py", pytest.param("train_ae.py", marks=pytest.mark.slow)])
def test_two_processes_give_the_curve_of_one(script, dataset, tmp_path):
    flags = ["--max-iters", 12, "--val-every", 6, "--ema-decay", 0.9]
    jobs = [job(dataset, tmp_path / str(n), *flags, processes=n, script=script) for n in (1, 2)]
    for process in jobs:
        status, errors = finish(process)
        assert status == 0, errors
    one, two = (torch.tensor(logged(tmp_path / n / "tensorboard")) for n in ("1", "2"))
    assert len(one) == 12
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    alone, shared = tensors(tmp_path / "1", "best"), tensors(tmp_path / "2", "best")
    for name in alone:
        if "running" in name:  # batch normalisation saw the rows of both
            torch.testing.assert_close(shared[name], alone[name], rtol=1e-2, atol=2e-3)
    assert (tmp_path / "2" / "results.json").is_file()


def test_a_signal_to_one_process_stops_all_at_one_step(dataset, tmp_path):
    process = job(dataset, tmp_path / "run", "--max-iters", 10**6, "--save-every", 50)
    wait_for(tmp_path / "run" / "checkpoints" / "last.safetensors", process)
    os.kill(max(workers(process)), signal.SIGTERM)
    status, errors = finish(process)
    assert status == 0, errors
    assert "interrupted: all is saved" in errors
    assert "go on with: --resume" in errors


def test_a_dead_process_ends_the_job_and_the_next_one_goes_on(dataset, tmp_path):
    flags = ["--max-iters", 100, "--save-every", 5]
    process = job(dataset, tmp_path / "run", *flags, restarts=1)
    wait_for(tmp_path / "run" / "checkpoints" / "last.safetensors", process)
    os.kill(max(workers(process)), signal.SIGKILL)
    status, errors = finish(process)
    assert status == 0, errors
    resumed = re.search(r"resumed at step (\d+)", errors)
    assert int(resumed[1]) % 5 == 0
    assert "finished at step 100" in errors
    whole = job(dataset, tmp_path / "whole", *flags)
    assert finish(whole)[0] == 0
    a, b = tensors(tmp_path / "run"), tensors(tmp_path / "whole")
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_without_restarts_the_others_say_whom_they_lost(dataset, tmp_path):
    process = job(dataset, tmp_path / "run", "--max-iters", 10**6, "--save-every", 20)
    wait_for(tmp_path / "run" / "checkpoints" / "last.safetensors", process)
    os.kill(max(workers(process)), signal.SIGKILL)
    status, errors = finish(process)
    assert status != 0
    assert re.search(r"error: process 0 lost the others|SIGTERM|Sending process", errors)
    assert tensors(tmp_path / "run")


def test_a_job_that_may_restart_must_be_found_again(dataset):
    status, errors = finish(job(dataset, None, restarts=1))
    assert status != 0
    assert "torchrun --max-restarts needs --out" in errors
