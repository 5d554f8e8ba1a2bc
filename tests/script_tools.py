"""What the tests of the scripts share: tiny flags, and running a script in this process."""

import re
import runpy
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pcdiff.viz import grid

ROOT = Path(__file__).resolve().parent.parent
TINY_MODEL = (
    "--latent-dim 8 --flow-depth 2 --flow-hidden-dim 8 --net-widths 8 16 --encoder-widths 8 16 "
    "--encoder-head-widths 8 --num-steps 4"
).split()
TINY = [
    *TINY_MODEL,
    *"--preset quick --batch-size 4 --num-points 32 --times-per-cloud 2 --sample-points 32 --num-samples 2".split(),
    *"--log-every 5 --save-every 1000 --val-every 0 --device cpu --precision fp32 --no-compile".split(),
]


def script(name, *args, cell=64):
    """Run a script in this process; return its exit status.

    Its pictures have cells of `cell` pixels; None leaves them as large as they are, which takes most of the time of
    a tiny run.
    """
    argv = sys.argv
    sys.argv = [name, *map(str, args)]
    render = grid.render_grid if cell is None else partial(grid.render_grid, size=cell)
    try:
        with mock.patch.object(grid, "render_grid", render):
            runpy.run_path(str(ROOT / name), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = argv
    return 0


def train(name, dataset, out, *args, **options):
    flags = ["--categories", "chair", "--dataset-path", dataset, "--out", out]
    status = script(name, *TINY, *flags, *args, **options)
    assert status == 0
    return out


def tensors(run, which="last"):
    with safe_open(run / "checkpoints" / f"{which}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a file, not a dict


def logged(folder, tag="train/loss"):
    """Return the steps and values of a scalar, as TensorBoard shows it; none of one that was not logged."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)] if tag in events.Tags()["scalars"] else []


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def help_of_each_flag(text):
    """Return flag -> its help, from the boxes that are printed."""
    text = " ".join(re.sub(r"[─│╭╮╰╯]", " ", text).split())
    found = list(re.finditer(r"--[A-Za-z][\w.-]*(?:, --[\w.-]+)? (?=[\[{A-Z])", text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return {
        re.match(r"--[\w.-]+", match[0])[0]: text[match.start() : end]
        for match, end in zip(found, ends, strict=True)
    }
