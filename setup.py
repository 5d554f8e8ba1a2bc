"""Build the native ops. The metadata lives in pyproject.toml.

`PCDIFF_BUILD` decides: `auto` (the default) builds the CPU ops where torch and a C++ compiler are there and
otherwise installs pure Python, saying so; `cpu` builds them or fails; `none` installs pure Python.

Only LibTorch's stable ABI is used, so plain setuptools does: torch's own build helpers, which look for CUDA and
ninja, are not involved, and one binary serves every torch from 2.10 on.
"""

import os
import platform
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = "pcdiff/ops/csrc"
OLDEST_TORCH = (2, 10)
CHOICES = ("auto", "cpu", "none")
CONSEQUENCE = "pcdiff will run on its slow PyTorch reference; PCDIFF_BUILD=cpu makes this an error"


def say(message: str) -> None:
    """Print a line that survives both a plain build and `pip install -v`."""
    print(f"pcdiff: {message}", file=sys.stderr, flush=True)


def choice() -> str:
    """Return what `PCDIFF_BUILD` asks for."""
    wanted = os.environ.get("PCDIFF_BUILD", "auto")
    if wanted == "cuda":
        sys.exit("PCDIFF_BUILD=cuda: there are no CUDA kernels in this version; use cpu or auto")
    if wanted not in CHOICES:
        sys.exit(f"PCDIFF_BUILD must be one of {', '.join(CHOICES)}, got {wanted}")
    return wanted


def torch_folder() -> Path:
    """Return the folder of the installed torch; raises `RuntimeError` if there is none that will do.

    Torch is not imported: its version file and headers are all that is needed.
    """
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("torch is not importable here (install torch, then use pip's --no-build-isolation)")
    folder = Path(next(iter(spec.submodule_search_locations)))
    text = (folder / "version.py").read_text(encoding="utf-8")
    found = re.search(r"__version__ = ['\"](\d+)\.(\d+)", text)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_TORCH:
        raise RuntimeError(f"torch {'.'.join(map(str, OLDEST_TORCH))} or later is needed")
    return folder


def extension(torch: Path) -> Extension:
    """Return the one extension module, `pcdiff.ops._C`."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    return Extension(
        "pcdiff.ops._C",
        sources=sorted(str(p) for p in Path(SOURCES).glob("*.cpp")),
        depends=sorted(str(p) for p in [*Path(SOURCES).glob("*.h"), *Path(SOURCES).glob("*.inc")]),
        include_dirs=[str(torch / "include")],
        library_dirs=[str(torch / "lib")],
        libraries=["torch_cpu", "c10"],
        define_macros=[
            ("TORCH_TARGET_VERSION", "0x020a000000000000"),
            ("Py_LIMITED_API", "0x030a0000"),
            *([("PCDIFF_X86", None)] if x86 else []),
        ],
        extra_compile_args=[
            "-std=c++17",
            "-O3",
            "-g0",
            "-fvisibility=hidden",
            # No fused multiply-add: every instruction set must return the same bits.
            "-ffp-contract=off",
            "-fno-math-errno",
            "-fno-trapping-math",
            # Vectors wider than the baseline's registers never cross a function boundary that is not inlined.
            "-Wno-psabi",
        ],
        language="c++",
        py_limited_api=True,
    )


class BuildOps(build_ext):
    """Builds the ops; under `auto` a compiler's failure leaves a pure-Python install and says why."""

    def run(self) -> None:
        """Build what `extensions` chose."""
        try:
            super().run()
        except Exception as error:
            if choice() != "auto":
                raise
            say(f"the native ops were NOT built: {error}")
            say(CONSEQUENCE)
            # What was not built must not be looked for when the files are gathered.
            self.extensions = []

    def get_outputs(self) -> list[str]:
        """Return the files that were built."""
        return super().get_outputs() if self.extensions else []


def extensions() -> list[Extension]:
    """Return what is to be built, by `PCDIFF_BUILD` and by what is there."""
    wanted = choice()
    if wanted == "none":
        say(f"PCDIFF_BUILD=none: no native ops. {CONSEQUENCE}")
        return []
    try:
        return [extension(torch_folder())]
    except RuntimeError as error:
        if wanted != "auto":
            sys.exit(f"PCDIFF_BUILD={wanted}: {error}")
        say(f"no native ops: {error}. {CONSEQUENCE}")
        return []


modules = extensions()
setup(
    ext_modules=modules,
    cmdclass={"build_ext": BuildOps},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if modules else {},
)
