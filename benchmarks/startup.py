"""How long `--help` and a wrong flag take, against `import torch` alone: CPU seconds, user and system together.

    python benchmarks/startup.py [--runs 7]

All take turns, so that a slow minute of the machine hits each; the figures are medians. Python's bytecode is kept
in a folder of its own and made before anything is timed, as an installation has it.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile

from pcdiff.commands import cli

PYTHON = {
    "import torch": ["-c", "import torch"],
    "pcdiff --help": ["-m", "pcdiff", "--help"],
    "pcdiff smaple": ["-m", "pcdiff", "smaple"],
    "pcdiff train-gen --help": ["-m", "pcdiff", "train-gen", "--help"],
    "pcdiff train-gen --batchsize 3": ["-m", "pcdiff", "train-gen", "--batchsize", "3"],
    "pcdiff evaluate --smaples x": ["-m", "pcdiff", "evaluate", "--smaples", "x"],
    "pcdiff sample --rnu x": ["-m", "pcdiff", "sample", "--rnu", "x"],
    "pcdiff images --help": ["-m", "pcdiff", "images", "--help"],
    "pcdiff images train --help": ["-m", "pcdiff", "images", "train", "--help"],
    "pcdiff images train --batchsize 3": ["-m", "pcdiff", "images", "train", "--batchsize", "3"],
    "pcdiff images sample --rnu x": ["-m", "pcdiff", "images", "sample", "--rnu", "x"],
}


def cpu_seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """Return the CPU time of one run of Python."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Time every command, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="runs of each command (default 7)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for arguments in PYTHON.values():
            cpu_seconds(arguments, environment)
        times = {name: [] for name in PYTHON}
        for _ in range(runs):
            for name, arguments in PYTHON.items():
                times[name].append(cpu_seconds(arguments, environment))
    medians = {name: statistics.median(found) for name, found in times.items()}
    print(f"{'command':36}{'CPU seconds':>12}{'of import torch':>17}")
    for name, seconds in medians.items():
        print(f"{name:36}{seconds:12.2f}{seconds / medians['import torch']:17.2f}")


if __name__ == "__main__":
    cli.run(main)
