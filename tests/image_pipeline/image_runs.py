"""What the tests of the image commands share: a tiny digits run, and running a command in this process."""

import runpy
import sys

import torch
from safetensors import safe_open
from script_tools import ROOT

TINY = "--model.model-channels 8 --model.norm-groups 4".split()
TINY += "--batch-size 16 --warmup-iters 0 --ema-decay 0.9 --log-every 2 --val-every 0 --held-out 8".split()
TINY += "--num-steps 3 --num-samples 4 --device cpu".split()


def command(*args):
    """Run a command in this process; return its exit status."""
    argv = sys.argv
    sys.argv = ["image_pipeline", *map(str, args)]
    try:
        runpy.run_path(str(ROOT / "image_pipeline" / "__main__.py"), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = argv
    return 0


def train(out, *args):
    assert command("train", *TINY, "--max-iters", 4, "--out", out, *args) == 0
    return out


def tensors(run, which="last"):
    with safe_open(run / "checkpoints" / f"{which}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a file, not a dict


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key
