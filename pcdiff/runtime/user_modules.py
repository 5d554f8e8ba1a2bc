"""Parts of one's own from the command line: `--import my_parts.py`, and `FILE.py:NAME` or `MODULE:NAME`.

A file is an ordinary module, and it is run: name files you would run. Nothing that a run's folder or a checkpoint
names is imported by itself.
"""

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pcdiff.errors import InputError
from pcdiff.runtime.paths import is_file

FLAG = "--import"
_PLACE = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)|(?P<module>\w+(\.\w+)*):(?P<attribute>\w+)")
# by path and content: the same file gives the same classes, and a file that was changed its new ones
_LOADED: dict[tuple[Path, str], ModuleType] = {}


def import_parts(paths: Sequence[str | Path]) -> None:
    """Run each file as a module, once in a process, so that what it registers is there by name.

    Raises:
        InputError: there is no such Python file, or it fails; names the file, the line in it and the error.
    """
    for path in paths:
        _run_once(Path(path), f"{FLAG} {path}")


def is_place(name: str) -> bool:
    """Return whether a name is one of a file or module and of something in it: `FILE.py:NAME` or `MODULE:NAME`."""
    return _PLACE.fullmatch(name) is not None


def load_attribute(place: str, what: str) -> Any:
    """Import the object at a place.

    Args:
        place: `FILE.py:NAME` or `package.module:NAME`.
        what: what is sought, for messages ("net").

    Raises:
        InputError: it is no place, or the file, the module or the name is not there, or the import fails.

    Example:
        >>> load_attribute("collections:OrderedDict", "mapping")
        <class 'collections.OrderedDict'>
    """
    parts = _PLACE.fullmatch(place)
    if parts is None:
        raise InputError(f"{what} must be FILE.py:NAME or MODULE:NAME, got {place!r}")
    if parts["file"]:
        module = _run_once(Path(parts["file"]), f"{what} {place}")
    else:
        try:
            module = importlib.import_module(parts["module"])
        except Exception as error:  # whatever a user's code raises
            raise InputError(f"{what} {place}: {_line(error)}") from error
    name = parts["name"] or parts["attribute"]
    if not hasattr(module, name):
        own = [key for key, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
        raise InputError(f"{what} {place}: no {name} there; there is {', '.join(sorted(own)) or 'nothing'}")
    if not callable(getattr(module, name)):
        raise InputError(
            f"{what} {place}: must be a class or a function, got a {type(getattr(module, name)).__name__}"
        )
    return getattr(module, name)


def place_of(part: Any) -> str | None:
    """Return the place that `load_attribute` finds a class or function at; None where there is none.

    There is none for what was written in a notebook, or within a function.
    """
    module, name = sys.modules.get(part.__module__), part.__qualname__
    loaded = [(path, m) for (path, _), m in _LOADED.items() if getattr(m, name, None) is part]
    if loaded:
        return f"{loaded[-1][0]}:{name}"
    if part.__module__ == "__main__" and getattr(module, "__file__", None):
        return f"{Path(module.__file__).resolve()}:{name}" if getattr(module, name, None) is part else None
    return (
        f"{part.__module__}:{name}"
        if getattr(module, name, None) is part and module.__name__ != "__main__"
        else None
    )


def imported(place: str) -> Any:
    """Return the object at a place of a module that has been imported; None where there is none. Nothing is run.

    Args:
        place: as of `load_attribute`; a file that has moved is found by its name.
    """
    where, _, name = place.rpartition(":")
    if not where.endswith(".py"):
        return getattr(sys.modules.get(where), name, None)
    path, found = Path(where), []
    for module in [*(m for _, m in _LOADED.items()), *sys.modules.values()]:
        file = getattr(module, "__file__", None)
        if file and Path(file).name == path.name and hasattr(module, name):
            found.append((Path(file).resolve() == path.resolve(), getattr(module, name)))
    found.sort(key=lambda each: each[0])
    return found[-1][1] if found else None


def run_file(path: str | Path, what: str) -> ModuleType:
    """Run a Python file as a module of its own, and return it.

    Raises:
        InputError: there is no such Python file, or it fails; begins with `what`, names the line and the error.
    """
    path = Path(path)
    if path.suffix != ".py" or not is_file(path):
        raise InputError(f"{what}: no such .py file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    if getattr(sys.modules.get(path.stem), "__file__", module.__file__) == module.__file__:
        sys.modules[path.stem] = module  # classes of its own find their module; no other is replaced
    try:
        # from its source: cached bytecode is matched to a file by size and second alone
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except Exception as error:  # whatever a user's code raises
        where, trace = "", error.__traceback__
        while trace is not None:
            if Path(trace.tb_frame.f_code.co_filename) == path:
                where = f", line {trace.tb_lineno}"
            trace = trace.tb_next
        raise InputError(f"{what}{where}: {_line(error)}") from error
    return module


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


def _run_once(path: Path, what: str) -> ModuleType:
    if path.suffix != ".py" or not is_file(path):
        raise InputError(f"{what}: no such .py file")
    key = path.resolve(), hashlib.sha256(path.read_bytes()).hexdigest()
    if key not in _LOADED:
        _LOADED[key] = run_file(path, what)
    return _LOADED[key]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
