"""Files that may crash the library that reads them: a child process looks at them first.

A damaged file can crash the HDF5 library, or lmdb, itself, and no `except` catches that. So another process, which
nothing hangs on, goes through a file before this one does: of HDF5 all entries, and the numbers up to 64 MiB of a
data set, of a larger one the first and the last row; of an lmdb all keys, and up to ten thousand values. One child
serves all files of a process; it takes about half a second to start, and a look little more than reading. A file
that did not change is not looked at again.
"""

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pcdiff.errors import InputError
from pcdiff.runtime.paths import look

if TYPE_CHECKING:
    import h5py

_CHILD = Path(__file__).with_name("_child_main.py")
_PATIENCE = 120.0  # seconds that a look may take


@contextmanager
def opened(path: Path) -> Iterator["h5py.File"]:
    """Open an HDF5 file for reading, after a child process has been through it.

    Raises:
        InputError: it crashes the HDF5 library or holds it up, or uses a filter that is not read.
        OSError: it is damaged, as h5py reported to the child, or as `h5py.File` reports.
    """
    import h5py  # here, because it is slow to import and few need it

    _LOOKER.look_at("hdf5", path)
    with h5py.File(path, "r") as file:
        yield file


def look_at_lmdb(folder: Path) -> None:
    """Let the child process go through an lmdb environment.

    Raises:
        InputError: it crashes lmdb, or holds it up.
        OSError: it is damaged, as lmdb reported to the child.
    """
    _LOOKER.look_at("lmdb", folder, folder / "data.mdb")


def _pipes(child: subprocess.Popen) -> tuple[IO[bytes], IO[bytes]]:
    """Return what the child reads and what it writes."""
    assert child.stdin is not None
    assert child.stdout is not None
    return child.stdin, child.stdout


class _Looker:
    """The child process, started with the first file and again after its death."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen | None = None
        self._process = -1
        self._seen: dict[tuple[int, ...], tuple[bool, str] | None] = {}

    def look_at(self, kind: str, path: Path, file: Path | None = None) -> None:
        """Inspect the file at `path` once, until `file` (by default the same) changes."""
        status = look(file or path)
        if status is None:
            return  # its reader reports that
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            if identity not in self._seen:
                self._seen[identity] = self._asked(kind, os.path.abspath(path))
            wrong = self._seen[identity]
        if wrong is not None:
            told_by_library, text = wrong
            raise OSError(text) if told_by_library else InputError(f"{path}: {text}")

    def _asked(self, kind: str, path: str) -> tuple[bool, str] | None:
        """Return what is wrong with a file, and whether the library reports it, or None."""
        for _ in range(2):  # a child that had nothing to do for long may have just left
            child = self._started()
            asking, answers = _pipes(child)
            try:
                asking.write(json.dumps([kind, path]).encode() + b"\n")
                asking.flush()
            except BrokenPipeError:
                self.end()
                continue
            if not select.select([answers], [], [], _PATIENCE)[0]:
                self.end()
                text = f"holds up the {kind} library for more than {_PATIENCE:.0f} seconds: damaged; fetch it again"
                return False, text
            if answer := answers.readline():
                wrong = json.loads(answer)
                return None if wrong is None else (wrong[0], wrong[1])
            status = child.wait()
            self.end()
            if status != 0:
                return False, f"crashes the {kind} library (status {status}): damaged; fetch it again"
        raise RuntimeError(f"no process for looking at {path}")

    def _started(self) -> subprocess.Popen:
        if self._process != os.getpid():  # a forked worker shares its parent's pipes
            self._child, self._process = None, os.getpid()
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            atexit.register(self.end)
        return self._child

    def end(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None or self._process != os.getpid():
            return
        child.kill()
        asking, answers = _pipes(child)
        with contextlib.suppress(BrokenPipeError):
            asking.close()
        answers.close()
        child.wait()


_LOOKER = _Looker()
