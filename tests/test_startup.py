"""`--help` and mistakes are answered before anything heavy is imported; a reader that leaves ends them quietly."""

import os
import subprocess
import sys

import pytest
from script_tools import ROOT

# Everything that is not needed to tell flags apart. Torch itself is needed for the flags of nets alone.
HEAVY = {
    *("scipy", "h5py", "trimesh", "networkx", "tensorboard", "torchdiffeq", "PIL", "sklearn", "safetensors"),
    *("torch._dynamo", "torch._inductor", "torch.utils.tensorboard", "torch.distributed.run"),
    *("pcdiff.training.trainer", "pcdiff.metrics.evaluation", "image_pipeline.data", "image_pipeline.training"),
}
TORCH = {"torch", "pcdiff.models", "pcdiff.diffusion", "pcdiff.nets", "pcdiff.ops", "image_pipeline.models"}
# Each of the lines of flags, one after the other; what any of them imports stays for the end to see.
RUN = """
import runpy, sys
_, script, *lines = sys.argv
for line in lines:
    sys.argv = [script, *line.split()]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print("ended:", line, "|", 0 if end.code is None else end.code)
        print("ended", file=sys.stderr)
print("modules:", *sys.modules)
"""
LIGHT = {
    "pcdiff/__main__.py": ["--help", "smaple", "--version", "sample --help", "sample --rnu x", "interpolate --run"],
    "evaluate.py": ["--help", "--smaples x"],
    "image_pipeline/__main__.py": ["--help", "smaple"],
}
WITH_TORCH = {
    "image_pipeline/__main__.py": ["train --help", "train --batchsize 3", "sample --help", "dump --x"],
    "train_gen.py": ["--help", "--batchsize 3", "--lr x"],
    "train_ae.py": ["--help"],
}


def loaded(script, lines):
    """Return the modules that a script has imported when it has answered each line of flags."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, script, *lines], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    shown, _, modules = done.stdout.rpartition("modules:")
    for line, errors in zip(lines, done.stderr.split("ended\n"), strict=False):
        answer, _, shown = shown.partition(f"ended: {line} | ")
        status, _, shown = shown.partition("\n")
        assert status in ("0", "2"), (line, status, errors)
        assert answer if status == "0" else errors.count("\n") == 1, (line, errors)
    return set(modules.split())


@pytest.mark.parametrize("script", LIGHT)
def test_flags_need_no_torch(script):
    modules = loaded(script, LIGHT[script])
    assert "tyro" in modules
    assert not modules & (HEAVY | TORCH)


@pytest.mark.parametrize(
    "script", [pytest.param(s, marks=pytest.mark.slow) if s == "train_ae.py" else s for s in WITH_TORCH]
)
def test_the_flags_of_nets_need_torch_alone(script):
    assert not loaded(script, WITH_TORCH[script]) & HEAVY


def test_the_library_is_imported_at_its_first_use():
    code = "import sys, pcdiff; assert 'torch' not in sys.modules; print(*map(repr, (pcdiff.load, pcdiff.ops.knn)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.count("<function ") == 2, done.stderr


@pytest.mark.parametrize(
    "flags", ["--help", "images --help", "train-gen --help", "evaluate --help", "sample --help"]
)
def test_help_into_a_pipe_that_nobody_reads(flags):
    reader, writer = os.pipe()
    os.close(reader)
    program = subprocess.Popen(
        [sys.executable, "-m", "pcdiff", *flags.split()], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    os.close(writer)
    assert (program.communicate()[1], program.returncode) == ("", 141)
