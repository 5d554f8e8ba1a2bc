"""Long work that is cut into blocks: shared by processes, kept in a journal, and the same whoever does it.

A block's result may depend on nothing but the block. Then a job that was killed goes on where it stood, and any
number of processes gives the same bits as one.
"""

import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pcdiff import distributed
from pcdiff.errors import InputError

Block = TypeVar("Block")
Arrays = tuple[np.ndarray, ...]

_MAGIC = b"pcdiff journal 1\n"
_LENGTHS = struct.Struct("<IQI")  # of the head, of the arrays, and the CRC-32 of both
_SECONDS_BETWEEN_SYNCS = 5.0


class Stopped(Exception):
    """The work was told to stop before its end; what is finished is in the journal."""


class Journal:
    """A file of finished blocks. A record that was torn by a kill is cut off at the next opening.

    Args:
        path: the file; made with its folder where it is missing.
        settings: what the results depend on, ready for JSON.
        every: records are written so many at a time, and when the file is closed.

    Raises:
        InputError: the file belongs to other settings (the first that differs is named), is no journal, or cannot
            be written.
    """

    def __init__(self, path: Path, settings: dict[str, Any], every: int = 1) -> None:
        self.path = path
        self._every, self._waiting, self._added = every, [], False
        self.records: dict[tuple[str, int], Arrays] = {}
        settings = json.loads(json.dumps(settings))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("r+b" if path.exists() else "w+b")
        except OSError as error:
            raise InputError(f"{path}: cannot write ({error.strerror or error})") from None
        self._synced = time.monotonic()
        found = self._read()
        if found is None:
            self._file.seek(0)
            self._file.truncate()
            self._write(_MAGIC + json.dumps(settings).encode() + b"\n")
        elif found != settings:
            self._file.close()
            key = next(k for k in [*settings, *found] if settings.get(k) != found.get(k))
            was, now = _short(found.get(key)), _short(settings.get(key))
            raise InputError(
                f"{path}: holds stopped work with {key} = {was}, not {now}; "
                "give its flags to go on with it, delete it to start anew, or give another --out"
            )

    def _read(self) -> dict[str, Any] | None:
        """Load the records, cut the file after the last whole one, return the settings: None for a fresh file."""
        head = self._file.read(len(_MAGIC))
        line = self._file.readline()
        if not line.endswith(b"\n") and _MAGIC.startswith(head):
            return None  # torn before the first record
        if head != _MAGIC:
            self._file.close()
            raise InputError(f"{self.path}: not a journal of this version; delete it to start anew")
        whole = self._file.tell()
        while len(lengths := self._file.read(_LENGTHS.size)) == _LENGTHS.size:
            head_size, size, checksum = _LENGTHS.unpack(lengths)
            if head_size + size > os.fstat(self._file.fileno()).st_size:
                break
            content = self._file.read(head_size + size)
            if len(content) < head_size + size or zlib.crc32(content) != checksum:
                break
            name, index, layout = json.loads(content[:head_size])
            arrays, place = [], head_size
            for dtype, shape in layout:
                array = np.frombuffer(content, dtype, count=int(np.prod(shape)), offset=place).reshape(shape)
                arrays.append(array.copy())
                place += array.nbytes
            self.records[name, index] = tuple(arrays)
            whole = self._file.tell()
        self._file.seek(whole)
        self._file.truncate()
        return json.loads(line)

    def add(self, name: str, index: int, arrays: Arrays) -> None:
        """Append a finished block's arrays."""
        self._added = True
        layout = [(array.dtype.str, array.shape) for array in arrays]
        head = json.dumps([name, index, layout]).encode()
        body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
        self._waiting.append(_LENGTHS.pack(len(head), len(body), zlib.crc32(head + body)) + head + body)
        if len(self._waiting) >= self._every:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._write(b"".join(waiting))

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
            self._file.flush()  # survives the death of the process; the sync below that of the machine
            if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot write ({error.strerror or error}); what is in it stays, make room and go on"
            ) from None

    @property
    def empty(self) -> bool:
        """Whether it has held no finished block."""
        return not self.records and not self._added

    def close(self) -> None:
        """Write what is waiting and close the file, which stays."""
        if not self._file.closed:
            self._flush()
            self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def remove(self) -> None:
        """Delete the file: the whole work is done."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class Work:
    """Runs blocks of work, on all processes of the job, and remembers them.

    Args:
        journal: where finished blocks are kept; rank 0 alone has one, or none.
        stop: asked on rank 0 after every round of blocks; true ends the work with `Stopped`.

    Attributes:
        computed: blocks handed out so far that the journal did not bring.

    Example:
        >>> double = lambda block: (np.array(2 * block),)
        >>> [int(array) for (array,) in Work().map("double", range(3), double)]
        [0, 2, 4]
    """

    def __init__(self, journal: Journal | None = None, stop: Callable[[], bool] | None = None) -> None:
        self.journal = journal
        self.computed = 0
        self._stop = stop
        self._known = distributed.broadcast(journal.records if journal else {})
        self._names: set[str] = set()

    @property
    def remembered(self) -> int:
        """How many finished blocks the journal brought."""
        return len(self._known)

    def map(self, name: str, blocks: Sequence[Block], compute: Callable[[Block], Arrays]) -> Iterator[Arrays]:
        """Yield `compute(block)` for every block, in order, to every process.

        Args:
            name: of this piece of work, unlike all others of the job.
            blocks: what `compute` is called with; the same in every process.
            compute: returns arrays that depend on the block alone. Each block is computed by one process.

        Raises:
            Stopped: `stop` said so.
        """
        if name in self._names:
            raise ValueError(f"name must be given to one piece of work only, got {name!r} again")
        self._names.add(name)
        missing = [k for k in range(len(blocks)) if (name, k) not in self._known]
        ahead, size, rank = 0, distributed.world_size(), distributed.rank()
        fresh: dict[int, Arrays] = {}
        for index in range(len(blocks)):
            if (name, index) in self._known:
                yield self._known.pop((name, index))
                continue
            if index not in fresh:
                round_ = missing[ahead : ahead + size]
                mine = compute(blocks[round_[rank]]) if rank < len(round_) else ()
                found = distributed.gather(mine)
                fresh = dict(zip(round_, found, strict=False))
                ahead += size
                if self.journal is not None:
                    for k, arrays in fresh.items():
                        self.journal.add(name, k, arrays)
            self.computed += 1
            yield fresh[index]
            # After the last of a round: what was finished has been saved and handed out.
            if index == max(fresh) and index + 1 < len(blocks) and distributed.broadcast(self._told_to_stop()):
                raise Stopped

    def _told_to_stop(self) -> bool:
        return self._stop is not None and self._stop()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
