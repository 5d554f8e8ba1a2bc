"""The golden tests on a second set of other settings: what knows a setting instead of reading it fails there."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

import golden_sets
import numpy as np
import pytest
from golden_files import chain_length, found

TESTS = Path(__file__).resolve().parent
# the files that hold most settings, without slow solvers; the whole is `make test-golden`
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
# what the shared files happen to say, known instead of read: file, what it reads, what it would know, which test
KNOWING = {
    "chain_length": (
        "diffusion/test_golden_processes.py",
        "adm_chain(schedule, chain_length(table))",
        "adm_chain(schedule, 1000)",
        "test_adms_q",
    ),
    "schedule_ends": (
        "diffusion/test_golden_processes.py",
        "return adm_chain(schedule, int(steps))",
        "return DiscreteProcess(SCHEDULES[schedule](int(steps), 1e-4, 0.02))",
        "test_adms_tables",
    ),
    "sigma_data": (
        "diffusion/test_golden_denoisers.py",
        'sigma_data=float(table["sigma_data"])',
        "sigma_data=0.5",
        "test_edms_preconditioning",
    ),
    "loss_sigma_data": (
        "diffusion/test_golden_objectives.py",
        "(weight - sigma.double() ** -2).median() ** -0.5",
        "0.5",
        "test_edms_losses",
    ),
    "prior_tolerance": (
        "diffusion/test_golden_objectives.py",
        "atol=PRIOR_ATOL",
        "atol=5e-9",
        "test_adms_losses[FIXED_SMALL-EPSILON-cosine]",
    ),
    "adaptive_solvers": (
        "diffusion/test_golden_samplers.py",
        "solver_error(table, torch.from_numpy(tight), evaluations)",
        "1e-4 * abs(tight).max()",
        "test_score_sdes_probability_flow[vp]",
    ),
    "num_train_timesteps": (
        "diffusion/test_golden_solvers.py",
        'steps = config["num_train_timesteps"]',
        "steps = 1000",
        "test_diffusers_schedulers",
    ),
    "classes": (
        "image_pipeline/test_golden_abarankab.py",
        'net(io["x"], io["t"], classes_of(io))',
        'net(io["x"], io["t"])',
        "test_outputs",
    ),
    "conv_resample": (
        "image_pipeline/test_golden_adm.py",
        "adm.load(path, adm_settings(path))",
        'adm.load(path, path.with_suffix(".json"))',
        "test_unets",
    ),
    "channels": (
        "image_pipeline/test_golden_adm.py",
        '{**flags, "in_channels": plain["in_channels"]}',
        "flags",
        "test_flags_mean_what_constructor_arguments_mean",
    ),
    "elu": (
        "image_pipeline/test_golden_score_nets.py",
        'said.get("nonlinearity", "elu").lower() == "elu"',
        "True",
        "test_ncsns_scores",
    ),
}
CONFTEST = """
import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = {paths!r}


@pytest.fixture(scope="session")
def golden():
    return Path(os.environ["PCDIFF_GOLDEN"])
"""


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    golden_sets.make(folder)
    return folder


def knowing_files(folder):
    """Write one test file for each of `KNOWING`, and return the tests' addresses."""
    paths = [str(TESTS), str(TESTS / "diffusion"), str(TESTS / "image_pipeline")]
    (folder / "conftest.py").write_text(CONFTEST.format(paths=paths))
    addresses = []
    for name, (file, reads, knows, test) in KNOWING.items():
        source = (TESTS / file).read_text()
        assert reads in source, f"{file} reads {name} in another way"
        (folder / f"test_knowing_{name}.py").write_text(source.replace(reads, knows))
        addresses.append(f"{folder / f'test_knowing_{name}.py'}::{test}")
    return addresses


def run(folder, *arguments):
    """Run golden tests on a set in a process of their own; return the outcomes by file, and what it said."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "golden", "-p", "no:cacheprovider", "-n", "0", "-rs"]
    command += [
        "--tb=line",
        f"--junitxml={report}",
        "-o",
        "junit_family=xunit1",
        "-c",
        str(TESTS.parent / "pyproject.toml"),
        *arguments,
    ]
    environment = {**os.environ, "PCDIFF_GOLDEN": str(folder)}
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert report.is_file(), done.stdout + done.stderr
    outcomes = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = [part.tag for part in case if part.tag in ("failure", "error", "skipped")]
        outcomes[Path(case.get("file")).stem].append(kinds[0] if kinds else "passed")
    return outcomes, done.stdout


@pytest.mark.slow
def test_the_golden_tests_hold_on_the_second_set_and_only_if_they_read_it(second, tmp_path):
    addresses = knowing_files(tmp_path)
    outcomes, said = run(second, *(str(TESTS / name) for name in QUICK), *addresses)
    for name in QUICK:
        kinds = outcomes.pop(Path(name).stem)
        assert "passed" in kinds, said
        assert set(kinds) <= {"passed", "skipped"}, f"{name}: {said}"
    for name in KNOWING:
        assert "failure" in outcomes.pop(f"test_knowing_{name}"), f"{name} could be known: {said}"
    assert not outcomes


def test_what_is_absent_is_skipped_aloud(tmp_path):
    with pytest.raises(pytest.skip.Exception, match=f"no 2d/a.npz or 2d/b.npz under {tmp_path}"):
        found(tmp_path, "2d/a.npz", "2d/b.npz")
    with pytest.raises(pytest.skip.Exception, match="no RESCALED_KL beside KL"):
        chain_length({"t": np.zeros(3)})


def test_the_chains_length_is_told_by_its_losses(second):
    """RESCALED_KL is T times KL, whatever T."""
    for path in found(second, "2d/guided_diffusion/p_q_*.npz"):
        with np.load(path) as table:
            assert chain_length(dict(table)) == {"p_q_linear": 300, "p_q_cosine": 40}[path.stem]
