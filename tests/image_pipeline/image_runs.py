"""What the tests of the image commands share: a tiny digits run, and running a command in this process."""

from script_tools import script

TINY = "--model.model-channels 8 --model.norm-groups 4".split()
TINY += "--batch-size 16 --warmup-iters 0 --ema-decay 0.9 --log-every 2 --val-every 0 --held-out 8".split()
TINY += "--num-steps 3 --num-samples 4 --device cpu".split()


def command(*args):
    """Run a command in this process; return its exit status."""
    return script("image_pipeline/__main__.py", *args)


def train(out, *args):
    assert command("train", *TINY, "--max-iters", 4, "--out", out, *args) == 0
    return out
