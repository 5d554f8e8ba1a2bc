"""Build the native ops. The metadata lives in pyproject.toml.

`PCDIFF_BUILD` decides: `auto` (the default) builds the CPU ops where torch and a C++ compiler are there, and the
CUDA kernels where torch has CUDA and there is a toolkit, and otherwise does without, saying so; `cpu` builds the
CPU ops or fails; `cuda` builds both or fails; `none` installs pure Python.

The toolkit is looked for in `CUDA_HOME`, `CUDA_PATH`, where torch guesses it to be, and in /usr/local/cuda. The
kernels are compiled for compute capability 8.0, 9.0 and, as PTX, all later ones; `TORCH_CUDA_ARCH_LIST` overrides.

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
CHOICES = ("auto", "cpu", "cuda", "none")
CONSEQUENCE = {
    "pcdiff.ops._C": "pcdiff will run on its slow PyTorch reference; PCDIFF_BUILD=cpu makes this an error",
    "pcdiff.ops._cuda": "CUDA tensors will run on the PyTorch reference; PCDIFF_BUILD=cuda makes this an error",
}
# Every build's macro: the oldest LibTorch whose stable ABI is used.
MACROS = [("TORCH_TARGET_VERSION", "0x020a000000000000")]
GENCODE = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
]


def say(message: str) -> None:
    """Print a line that survives both a plain build and `pip install -v`."""
    print(f"pcdiff: {message}", file=sys.stderr, flush=True)


def choice() -> str:
    """Return what `PCDIFF_BUILD` asks for."""
    wanted = os.environ.get("PCDIFF_BUILD", "auto")
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


def toolkit(guess: str | None = None) -> Path:
    """Return the CUDA toolkit's folder; `guess` is torch's.

    A folder counts if it holds both the compiler and its headers: an `nvcc` on PATH may be a wrapper script, from
    which torch guesses a folder that has no headers.

    Raises:
        RuntimeError: there is none, or `CUDA_HOME` names a folder that is none.
    """
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [Path(place) for place in ([named] if named else [guess, "/usr/local/cuda"]) if place]
    for place in places:
        if (place / "bin" / "nvcc").is_file() and (place / "include" / "cuda_runtime.h").is_file():
            return place.resolve()
    raise RuntimeError(
        f"no CUDA toolkit (bin/nvcc and include/cuda_runtime.h) in {' or '.join(map(str, places))}; "
        "set CUDA_HOME to its folder"
    )


def use_toolkit(builder: Any) -> Path:
    """Point torch's builder at the CUDA toolkit and return its folder; raises `RuntimeError` if there is none."""
    home = toolkit(builder.CUDA_HOME)
    builder.CUDA_HOME = str(home)
    return home


def cpu_extension(builder: ModuleType) -> Extension:
    """Return the extension `pcdiff.ops._C`: every op's schema, and the CPU kernels."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    return builder.CppExtension(
        "pcdiff.ops._C",
        sources=sorted(str(p) for p in Path(SOURCES).glob("*.cpp")),
        depends=sorted(str(p) for p in [*Path(SOURCES).glob("*.h"), *Path(SOURCES).glob("*.inc")]),
        define_macros=[*MACROS, *([("PCDIFF_X86", None)] if x86 else [])],
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


def cuda_extension(builder: ModuleType) -> Extension:
    """Return the extension `pcdiff.ops._cuda`: the CUDA kernels of the ops that `_C` declares.

    A library of its own, so that a machine where it does not build or load keeps its CPU ops.
    """
    folder = Path(SOURCES, "cuda")
    # Given no architecture among the flags, torch takes TORCH_CUDA_ARCH_LIST.
    architectures = [] if os.environ.get("TORCH_CUDA_ARCH_LIST") else GENCODE
    return builder.CUDAExtension(
        "pcdiff.ops._cuda",
        sources=sorted(str(p) for p in [*folder.glob("*.cpp"), *folder.glob("*.cu")]),
        depends=sorted(str(p) for p in [*folder.glob("*.h"), Path(SOURCES, "glue.h")]),
        # USE_CUDA uncovers the CUDA half of LibTorch's C interface.
        define_macros=[*MACROS, ("USE_CUDA", None)],
        extra_compile_args={
            "cxx": ["-std=c++17", "-O2", "-g0", "-fvisibility=hidden"],
            "nvcc": ["-std=c++17", "-O3", "-Xcompiler=-fvisibility=hidden", *architectures],
        },
        py_limited_api=True,
    )


def extensions(wanted: str, builder: ModuleType) -> list[Extension]:
    """Return what is to be built under `PCDIFF_BUILD=wanted`; an extension asked for that cannot be built exits."""
    if wanted == "cpu":
        return [cpu_extension(builder)]
    import torch

    try:
        if torch.version.cuda is None:
            raise RuntimeError(
                f"this torch ({torch.__version__}) is built without CUDA; install one with CUDA first"
            )
        use_toolkit(builder)
    except RuntimeError as error:
        if wanted == "cuda":
            sys.exit(f"PCDIFF_BUILD=cuda: {error}")
        # On a torch without CUDA there are no CUDA tensors, so nothing is amiss.
        if torch.version.cuda is not None:
            say(f"no CUDA kernels: {error}. {CONSEQUENCE['pcdiff.ops._cuda']}")
        return [cpu_extension(builder)]
    return [cpu_extension(builder), cuda_extension(builder)]


def lenient(build: Any) -> type[build_ext]:
    """Return a builder for which, under `auto`, a compiler's failure leaves an extension out and says why."""

    class BuildOps(build):
        extensions: list[Extension]
        compiler: Any

        def run(self) -> None:
            built, compiler = [], self.compiler
            # One after the other, so that one's failure leaves the other.
            for extension in list(self.extensions):
                # run() turns the compiler's name into an object, which it does not take for a name again.
                self.extensions, self.compiler = [extension], compiler
                try:
                    super().run()
                except Exception as error:
                    if choice() != "auto":
                        raise
                    say(f"{extension.name} was NOT built: {error}")
                    say(CONSEQUENCE[extension.name])
                else:
                    built.append(extension)
            # What was not built must not be looked for when the files are gathered.
            self.extensions = built

        def get_outputs(self) -> list[str]:
            return super().get_outputs() if self.extensions else []

    return BuildOps


def build_settings() -> dict[str, Any]:
    """Return setup()'s arguments for what is to be built, by `PCDIFF_BUILD` and by what is there."""
    wanted = choice()
    if wanted == "none":
        say(f"PCDIFF_BUILD=none: no native ops. {CONSEQUENCE['pcdiff.ops._C']}")
        return {}
    try:
        builder = cpp_extension()
    except RuntimeError as error:
        if wanted != "auto":
            sys.exit(f"PCDIFF_BUILD={wanted}: {error}")
        say(f"no native ops: {error}. {CONSEQUENCE['pcdiff.ops._C']}")
        return {}
    return {
        "ext_modules": extensions(wanted, builder),
        # A few small files: ninja would save little, and its absence would be warned of.
        "cmdclass": {"build_ext": lenient(builder.BuildExtension.with_options(use_ninja=False))},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


# Builders run this file as a script; the tests import it for its toolkit and its flags.
if __name__ == "__main__":
    setup(**build_settings())
