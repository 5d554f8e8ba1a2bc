"""Parts of one's own from the command line: `--import my_parts.py`.

The file is an ordinary module that adds to the registries (`PROCESSES["mine"] = Mine`), and it is run: import files
you would run. Nothing that a run's folder or a checkpoint says is imported by itself.
"""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from pcdiff.errors import InputError
from pcdiff.runtime.paths import is_file

FLAG = "--import"


def import_parts(paths: Sequence[str | Path]) -> None:
    """Run each file as a module, so that what it registers is there by name.

    Raises:
        InputError: there is no such Python file, or it fails; names the file, the line in it and the error.
    """
    for path in map(Path, paths):
        if path.suffix != ".py" or not is_file(path):
            raise InputError(f"{FLAG} {path}: no such .py file")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)  # classes of its own find their module; no other is replaced
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever a user's code raises
            where, trace = "", error.__traceback__
            while trace is not None:
                if Path(trace.tb_frame.f_code.co_filename) == path:
                    where = f", line {trace.tb_lineno}"
                trace = trace.tb_next
            said = (str(error).splitlines() or [""])[0]
            raise InputError(f"{FLAG} {path}{where}: {type(error).__name__}: {said}") from error


def files_of(argv: Sequence[str]) -> list[str]:
    """Return the files that `--import` names among arguments not parsed yet: they may add to the choices."""
    found: list[str] = []
    taking = False
    for given in argv:
        if given.startswith("-"):
            taking = given == FLAG
            if given.startswith(f"{FLAG}="):
                found.append(given.removeprefix(f"{FLAG}="))
        elif taking:
            found.append(given)
    return found
