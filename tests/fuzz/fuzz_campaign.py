"""A campaign: workers that read mutated files, watched, and begun anew where one died or does not end."""

import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from fuzz_worker import PLACE

WORKER = Path(__file__).with_name("fuzz_worker.py")
_BUSY, _STILL = 60.0, 900.0  # seconds of the CPU, and of the clock, without a next case


def campaign(readers: list[str], per_reader: int, seed: int) -> tuple[dict[str, Counter], list[dict]]:
    """Run workers, a new one after each death, until all cases are read; return counts by reader, and findings."""
    counts, findings = defaultdict(Counter), []
    left, first = list(readers), 0
    with tempfile.TemporaryDirectory() as folder:
        place, log = Path(folder) / "place", Path(folder) / "log"
        place.write_bytes(bytes(PLACE.size))
        while left:
            place.write_bytes(PLACE.pack(0, first))
            log.write_text("")
            command = [sys.executable, str(WORKER), "--readers", *left]
            command += ["--first", str(first), "--last", str(per_reader), "--seed", str(seed)]
            with subprocess.Popen([*command, "--place", str(place), "--log", str(log)]) as worker:
                hung = _watch(worker, place)
            for line in log.read_text(encoding="utf-8").splitlines():
                case = json.loads(line)
                counts[case["reader"]][case["outcome"]] += 1
                if case["finding"] is not None:
                    findings.append(case["finding"])
            if worker.returncode == 0:
                break
            number, index = PLACE.unpack(place.read_bytes())
            if number < 0:
                raise RuntimeError("the worker failed before its first case")
            what = "no end" if hung else f"the process died with status {worker.returncode}"
            findings.append({"reader": left[number], "case": index, "file": "", "what": what})
            counts[left[number]]["finding"] += 1
            print(json.dumps(findings[-1]), file=sys.stderr, flush=True)
            left, first = left[number:], index + 1
    return dict(counts), findings


def _watch(worker: subprocess.Popen, place: Path) -> bool:
    """Wait for a worker's end; kill it, and say so, where a case does not end."""
    with place.open("r+b") as file, mmap.mmap(file.fileno(), PLACE.size, access=mmap.ACCESS_READ) as seen:
        before, since, used = b"", time.monotonic(), 0.0
        while worker.poll() is None:
            time.sleep(0.2)
            now = bytes(seen)
            if now != before:
                before, since, used = now, time.monotonic(), _cpu_seconds(worker.pid)
            elif _cpu_seconds(worker.pid) - used > _BUSY or time.monotonic() - since > _STILL:
                worker.kill()
                worker.wait()
                return True
    return False


def _cpu_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(counts: dict[str, Counter], findings: list[dict]) -> None:
    """Print a line for each reader, and each kind of finding once, with how often it came."""
    print(f"{'reader':20}{'cases':>9}{'read':>9}{'refused':>9}{'findings':>9}")
    for name, each in counts.items():
        print(f"{name:20}{sum(each.values()):>9}{each['read']:>9}{each['refused']:>9}{each['finding']:>9}")
    kinds = Counter((found["reader"], found["what"]) for found in findings)
    for (name, what), count in kinds.most_common():
        first = next(found for found in findings if (found["reader"], found["what"]) == (name, what))
        print(f"{name} case {first['case']} ({count} times): {what}")
