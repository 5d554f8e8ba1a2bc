"""Build the native ops. The metadata lives in pyproject.toml.

`PCDIFF_BUILD` decides: `auto` (the default) builds the CPU ops where torch and a C++ compiler are there and
otherwise installs pure Python, saying so; `cpu` builds them or fails; `none` installs pure Python.

The ops are built by `torch.utils.cpp_extension` against LibTorch's stable ABI: one binary serves every torch
from 2.10 on.
"""

import os
import platform
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

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


def cpp_extension() -> ModuleType:
    """Return `torch.utils.cpp_extension`; raises `RuntimeError` if there is no torch that will do."""
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        raise RuntimeError(f"no torch here ({error}); install it first, then use --no-build-isolation") from None
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if (int(found[1]), int(found[2])) < OLDEST_TORCH:
        raise RuntimeError(
            f"torch {'.'.join(map(str, OLDEST_TORCH))} or later is needed, this is {torch.__version__}"
        )
    return cpp_extension


def extension(builder: ModuleType) -> Extension:
    """Return the one extension module, `pcdiff.ops._C`."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    return builder.CppExtension(
        "pcdiff.ops._C",
        sources=sorted(str(p) for p in Path(SOURCES).glob("*.cpp")),
        depends=sorted(str(p) for p in [*Path(SOURCES).glob("*.h"), *Path(SOURCES).glob("*.inc")]),
        define_macros=[
            ("TORCH_TARGET_VERSION", "0x020a000000000000"),
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
        py_limited_api=True,
    )


def lenient(build: type[build_ext]) -> type[build_ext]:
    """Return a builder for which, under `auto`, a compiler's failure leaves a pure-Python install and says why."""

    class BuildOps(build):
        def run(self) -> None:
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
            return super().get_outputs() if self.extensions else []

    return BuildOps


def build_settings() -> dict[str, Any]:
    """Return setup()'s arguments for what is to be built, by `PCDIFF_BUILD` and by what is there."""
    wanted = choice()
    if wanted == "none":
        say(f"PCDIFF_BUILD=none: no native ops. {CONSEQUENCE}")
        return {}
    try:
        builder = cpp_extension()
    except RuntimeError as error:
        if wanted != "auto":
            sys.exit(f"PCDIFF_BUILD={wanted}: {error}")
        say(f"no native ops: {error}. {CONSEQUENCE}")
        return {}
    return {
        "ext_modules": [extension(builder)],
        # Five small files: ninja would save nothing, and its absence would be warned of.
        "cmdclass": {"build_ext": lenient(builder.BuildExtension.with_options(use_ninja=False))},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**build_settings())
