"""Image training shared by two processes (gloo): the same curve as one."""

import os
import subprocess
import sys

import torch
from image_runs import TINY
from script_tools import ROOT, logged

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--"]


def test_two_processes_give_the_curve_of_one(tmp_path):
    flags = [*TINY, "--max-iters", 6, "--log-every", 1, "--val-every", 3, "--seed", 1]
    jobs = []
    for n, start in ((1, [sys.executable, "-m"]), (2, TORCHRUN)):
        command = [*start, "image_pipeline", "train", *flags, "--out", tmp_path / str(n)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        jobs.append(
            subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE)
        )
    for job in jobs:
        _, errors = job.communicate(timeout=400)
        assert job.returncode == 0, errors
    for name in ("train/loss", "val/loss"):
        one, two = (torch.tensor(logged(tmp_path / n / "tensorboard", name)) for n in ("1", "2"))
        assert len(one) == (6 if name == "train/loss" else 2)
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
