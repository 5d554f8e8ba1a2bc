"""The Makefile: what `make paper` and `make demo` would run, and the line where data are missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pcdiff.commands import cli
from pcdiff.config.presets import GENERATOR_PRESETS

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


@pytest.fixture
def folder(tmp_path):
    """A folder with the Makefile and all that it would install, taken for done."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("setup.py", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def make(folder, *argv, target="paper"):
    # as from a shell, also where the tests themselves are run by make
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", target, *argv]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def commands(folder, *argv, target="paper"):
    """Return the words of each command that would be run on a data set that is there."""
    done = make(folder, "-n", *argv, target=target)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines() if line.startswith(".venv/bin/python")]


def test_it_trains_then_scores(folder):
    train, score = commands(folder)
    assert train[:2] == [".venv/bin/python", "train_gen.py"]
    config = cli.parse_run(GENERATOR_PRESETS, train[2:])
    assert (config.preset, config.data.categories) == ("paper", "airplane")
    assert config.data.dataset_path == Path("data/shapenet.hdf5")
    assert config.out == Path("runs/paper-airplane")
    assert config.train == GENERATOR_PRESETS["paper"].train
    assert score[1:4] == ["evaluate.py", "--run", "runs/paper-airplane"]


def test_several_gpus_share_by_torchrun(folder):
    train, score = commands(folder, "GPUS=4", "PAPER_CATEGORY=chair")
    launcher = "-m torch.distributed.run --standalone --nproc-per-node=4"
    assert train[1:6] == [*launcher.split(), "train_gen.py"]
    assert "runs/paper-chair" in train
    assert "runs/paper-chair" in score


def test_a_run_that_was_begun_goes_on(folder):
    (folder / "runs" / "paper-airplane").mkdir(parents=True)
    assert "--out" in commands(folder)[0]  # a folder without a config is no run
    (folder / "runs" / "paper-airplane" / "config.json").touch()
    train, _ = commands(folder)
    assert train[1:] == "train_gen.py --dataset-path data/shapenet.hdf5 --resume runs/paper-airplane".split()


def test_missing_data_is_one_clear_line(folder):
    done = make(folder, "PAPER_DATA=no/where.hdf5")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "PAPER_DATA=no/where.hdf5: no such data set; give shapenet.hdf5 or a" in done.stderr.splitlines()[0]
    assert not (folder / "runs").exists()


def test_the_demo_fits_its_minutes(folder):
    train, score = commands(folder, "DEMO_MINUTES=2", target="demo")
    config = cli.parse_run(GENERATOR_PRESETS, train[2:])
    assert (config.preset, config.data.dataset_path, config.train.budget_minutes) == ("demo", None, 2.0)
    assert score[1:4] == ["evaluate.py", "--run", "runs/demo"]
    assert cli.parse_evaluation(score[2:]).num_samples == 32


def test_every_phase_of_the_demo_says_what_it_does_and_how_long_it_may_take(folder):
    said = [line for line in make(folder, "-n", target="demo").stdout.splitlines() if line.startswith('echo "== ')]
    assert len(said) == 3  # training, scoring, and where the picture lies; set-up is done here
    assert all("minute" in line for line in said[:2])
