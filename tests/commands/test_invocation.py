"""The commands that messages name are in the form in which the program was started."""

import shlex
import sys

import pytest

import pcdiff.__main__ as pcdiff
from pcdiff.commands import cli
from pcdiff.config.presets import GENERATOR_PRESETS
from pcdiff.errors import InputError
from pcdiff.runtime.invocation import command_line, program, under_torchrun

STARTED = {
    "/usr/bin/pcdiff": ("pcdiff evaluate", "pcdiff sample", "pcdiff images sample"),
    "pcdiff.exe": ("pcdiff evaluate", "pcdiff sample", "pcdiff images sample"),
    "/here/pcdiff/__main__.py": (
        "python -m pcdiff evaluate",
        "python -m pcdiff sample",
        "python -m pcdiff images sample",
    ),
    "train_gen.py": ("python evaluate.py", "python -m pcdiff sample", "python -m pcdiff images sample"),
    "there/train_ae.py": ("python there/evaluate.py", "python -m pcdiff sample", "python -m pcdiff images sample"),
    "/here/image_pipeline/__main__.py": (
        "python -m pcdiff evaluate",
        "python -m pcdiff sample",
        "python -m image_pipeline sample",
    ),
    "a_notebook.py": ("python -m pcdiff evaluate", "python -m pcdiff sample", "python -m pcdiff images sample"),
}


@pytest.mark.parametrize("started", STARTED)
def test_a_command_is_named_in_the_form_of_the_program(started, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started])
    assert tuple(map(command_line, ("evaluate", "sample", "images sample"))) == STARTED[started]


@pytest.mark.parametrize("prog", ["python train_gen.py", "pcdiff train-gen", "python -m pcdiff train-gen"])
def test_torchrun_starts_the_same(prog):
    started = under_torchrun(prog)
    words = {"python train_gen.py": "-- train_gen.py"}.get(prog, "-m -- pcdiff train-gen")
    assert started == f"torchrun --nproc-per-node K {words}"


@pytest.mark.parametrize("command", ["train-gen", "train-ae", "evaluate"])
@pytest.mark.parametrize("started", ["/usr/bin/pcdiff", "/here/pcdiff/__main__.py"])
def test_examples_of_the_help_are_called_as_the_program_is(command, started, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setenv("COLUMNS", "150")
    with pytest.raises(SystemExit):
        pcdiff.main([command, "--help"])
    lines = [line for line in capsys.readouterr().out.splitlines() if " # " in line]
    assert len(lines) > 3
    assert all(line.startswith((f"{program()} {command}", "torchrun")) for line in lines)
    assert "{" not in "".join(lines)
    for line in lines:
        words = shlex.split(line, comments=True)
        if command == "train-gen" and "..." not in words and "--resume" not in words:
            cli.parse_run(GENERATOR_PRESETS, words[words.index(command) + 1 :])


def test_the_other_trainings_command_is_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pcdiff"])
    with pytest.raises(InputError, match=r"; pcdiff train-ae trains autoencoders$"):
        pcdiff.main("train-gen --kind autoencoder".split())
    with pytest.raises(InputError, match=r"got latent; pcdiff train-gen trains generators$"):
        pcdiff.main("train-ae --kind flow".split())
