"""The golden tests on a second set of other settings: what knows a setting instead of reading it fails there."""

import os
import subprocess
import sys
from pathlib import Path

import golden_sets
import numpy as np
import pytest
from golden_files import chain_length, found

TESTS = Path(__file__).resolve().parent
# the files that hold most settings; the whole is `make test-golden`
QUICK = [
    "diffusion/test_golden_processes.py",
    "diffusion/test_golden_denoisers.py",
    "diffusion/test_golden_objectives.py",
    "diffusion/test_golden_samplers.py",
    "diffusion/test_golden_solvers.py",
    "image_pipeline/test_golden_abarankab.py",
    "image_pipeline/test_golden_adm.py",
    "image_pipeline/test_golden_diffusers.py",
    "image_pipeline/test_golden_score_nets.py",
]


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    golden_sets.make(folder)
    return folder


def run(folder, *arguments):
    """Run golden tests on a set; return how many passed, failed and were skipped."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "golden",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        *arguments,
    ]
    environment = {**os.environ, "PCDIFF_GOLDEN": str(folder)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_the_golden_tests_hold_on_the_second_set(second):
    status, said = run(second, *(str(TESTS / name) for name in QUICK))
    assert status == 0, said
    assert int(said.splitlines()[-1].split(" passed")[0].split()[-1]) > 100, said


def test_an_empty_set_is_skipped_aloud(tmp_path):
    status, said = run(tmp_path, str(TESTS / "diffusion/test_golden_processes.py"), "-rs")
    assert status == 0, said
    assert "passed" not in said.splitlines()[-1]
    assert f"no 2d/sde_tables/vp_N*.npz under {tmp_path}" in said


def test_the_chains_length_is_told_by_its_losses(second):
    """RESCALED_KL is T times KL, whatever T."""
    for path in found(second, "2d/guided_diffusion/p_q_*.npz"):
        with np.load(path) as table:
            assert chain_length(dict(table)) == {"p_q_linear": 300, "p_q_cosine": 40}[path.stem]
