"""Image training shared by two processes (gloo): the same curve as one."""

import torch
from image_runs import TINY
from script_tools import logged

PROGRAM = "image_pipeline/__main__.py"


def test_two_processes_give_the_curve_of_one(nursery, tmp_path):
    flags = ["train", *TINY, "--max-iters", 6, "--log-every", 1, "--val-every", 3, "--seed", 1]
    alone = nursery.start(tmp_path / "errors", PROGRAM, *flags, "--out", tmp_path / "1")
    both = nursery.start_job(tmp_path / "errors", PROGRAM, *[[*flags, "--out", tmp_path / "2"]] * 2)
    for pid, errors in zip([alone, *both], ["errors", "errors.0", "errors.1"], strict=True):
        assert nursery.wait(pid) == 0, (tmp_path / errors).read_text()
    for name in ("train/loss", "val/loss"):
        one, two = (torch.tensor(logged(tmp_path / n / "tensorboard", name)) for n in ("1", "2"))
        assert len(one) == (6 if name == "train/loss" else 2)
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
