"""Two processes that write to one place: the second is told while the first writes."""

import os
import subprocess
import sys

import pytest
from script_tools import ROOT, script

from pcdiff.errors import InputError
from pcdiff.runtime import run_folder
from pcdiff.runtime.file_lock import sole_writer

HOLDS = """
import sys
from pcdiff.runtime.file_lock import sole_writer
with sole_writer(sys.argv[1]):
    print("mine", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder():
    """Start a process that holds a place."""
    started = []

    def start(path):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == b"mine\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_the_second_is_told_until_the_first_has_ended(tmp_path, holder):
    path = tmp_path / "new" / "folder" / "a.npy"
    first = holder(path)
    with pytest.raises(InputError, match=r"a\.npy: another process writes there; wait for it"), sole_writer(path):
        raise AssertionError
    with sole_writer(path.with_name("b.npy")):
        pass
    first.kill()
    first.wait()  # its file stays and claims nothing
    with sole_writer(path):
        assert sorted(p.name for p in path.parent.iterdir()) == [".a.npy.lock"]
    assert not list(path.parent.iterdir())


def test_a_claim_leaves_nothing_behind(tmp_path):
    with sole_writer(tmp_path / "made" / "deep" / "a"):
        assert (tmp_path / "made" / "deep").is_dir()
    assert not list(tmp_path.iterdir())
    with sole_writer(tmp_path / "kept" / "a"):
        (tmp_path / "kept" / "a").touch()
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["a"]
    with sole_writer(None):
        pass


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"a: cannot write \(File exists\)"),
        sole_writer(tmp_path / "file" / "a"),
    ):
        raise AssertionError
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("name", "flags", "output"),
    [
        ("pcdiff/__main__.py", "sample --run RUN --output {}", "a.npy"),
        ("pcdiff/__main__.py", "log-likelihood --run RUN --input x.npy --output {}", "a.json"),
        ("image_pipeline/__main__.py", "sample --run RUN --output {}", "a.png"),
        ("image_pipeline/__main__.py", "likelihood --run RUN --output {}", "a.json"),
        ("image_pipeline/__main__.py", "prepare --source digits --output {}", "a.zip"),
        ("image_pipeline/__main__.py", "dump --source digits --output {}", "folder"),
        ("image_pipeline/__main__.py", "convert --kind adm --input x.pt --output {}", "a.safetensors"),
    ],
)
def test_every_command_that_writes_refuses(name, flags, output, tmp_path, capsys):
    with sole_writer(tmp_path / output):
        assert script(name, *flags.format(tmp_path / output).split()) == 2
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path / output}: another process writes there; wait for it, or give another place\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_run_is_trained_by_one(tmp_path):
    folder = tmp_path / "run"
    with (
        run_folder.alone_in(folder),
        pytest.raises(InputError, match="another process writes there"),
        run_folder.alone_in(folder),
    ):
        raise AssertionError
    assert not list(tmp_path.iterdir())
