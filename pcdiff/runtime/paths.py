"""What is at a path that a user or a file named; a path that is itself a mistake is refused in one line."""

import dataclasses
import os
import stat
from pathlib import Path
from typing import Any

from pcdiff.errors import InputError


def look(path: str | os.PathLike) -> os.stat_result | None:
    """Return the status of the file at a path, links followed; None where there is none.

    Raises:
        InputError: the name is too long, cannot be a name (NUL bytes), links go in circles, or a folder on the way
            may not be entered.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{_short(path)}: cannot be opened ({error.strerror or error})") from None
    except ValueError as error:
        raise InputError(f"{_short(path)}: cannot be a path ({error})") from None


def is_file(path: str | os.PathLike) -> bool:
    """Return whether there is a file; raises as `look` does."""
    found = look(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: str | os.PathLike) -> bool:
    """Return whether there is a folder; raises as `look` does."""
    found = look(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def exists(path: str | os.PathLike) -> bool:
    """Return whether there is anything; raises as `look` does."""
    return look(path) is not None


def entries(folder: Path) -> list[Path]:
    """Return what a folder holds, by name.

    Raises:
        InputError: it cannot be listed.
    """
    try:
        return sorted(folder.iterdir(), key=lambda entry: entry.name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{_short(folder)}: cannot list it ({reason})") from None


def check_paths(config: Any) -> None:
    """Look at every path among a dataclass's fields, those of its parts too, before anything is made of them.

    Raises:
        InputError: as `look` does.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Path):
                look(each)
            elif dataclasses.is_dataclass(each):
                check_paths(each)


def _short(path: str | os.PathLike) -> str:
    text = os.fspath(path) if not isinstance(path, bytes) else repr(path)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"
