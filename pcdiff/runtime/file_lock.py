"""One process writes to a place at a time: a second one is refused, instead of overwriting silently."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pcdiff.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: there, two commands that write to one place are not detected
    fcntl = None


@contextmanager
def sole_writer(path: str | os.PathLike | None) -> Iterator[None]:
    """Claim a file, or a folder, that is to be written, for as long as this lasts; None claims nothing.

    The lock is a hidden file in its folder, `.NAME.lock`, which the system releases when the process ends, in
    whatever way; left behind by a kill it claims nothing. Folders above that are missing are made, and taken away
    again if nothing came into them.

    Raises:
        InputError: another process writes there, or the folder cannot be made or written to.

    Example:
        >>> with sole_writer("new.npy"):
        ...     make_and_write("new.npy")
    """
    if path is None or fcntl is None:
        yield
        return
    path = Path(path)
    lock = path.parent / f".{path.name}.lock"
    made: list[Path] = []
    try:
        made = _make(path.parent)
        handle = _claimed(lock, path)
    except OSError as error:
        _take_away(made)
        raise InputError(f"{path}: cannot write ({error.strerror or error})") from None
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(handle)
        _take_away(made)


def _claimed(lock: Path, path: Path) -> int:
    """Return the open lock file."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = os.stat(lock)
            if os.path.samestat(there, os.fstat(handle)):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise InputError(f"{path}: another process writes there; wait for it, or give another place") from None
        except FileNotFoundError:
            pass
        os.close(handle)  # the one before took its lock away in between


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the ones made, the deepest first."""
    missing = []
    for each in (folder, *folder.parents):
        if os.path.isdir(each):
            break
        missing.append(each)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _take_away(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # something came into it
            folder.rmdir()
