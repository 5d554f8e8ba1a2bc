"""What is installed works without the checkout: the wheel and the sdist hold every module, and the wheel's run."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from script_tools import ROOT, TINY

BACKEND = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the folder of a pure-Python wheel and an sdist, made from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("pcdiff", "data", "image_pipeline"):
        leave = shutil.ignore_patterns("__pycache__", "*.so", "*.hdf5", "ShapeNetCore*")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=leave)
    for what in ("build_wheel", "build_sdist"):
        environment = {**os.environ, "PCDIFF_BUILD": "none"}
        subprocess.run([sys.executable, "-c", BACKEND, what, folder], cwd=source, env=environment, check=True)
    return folder


def modules():
    """Return every file that an installation needs, by its path in the wheel; `data/` is `pcdiff/data/`."""
    found = {str(path.relative_to(ROOT)) for room in ("pcdiff", "image_pipeline") for path in files(ROOT / room)}
    return found | {f"pcdiff/{path.relative_to(ROOT)}" for path in files(ROOT / "data")}


def files(folder):
    wanted = {".py", ".typed", ".cpp", ".h", ".inc", ".cu"}
    return [path for path in folder.rglob("*") if path.suffix in wanted and path.is_file()]


def test_the_wheel_holds_every_module_and_the_command(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (command,) = [name for name in names if name.endswith("entry_points.txt")]
        assert archive.read(command).decode().split("\n")[:2] == [
            "[console_scripts]",
            "pcdiff = pcdiff.__main__:console",
        ]
    assert "pcdiff/data/shapenet.py" in names
    assert {name for name in names if ".dist-info/" not in name} == modules()


def test_the_sdist_holds_what_a_wheel_is_built_from(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert modules() | {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= names


@pytest.mark.slow
def test_the_wheel_trains_evaluates_and_samples_in_an_empty_folder(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}

    def pcdiff(*args):
        start = "import sys, pcdiff.__main__ as command; sys.argv[0] = 'pcdiff'; "
        start += "assert '/installed/' in command.__file__; command.console()"
        done = subprocess.run(
            [sys.executable, "-c", start, *map(str, args)],
            cwd=tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "usage: pcdiff COMMAND" in pcdiff("--help")
    said = pcdiff("train-gen", *TINY, "--val-clouds", 4, "--val-points", 32, "--max-iters", 2, "--out", "run")
    assert "NO DATA SET FOUND, using built-in shapes" in said
    assert "score the test split with: pcdiff evaluate --run run" in said
    pcdiff(*"evaluate --run run --preset quick --num-samples 3 --num-points 32 --device cpu".split())
    assert (tmp_path / "empty" / "run" / "results.png").is_file()
    pcdiff(*"sample --run run --output new.npy --num-samples 2 --device cpu".split())
    assert np.load(tmp_path / "empty" / "new.npy").shape == (2, 32, 3)
    assert "digits/quick" in pcdiff("images", "configs")
