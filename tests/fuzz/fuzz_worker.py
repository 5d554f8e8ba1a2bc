"""The process that reads mutated files: it notes where it is, so that its death is noticed and placed."""

import argparse
import contextlib
import faulthandler
import json
import mmap
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

from fuzz_mutations import mutated
from fuzz_readers import READERS, ROOT, Reader

from pcdiff.errors import InputError

PLACE = struct.Struct("<qq")  # which reader, which case
_ROOM = 4 << 30  # bytes of address space that a case may take before the system refuses it
_LONGEST = 4_001  # characters of a message


@dataclass
class StopConditions:
    """What a case may cost: seconds of the CPU, and bytes of memory beside what the process has."""

    seconds: float = 5.0
    memory: int = 512 << 20


class Bench:
    """A reader's sound files in a folder, and the reading of mutated ones in their place."""

    def __init__(self, name: str, reader: Reader, folder: Path):
        self.name, self.reader = name, reader
        folder.mkdir(parents=True)
        self.files = reader.write(folder)
        self.sound = {path: path.read_bytes() for path in self.files}

    def case(self, seed: int, index: int) -> tuple[Path, bytes]:
        """Return which file case `index` mutates, and what it holds then."""
        rng = random.Random(f"{seed}/{self.name}/{index}")
        path = rng.choice(self.files)
        return path, mutated(rng, self.sound[path], self.reader.mutations)

    def read(self, path: Path, content: bytes) -> str:
        """Read a content in a file's place: `read`, `refused`, or what is wrong."""
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.reader.read(path)
        except InputError as error:
            text = str(error)
            if "\n" in text or not text.isprintable():
                return f"message of several lines: {text[:300]!r}"
            return "refused" if len(text) < _LONGEST else f"message of {len(text)} characters: {text[:300]!r}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(ROOT))]
            where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(own[1:]))
            return f"{type(error).__name__}: {str(error)[:200]!r} at {where}"
        finally:
            path.write_bytes(self.sound[path])
        return "read"


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def try_case(bench: Bench, seed: int, index: int, limits: StopConditions) -> tuple[str, dict | None]:
    """Read a case; return `read`, `refused` or `finding`, and the finding."""
    path, content = bench.case(seed, index)
    _reset_peak()
    before, started = _peak(), time.process_time()  # of this process: others may slow the machine
    outcome = bench.read(path, content)
    seconds, memory = time.process_time() - started, _peak() - before
    if outcome in ("read", "refused"):
        if seconds <= limits.seconds and memory <= limits.memory:
            return outcome, None
        outcome = f"took {seconds:.1f} s" if seconds > limits.seconds else f"took {memory >> 20} MiB of memory"
    return "finding", {"reader": bench.name, "case": index, "file": path.name, "what": outcome}


def main() -> None:
    """Read the cases that the arguments name, and write counts and findings as JSON lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--readers", nargs="+", required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--last", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    args = parser.parse_args()
    faulthandler.enable()
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (in_use + _ROOM, resource.RLIM_INFINITY))
    with args.place.open("r+b") as file:
        place = mmap.mmap(file.fileno(), PLACE.size)
    place[:] = PLACE.pack(-1, 0)  # no case yet
    with tempfile.TemporaryDirectory() as folder, args.log.open("a", encoding="utf-8") as log:
        for number, name in enumerate(args.readers):
            place[:] = PLACE.pack(-1, 0)
            bench = Bench(name, READERS[name], Path(folder) / str(number))
            for path, content in bench.sound.items():
                if (outcome := bench.read(path, content)) != "read" and "trap" not in path.name:
                    print(f"{name}: its sound file {path.name}: {outcome}", file=sys.stderr)
            first = args.first if number == 0 else 0
            for index in range(first, args.last):
                place[:] = PLACE.pack(number, index)
                outcome, finding = try_case(bench, args.seed, index, StopConditions())
                log.write(json.dumps({"reader": name, "outcome": outcome, "finding": finding}) + "\n")
                log.flush()


if __name__ == "__main__":
    main()
