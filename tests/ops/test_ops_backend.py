"""Loading, hiding and building the native ops, each in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pcdiff import ops

ROOT = Path(__file__).resolve().parents[2]

USE_TWICE = """
import warnings, torch
from pcdiff import ops
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    x = torch.zeros(1, 4, 3)
    for op in (ops.chamfer, ops.nearest, lambda a, b: ops.pairwise(a, b), ops.chamfer):
        op(x, x + 1)
print(ops.backend(), ops.backend("cuda"), ops.cpu_capabilities())
for warning in caught:
    print(warning.category.__name__, warning.filename.endswith("<string>"), warning.message)
"""


def python(program, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PCDIFF_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, **variables},
    )


def test_the_fallback_warns_once_says_why_and_how_to_build():
    lines = python(USE_TWICE, PCDIFF_NATIVE="0").stdout.splitlines()
    assert lines[0] == "reference reference ()"
    assert len(lines) == 2
    assert lines[1].startswith("RuntimeWarning True pcdiff.ops runs on its slow PyTorch reference")
    assert "PCDIFF_NATIVE=0" in lines[1]


@pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")
def test_the_native_path_is_silent():
    lines = python(USE_TWICE).stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("cpu reference ('baseline'")


def test_an_unknown_value_is_refused():
    assert (
        "PCDIFF_NATIVE must be 0 (hide the native ops) or 1, got no"
        in python("import pcdiff.ops", PCDIFF_NATIVE="no").stderr
    )


def test_an_extension_that_does_not_load_is_named_not_fatal(tmp_path):
    shutil.copytree(ROOT / "pcdiff", tmp_path / "pcdiff", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "pcdiff" / "ops" / "_C.abi3.so").write_bytes(b"not a library")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PCDIFF_")}
    done = subprocess.run(
        [sys.executable, "-c", USE_TWICE], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert "do not load" in done.stdout
    assert done.stdout.startswith("reference")


def build(tmp_path, **variables):
    """Run setup.py's build into a scratch folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PCDIFF_")}
    folders = ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *folders],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, **variables},
    )


def test_a_broken_compiler_is_fatal_only_when_a_build_was_asked_for(tmp_path):
    broken = shutil.which("false")
    automatic = build(tmp_path, CC=broken, CXX=broken)
    assert automatic.returncode == 0
    assert "the native ops were NOT built" in automatic.stderr
    assert build(tmp_path, CC=broken, CXX=broken, PCDIFF_BUILD="cpu").returncode != 0


def test_build_choices(tmp_path):
    none = build(tmp_path, PCDIFF_BUILD="none")
    assert none.returncode == 0
    assert "no native ops" in none.stderr
    assert not (tmp_path / "lib").exists()
    cuda = build(tmp_path, PCDIFF_BUILD="cuda")
    assert cuda.returncode != 0
    assert "no CUDA kernels in this version" in cuda.stderr
    assert "PCDIFF_BUILD must be one of auto, cpu, none, got gpu" in build(tmp_path, PCDIFF_BUILD="gpu").stderr
