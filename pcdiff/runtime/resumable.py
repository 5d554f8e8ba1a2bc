"""Long work in blocks: shared by processes, kept in a journal, with results that do not depend on either.

A block's result may depend on nothing but the block. Then a job that was killed continues where it stood, and any
number of processes gives the same bits as one.
"""

import json
import math
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from pcdiff.errors import InputError
from pcdiff.runtime import distributed
from pcdiff.runtime.json_files import parse_json, shown
from pcdiff.runtime.paths import exists
from pcdiff.runtime.stopping import Stop, Stopped

try:
    import fcntl
except ImportError:  # Windows: there, two evaluations that write to one place are not detected
    fcntl = None

Block = TypeVar("Block")
Arrays = tuple[np.ndarray, ...]

_MAGIC = b"pcdiff journal 2\n"
_LENGTHS = struct.Struct("<IQI")  # of the head, of the arrays, and the CRC-32 of both
_SECONDS_BETWEEN_SYNCS = 5.0
_ABSENT = object()


class ResultCache:
    """A file of finished blocks, made with the first of them.

    A record that was torn by a kill is cut off at the next opening. Only one process may have the file.

    Args:
        path: the file.
        settings: what the results depend on, ready for JSON.
        every: records are written so many at a time, and when the file is closed.
        begin: called once before the file is created or continued.

    Raises:
        InputError: the file belongs to other settings (the first that differs is named), is no journal, is in use,
            or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        every: int = 1,
        begin: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.records: dict[tuple[str, int], Arrays] = {}
        self._settings = json.loads(json.dumps(settings))
        self._every, self._begin = every, begin
        self._waiting: list[bytes] = []
        self._file: BinaryIO | None = None
        self._synced = time.monotonic()
        if exists(path):
            file = self._open()
            try:
                self._check(file, self._read(file))
            except InputError:
                file.close()
                raise

    def _open(self) -> BinaryIO:
        """Open the file, made where it is missing, for this process alone."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self._file = self.path.open("r+b" if exists(self.path) else "x+b")
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(
                f"{self.path}: another process writes there; wait for it, or give another place"
            ) from None
        except OSError as error:
            raise InputError(f"{self.path}: cannot write ({error.strerror or error})") from None
        return file

    def _check(self, file: BinaryIO, found: dict[str, Any] | None) -> None:
        """Refuse another job's journal; start a file over that was torn before its first record."""
        if found is None:
            self._start(file)
            return
        if found != self._settings:
            keys = [*self._settings, *found]
            key = next(k for k in keys if found.get(k, _ABSENT) != self._settings.get(k, _ABSENT))
            was, now = shown(found.get(key), 60), shown(self._settings.get(key), 60)
            raise InputError(
                f"{self.path}: holds stopped work with {key} = {was}, not {now}; "
                "give its flags to continue it, delete it to start over, or give another --out"
            )
        if self._begin is not None:
            self._begin()

    def _start(self, file: BinaryIO) -> None:
        if self._begin is not None:
            self._begin()
        file.seek(0)
        file.truncate()
        self._write(file, _MAGIC + json.dumps(self._settings).encode() + b"\n")

    def _read(self, file: BinaryIO) -> dict[str, Any] | None:
        """Load the records, cut the file after the last whole one, return the settings: None for a fresh file."""
        head = file.read(len(_MAGIC))
        line = file.readline()
        if not line.endswith(b"\n") and _MAGIC.startswith(head):
            return None  # torn before the first record
        if head != _MAGIC:
            raise InputError(f"{self.path}: not a journal of this version; delete it to start over")
        anew = "delete it to start over, or give another --out"
        settings = parse_json(line, f"{self.path}: damaged: its settings", anew)
        if not isinstance(settings, dict):
            raise InputError(f"{self.path}: damaged: its settings are {shown(settings)}; {anew}")
        whole = file.tell()
        while len(lengths := file.read(_LENGTHS.size)) == _LENGTHS.size:
            head_size, size, checksum = _LENGTHS.unpack(lengths)
            if head_size + size > os.fstat(file.fileno()).st_size:
                break
            content = file.read(head_size + size)
            if len(content) < head_size + size or _checksum(content) != checksum:
                break
            try:
                key, arrays = _record(content, head_size)
            except (InputError, ValueError, TypeError, MemoryError) as error:  # whole, and yet none that we wrote
                raise InputError(f"{self.path}: damaged: one of its records is none ({error}); {anew}") from None
            self.records[key] = arrays
            whole = file.tell()
        file.seek(whole)
        file.truncate()
        return settings

    def add(self, name: str, index: int, arrays: Arrays) -> None:
        """Append a finished block's arrays."""
        layout = [(array.dtype.str, array.shape) for array in arrays]
        head = json.dumps([name, index, layout]).encode()
        content = head + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
        self._waiting.append(_LENGTHS.pack(len(head), len(content) - len(head), _checksum(content)) + content)
        if len(self._waiting) >= self._every:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        file = self._file
        if file is None:
            file = self._open()
            self._start(file)
        waiting, self._waiting = self._waiting, []
        self._write(file, b"".join(waiting))

    def _write(self, file: BinaryIO, content: bytes) -> None:
        try:
            file.write(content)
            file.flush()  # survives the death of the process; the sync below that of the machine
            if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot write ({error.strerror or error}); it is kept; make room and continue"
            ) from None

    def close(self) -> None:
        """Write what is waiting and close the file, which stays."""
        self._flush()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "ResultCache":
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is None or not self._file.closed:
            self.close()

    def remove(self) -> None:
        """Delete the file: the whole work is done."""
        self._waiting.clear()
        self.path.unlink(missing_ok=True)
        self.close()


