"""Run the golden, op and metric tests once for each instruction set that this machine has (`make test-isa`).

Every library that chooses by the processor is told: PyTorch's own kernels (`ATEN_CPU_CAPABILITY`), MKL's matrix
products (`MKL_ENABLE_INSTRUCTIONS`; MKL follows it on Intel's processors only), oneDNN's convolutions
(`ONEDNN_MAX_CPU_ISA`) and our ops (`PCDIFF_CPU_CAPABILITY`). The numbers differ in their last bits, and no test may
depend on those.

python tests/isa.py --workers 2 [baseline avx2 avx512] [-- arguments of pytest]
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from pcdiff.ops import cpu_capabilities

SETS = {
    "baseline": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
    },
}
TESTS = [
    ["-m", "golden", "tests"],
    ["-m", "not golden", "tests/ops", "tests/metrics"],
]
# They compile for a GPU, or run its kernels' bodies compiled for this processor: nothing in them chooses by it.
LEFT_OUT = ["test_cuda_compile.py", "test_cuda_bodies.py", "test_cuda_device.py", "test_ops_backend.py"]
_TOLD = "import torch; from pcdiff.ops import emd; emd(torch.rand(1, 8, 3), torch.rand(1, 8, 3)); "
_TOLD += "print(torch.backends.cpu.get_cpu_capability())"
ROOT = Path(__file__).resolve().parent.parent


def environment(name: str) -> dict[str, str]:
    """Return the environment in which everything computes with one instruction set."""
    own = {"PCDIFF_CPU_CAPABILITY": name, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return {**os.environ, **SETS[name], **own, "PYTHONPATH": str(ROOT)}


def check(name: str) -> None:
    """End the program where PyTorch does not do as it is told."""
    done = subprocess.run(
        [sys.executable, "-c", _TOLD], env=environment(name), cwd=ROOT, capture_output=True, text=True, check=True
    )
    got = done.stdout.strip()
    if got.lower() != SETS[name]["ATEN_CPU_CAPABILITY"]:
        sys.exit(f"{name}: PyTorch computes with {got}; expected {SETS[name]['ATEN_CPU_CAPABILITY']}")


def main() -> None:
    """Run the tests; exit with status 1 if any fails under any instruction set."""
    own, _, theirs = " ".join(sys.argv[1:]).partition("-- ")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help="instruction sets; all that this machine has by default")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    args = parser.parse_args(own.split())
    has = cpu_capabilities()
    if not has:
        sys.exit("the native ops are not built here; make setup builds them")
    if unknown := set(args.sets) - set(has):
        sys.exit(f"instruction sets must be of {', '.join(has)} on this machine, got {', '.join(sorted(unknown))}")
    ignored = [f"--ignore=tests/ops/{name}" for name in LEFT_OUT]
    results = {}
    for name in args.sets or has:
        check(name)
        begun = time.monotonic()
        for tests in TESTS:
            print(f"== {name}: {' '.join(tests)}", flush=True)
            workers = ["--numprocesses", str(args.workers), "--dist=loadfile"] if args.workers > 1 else []
            command = [sys.executable, "-m", "pytest", "-q", *workers, *ignored, *tests, *theirs.split()]
            status = subprocess.run(command, env=environment(name), cwd=ROOT, check=False).returncode
            results[name, tests[1]] = status
        print(f"== {name}: {time.monotonic() - begun:.0f} s", flush=True)
    for name in set(SETS) - set(has):
        print(f"== {name}: not tested, this machine has no such instructions")
    for (name, what), status in results.items():
        print(f"== {name}, {what}: {'passed' if status == 0 else f'FAILED (status {status})'}")
    sys.exit(any(results.values()))


if __name__ == "__main__":
    main()
