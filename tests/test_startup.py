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
RUN = """
import runpy, sys
sys.argv.pop(0)
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
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


def loaded(script, flags):
    """Return what a script prints and the modules that it has imported by its end."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, script, *flags.split()], capture_output=True, text=True, cwd=ROOT, check=False
    )
    shown, _, modules = done.stdout.rpartition("modules:")
    assert done.returncode in (0, 2), done.stderr
    assert shown if done.returncode == 0 else done.stderr.count("\n") == 1
    return set(modules.split())


def cases(table):
    return [(script, flags) for script, each in table.items() for flags in each]


@pytest.mark.parametrize(("script", "flags"), cases(LIGHT))
def test_flags_need_no_torch(script, flags):
    modules = loaded(script, flags)
    assert "tyro" in modules
    assert not modules & (HEAVY | TORCH)


@pytest.mark.parametrize(("script", "flags"), cases(WITH_TORCH))
def test_the_flags_of_nets_need_torch_alone(script, flags):
    assert not loaded(script, flags) & HEAVY


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