class ResumableMap:
    """Runs blocks of work, on all processes of the job, and remembers them.

    Args:
        journal: where finished blocks are kept; rank 0 alone has one, or none.
        stop: asked on rank 0 after every round of blocks; true ends the work with `Stopped`. In the middle of a
            block it is asked by `check`.

    Attributes:
        computed: blocks handed out so far that the journal did not bring.

    Example:
        >>> double = lambda block: (np.array(2 * block),)
        >>> [int(array) for (array,) in ResumableMap().map("double", range(3), double)]
        [0, 2, 4]
    """

    def __init__(self, journal: ResultCache | None = None, stop: Stop | None = None) -> None:
        self.journal = journal
        self.computed = 0
        self._stop = stop
        self._known = distributed.broadcast(dict(journal.records) if journal else {})
        self._names: set[str] = set()

    @property
    def remembered(self) -> int:
        """How many finished blocks the journal brought."""
        return len(self._known)

    def check(self) -> None:
        """Raise `Stopped` in the block that is being computed where `stop` is set; to be called from within
        `compute`.

        A limit of time leaves a call its first block, so that every call gets on; a signal does not.

        Raises:
            Stopped: a signal came, or the time is over and a block has been finished.
        """
        if self._must_give_up():
            raise Stopped

    def map(self, name: str, blocks: Sequence[Block], compute: Callable[[Block], Arrays]) -> Iterator[Arrays]:
        """Yield `compute(block)` for every block, in order, to every process.

        Args:
            name: of this piece of work, unlike all others of the job.
            blocks: what `compute` is called with; the same in every process.
            compute: returns arrays that depend on the block alone. Each block is computed by one process. Where it
                raises `Stopped`, all processes do, once those that work have finished their blocks of the round.

        Raises:
            Stopped: `stop` said so, or a block was given up.
        """
        if name in self._names:
            raise ValueError(f"name must be given to one piece of work only, got {name!r} again")
        self._names.add(name)
        missing = [k for k in range(len(blocks)) if (name, k) not in self._known]
        # Between two pieces of work too.
        if missing and distributed.broadcast(self._must_give_up()):
            raise Stopped
        ahead, size, rank = 0, distributed.world_size(), distributed.rank()
        fresh: dict[int, Arrays] = {}
        for index in range(len(blocks)):
            if (name, index) in self._known:
                yield self._known.pop((name, index))
                continue
            if index not in fresh:
                round_ = missing[ahead : ahead + size]
                try:
                    mine = compute(blocks[round_[rank]]) if rank < len(round_) else ()
                except Stopped:
                    mine = None
                found = dict(zip(round_, distributed.gather(mine), strict=False))
                fresh = {k: arrays for k, arrays in found.items() if arrays is not None}
                ahead += size
                if self.journal is not None:
                    for k, arrays in fresh.items():
                        self.journal.add(name, k, arrays)
                if len(fresh) < len(found):
                    raise Stopped
            self.computed += 1
            yield fresh[index]
            # After the last of a round: what was finished has been saved and handed out.
            if index == max(fresh) and index + 1 < len(blocks) and distributed.broadcast(self._told_to_stop()):
                raise Stopped

    def _must_give_up(self) -> bool:
        # A limit of time lets every call get on.
        return self._told_to_stop() and (self.computed > 0 or self._stop.interrupted)

    def _told_to_stop(self) -> bool:
        return self._stop is not None and self._stop()


def _record(content: bytes, head_size: int) -> tuple[tuple[str, int], Arrays]:
    """Return a record's key and its arrays.

    Raises:
        ValueError: it is none.
        TypeError: likewise.
    """
    name, index, layout = parse_json(content[:head_size], "its head")
    if not isinstance(name, str) or type(index) is not int:
        raise ValueError("its key is not a name and a number")
    arrays, place = [], head_size
    for dtype, shape in layout:
        if np.dtype(dtype).kind not in "biufc" or any(type(size) is not int or size < 0 for size in shape):
            raise ValueError("its arrays are no numbers")
        array = np.frombuffer(content, dtype, count=math.prod(shape), offset=place)
        arrays.append(array.reshape(shape).copy())
        place += array.nbytes
    if place != len(content):
        raise ValueError(f"{len(content) - place} bytes left over")
    return (name, index), tuple(arrays)


def _checksum(content: bytes) -> int:
    # Not from 0, of which zeros, such as a power cut leaves behind, would be the sum of nothing.
    return zlib.crc32(content, zlib.crc32(_MAGIC))
