"""The CUDA extension compiles, without a warning or a spill, for every architecture; no GPU is needed.

What is checked is what `setup.py` builds: its sources, its flags, its toolkit. Bound to a torch without CUDA,
through a stand-in for the one function that torch lacks there, the library must load and register every op.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch.utils.cpp_extension

from pcdiff.ops import cpu_capabilities

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "pcdiff" / "ops" / "csrc" / "cuda"
KERNELS = sorted(FOLDER.glob("*.cu"))
OPS = "approxmatch assign assign_matrix ball_query chamfer_matrix farthest_points knn nearest nearest_both".split()
OPS += ["softmin", "voxels"]

SPILLING = """
__global__ void __launch_bounds__(1024) spills(float* out) {
  float value[80];
#pragma unroll
  for (int i = 0; i < 80; ++i) value[i] = out[threadIdx.x * 80 + i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 80; ++i) out[threadIdx.x * 80 + 79 - i] = value[i] * value[(i * 7) % 80];
}
"""

STAND_IN = """
extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }
"""

REGISTERED = """
import sys, torch
torch.ops.load_library(sys.argv[1])
names = torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")
print(*(name for name in names if name.startswith("pcdiff::")))
"""


@pytest.fixture(scope="module")
def build():
    """Return setup.py as a module."""
    spec = importlib.util.spec_from_file_location("pcdiff_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def toolkit(build):
    try:
        return build.toolkit(torch.utils.cpp_extension.CUDA_HOME)
    except RuntimeError as error:
        pytest.skip(str(error))


def compile_kernels(build, toolkit, source, target):
    """Compile one .cu file for all architectures; the compiler reports every kernel's registers and spills."""
    flags = ["-std=c++17", "-O3", "-Xcompiler=-fPIC", *build.GENCODE]
    strict = ["-Xptxas=-v,-warn-spills,-warn-lmem-usage", "-Werror=all-warnings"]
    return subprocess.run(
        [toolkit / "bin" / "nvcc", *flags, *strict, "-c", source, "-o", target], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def compiled(build, toolkit, tmp_path_factory):
    """Compile all kernels, two files at a time; return the objects' folder and each file's outcome."""
    folder = tmp_path_factory.mktemp("kernels")
    longest_first = sorted(KERNELS, key=size, reverse=True)
    with ThreadPoolExecutor(2) as pool:
        outcomes = pool.map(lambda p: compile_kernels(build, toolkit, p, folder / f"{p.stem}.o"), longest_first)
        return folder, dict(zip(longest_first, outcomes, strict=True))


def size(path):
    return path.with_suffix(".h").stat().st_size


SMALLEST = min(KERNELS, key=size)


# How a binding's parameters and results are spelled in a schema.
SPELLED = {
    "const Tensor&": "Tensor",
    "const std::optional<Tensor>&": "Tensor?",
    "int64_t": "int",
    "double": "float",
    "bool": "bool",
}


@pytest.mark.skipif(not cpu_capabilities(), reason="the native ops, which declare the schemas, are not built")
@pytest.mark.parametrize("op", OPS)
def test_a_binding_takes_and_returns_what_the_schema_says(op):
    text = " ".join((FOLDER / "bindings.cpp").read_text().split())
    results, parameters = re.search(rf"(std::tuple<[\w, ]+>|Tensor) {op}\(([^)]*)\) {{", text).groups()
    bound = [re.fullmatch(r"(.+[ &])(\w+)", parameter).groups() for parameter in parameters.split(", ")]
    schema = getattr(torch.ops.pcdiff, op).default._schema
    declared = re.match(r"pcdiff::\w+\((.*)\) ->", str(schema))[1].split(", ")
    assert [f"{SPELLED[kind.strip()]} {name}" for kind, name in bound] == declared
    assert len(schema.returns) == max(1, results.count("Tensor"))


def test_there_are_kernels():
    assert len(KERNELS) == 8


def test_the_smallest_file_compiles_without_warnings_or_spills(build, toolkit, tmp_path):
    compiles_without_warnings_or_spills(compile_kernels(build, toolkit, SMALLEST, tmp_path / "smallest.o"))


@pytest.mark.slow
@pytest.mark.parametrize("source", KERNELS, ids=lambda path: path.name)
def test_every_kernel_compiles_without_warnings_or_spills(compiled, source):
    compiles_without_warnings_or_spills(compiled[1][source])


def compiles_without_warnings_or_spills(outcome):
    assert outcome.returncode == 0, outcome.stderr
    report = outcome.stdout + outcome.stderr
    assert "warning" not in report
    kernels = re.findall(r"Compiling entry function '(\w+)' for '(sm_\d+)'", report)
    assert {target for _, target in kernels} == {"sm_80", "sm_90"}
    for kind in ("stack frame", "spill stores", "spill loads"):
        sizes = re.findall(rf"(\d+) bytes {kind}", report)
        assert len(sizes) >= len(kernels)
        assert set(sizes) == {"0"}, report


def test_a_spill_would_be_caught(build, toolkit, tmp_path):
    source = tmp_path / "spilling.cu"
    source.write_text(SPILLING)
    outcome = compile_kernels(build, toolkit, source, tmp_path / "spilling.o")
    assert outcome.returncode != 0
    assert "spilled" in outcome.stdout + outcome.stderr


def test_the_object_code_holds_ptx_for_later_gpus(build):
    assert [flag for flag in build.GENCODE if flag.endswith("code=compute_90")]


@pytest.mark.slow
def test_the_bindings_compile_load_and_register_every_op(build, toolkit, compiled, tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    extension_flags = ["-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-fPIC", "-DUSE_CUDA"]
    macros = [f"-D{name}={value}" for name, value in build.MACROS]
    headers = [*torch.utils.cpp_extension.include_paths(), str(toolkit / "include")]
    includes = [word for path in headers for word in ("-isystem", path)]
    bindings, stand_in, library = tmp_path / "bindings.o", tmp_path / "stand_in.cpp", tmp_path / "_cuda.so"
    subprocess.run(
        [compiler, *extension_flags, *macros, *includes, "-c", FOLDER / "bindings.cpp", "-o", bindings], check=True
    )
    stand_in.write_text(STAND_IN)
    objects = sorted(compiled[0].glob("*.o"))
    folders = [*torch.utils.cpp_extension.library_paths(), str(toolkit / "lib64")]
    libraries = [*(f"-L{path}" for path in folders), "-ltorch_cpu", "-lcudart_static", "-lrt", "-lpthread", "-ldl"]
    subprocess.run(
        [compiler, "-shared", "-fPIC", stand_in, bindings, *objects, *libraries, "-o", library], check=True
    )
    done = subprocess.run([sys.executable, "-c", REGISTERED, library], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == [f"pcdiff::{name}" for name in OPS]
