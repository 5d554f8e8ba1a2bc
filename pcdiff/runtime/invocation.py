"""How this program was started, for the lines that name the command to run next."""

import sys
from pathlib import Path

_SCRIPTS = {"train-gen": "train_gen.py", "train-ae": "train_ae.py", "evaluate": "evaluate.py"}
_MODULE = "python -m pcdiff"


def program() -> str:
    """Return the program's name before a command: `pcdiff` where it was started so, else `python -m pcdiff`."""
    return "pcdiff" if Path(sys.argv[0]).stem == "pcdiff" else _MODULE  # on Windows pcdiff.exe


def command_line(command: str) -> str:
    """Return how a command is started, in the form in which this program was: `pcdiff`, `python -m`, or a script.

    Args:
        command: of `pcdiff --help`: `train-gen`, `sample`, `images sample`, ...

    Example:
        >>> sys.argv = ["train_gen.py"]
        >>> command_line("evaluate")
        'python evaluate.py'
        >>> sys.argv = ["bin/pcdiff", "images", "train"]
        >>> command_line("images sample")
        'pcdiff images sample'
    """
    started = Path(sys.argv[0])
    if started.name in _SCRIPTS.values() and command in _SCRIPTS:
        return f"python {started.with_name(_SCRIPTS[command])}"
    if started.parts[-2:] == ("image_pipeline", "__main__.py") and command.startswith("images "):
        return f"python -m image_pipeline {command.removeprefix('images ')}"
    return f"{program()} {command}"


def under_torchrun(prog: str) -> str:
    """Return how `torchrun` starts in K processes what `prog` starts in one.

    Example:
        >>> under_torchrun("python evaluate.py")
        'torchrun --nproc-per-node K -- evaluate.py'
        >>> under_torchrun("pcdiff evaluate")
        'torchrun --nproc-per-node K -m -- pcdiff evaluate'
    """
    prog = prog.removeprefix("python ")
    module = not prog.partition(" ")[0].endswith(".py")
    return f"torchrun --nproc-per-node K {'-m ' if module else ''}-- {prog.removeprefix('-m ')}"
