"""Loading, hiding and building the native ops, each in a process of its own."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from pcdiff import ops
from pcdiff.errors import InputError
from pcdiff.ops import _native

ROOT = Path(__file__).resolve().parents[2]

USE_TWICE = """
import warnings, torch
from pcdiff import ops
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    x = torch.zeros(1, 4, 3)
    for op in (ops.chamfer, ops.nearest, lambda a, b: ops.pairwise(a, b), ops.chamfer):
        op(x, x + 1)
print(ops.backend(), ops.backend("cuda"), ops.cpu_capabilities())
for warning in caught:
    print(warning.category.__name__, warning.filename.endswith("<string>"), warning.message)
"""


# Torch alone takes seconds to import. A process that has it, and nothing of pcdiff, forks one for each program.
FORK = """
import json, os, sys, torch
for line in sys.stdin:
    program, folder, environment, files = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.environ |= environment
        for number, file in enumerate(files, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        exec(program, {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return a function that runs a program in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PCDIFF_")}
    files = [str(tmp_path_factory.mktemp("shown") / name) for name in ("out", "errors")]
    with subprocess.Popen(
        [sys.executable, "-c", FORK],
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def run(program, folder=ROOT, **variables):
            process.stdin.write(json.dumps([program, str(folder), variables, files]) + "\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            return subprocess.CompletedProcess(program, status, *(Path(file).read_text() for file in files))

        yield run


def test_the_fallback_warns_once_says_why_and_how_to_build(python):
    lines = python(USE_TWICE, PCDIFF_NATIVE="0").stdout.splitlines()
    assert lines[0] == "reference reference ()"
    assert len(lines) == 2
    assert lines[1].startswith("RuntimeWarning True pcdiff.ops runs on its slow PyTorch reference")
    assert "PCDIFF_NATIVE=0" in lines[1]


@pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")
def test_the_native_path_is_silent(python):
    lines = python(USE_TWICE).stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("cpu reference ('baseline'")


def test_an_unknown_value_is_refused(python):
    done = python("import pcdiff.ops", PCDIFF_NATIVE="no")
    assert done.returncode == 1
    assert "PCDIFF_NATIVE must be 0 (hide the native ops) or 1, got no" in done.stderr


def test_an_extension_that_does_not_load_is_named_not_fatal(python, tmp_path):
    shutil.copytree(ROOT / "pcdiff", tmp_path / "pcdiff", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "pcdiff" / "ops" / "_C.abi3.so").write_bytes(b"not a library")
    done = python(USE_TWICE, tmp_path)
    assert "do not load" in done.stdout
    assert done.stdout.startswith("reference")


OTHER_VERSION = """
import torch
made, load = torch.library.Library("pcdiff", "DEF"), torch.ops.load_library
made.define("interface_version() -> int")
made.impl("interface_version", lambda: -1, "CompositeExplicitAutograd")
torch.ops.load_library = lambda path: None
"""


@pytest.mark.skipif(ops.backend() != "cpu", reason="the native ops are not built")
@pytest.mark.parametrize("before", [OTHER_VERSION, OTHER_VERSION.replace("made.", "None and made.")])
def test_ops_of_another_version_are_named_not_used(python, before):
    """As after an update of the package without a new build: of another version, or of a time before versions."""
    done = python(before + USE_TWICE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reference")
    assert "are of another version than this package; rebuild them with `PCDIFF_BUILD=cpu pip" in done.stdout


@pytest.fixture
def build(python, tmp_path):
    """Return a function that runs setup.py's build into a scratch folder."""
    folders = ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    argv = ["setup.py", "-q", "build_ext", *folders]
    program = f"import runpy, sys; sys.argv = {argv}; runpy.run_path('setup.py', run_name='__main__')"
    return partial(python, program)


def test_a_broken_compiler_is_fatal_only_when_a_build_was_asked_for(build):
    broken = shutil.which("false")
    automatic = build(CC=broken, CXX=broken)
    assert automatic.returncode == 0
    assert "pcdiff.ops._C was NOT built" in automatic.stderr
    assert "slow PyTorch reference" in automatic.stderr
    assert build(CC=broken, CXX=broken, PCDIFF_BUILD="cpu").returncode != 0


def test_build_choices(build, tmp_path):
    none = build(PCDIFF_BUILD="none")
    assert none.returncode == 0
    assert "no native ops" in none.stderr
    assert not (tmp_path / "lib").exists()
    assert "PCDIFF_BUILD must be one of auto, cpu, cuda, none, got gpu" in build(PCDIFF_BUILD="gpu").stderr


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_asking_for_cuda_without_it_fails_and_says_why(build, tmp_path):
    cuda = build(PCDIFF_BUILD="cuda")
    assert cuda.returncode != 0
    assert cuda.stderr.strip().splitlines()[-1] == (
        f"PCDIFF_BUILD=cuda: this torch ({torch.__version__}) is built without CUDA; install one with CUDA first"
    )
    assert not (tmp_path / "lib").exists()


@pytest.fixture
def setup_module(monkeypatch):
    """Return setup.py as a module, under a torch that claims to have CUDA and a builder without effects."""
    spec = importlib.util.spec_from_file_location("pcdiff_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    for variable in ("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(ROOT)
    return module


class Builder:
    """Stands in for `torch.utils.cpp_extension`: extensions are dictionaries."""

    def __init__(self, guess):
        self.CUDA_HOME = guess

    def CppExtension(self, name, **arguments):
        return {"name": name, **arguments}

    CUDAExtension = CppExtension


def toolkit_in(folder):
    for file in ("bin/nvcc", "include/cuda_runtime.h"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).touch()
    return folder


def names(extensions):
    return [extension["name"] for extension in extensions]


def test_cuda_is_built_where_torch_and_a_toolkit_are(setup_module, tmp_path, monkeypatch, capsys):
    builder = Builder(str(toolkit_in(tmp_path / "cuda")))
    for wanted in ("auto", "cuda"):
        cpu, cuda = setup_module.extensions(wanted, builder)
        assert (cpu["name"], cuda["name"]) == ("pcdiff.ops._C", "pcdiff.ops._cuda")
        assert {Path(source).suffix for source in cuda["sources"]} == {".cpp", ".cu"}
        assert not {Path(s).parent for s in cpu["sources"]} & {Path(s).parent for s in cuda["sources"]}
        assert set(setup_module.GENCODE) <= set(cuda["extra_compile_args"]["nvcc"])
    assert names(setup_module.extensions("cpu", builder)) == ["pcdiff.ops._C"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6")
    cuda = setup_module.extensions("cuda", builder)[1]
    assert not any("gencode" in flag for flag in cuda["extra_compile_args"]["nvcc"])
    assert not capsys.readouterr().err


def test_a_named_toolkit_comes_first_and_a_wrapper_script_is_none(setup_module, tmp_path, monkeypatch):
    wrapper = tmp_path / "wrapper"
    (wrapper / "bin").mkdir(parents=True)
    (wrapper / "bin" / "nvcc").touch()
    named = toolkit_in(tmp_path / "named")
    monkeypatch.setenv("CUDA_HOME", str(named))
    builder = Builder(str(wrapper))
    setup_module.extensions("cuda", builder)
    assert Path(builder.CUDA_HOME) == named
    monkeypatch.setenv("CUDA_HOME", str(wrapper))
    with pytest.raises(RuntimeError, match=r"no CUDA toolkit .* in .*wrapper; set CUDA_HOME"):
        setup_module.toolkit("elsewhere")


def test_without_a_toolkit_auto_says_so_and_cuda_fails(setup_module, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert names(setup_module.extensions("auto", Builder(None))) == ["pcdiff.ops._C"]
    said = capsys.readouterr().err
    assert "no CUDA kernels: no CUDA toolkit" in said
    assert "PCDIFF_BUILD=cuda makes this an error" in said
    with pytest.raises(SystemExit, match="PCDIFF_BUILD=cuda: no CUDA toolkit"):
        setup_module.extensions("cuda", Builder(None))
    monkeypatch.setattr("torch.version.cuda", None)
    assert names(setup_module.extensions("auto", Builder(None))) == ["pcdiff.ops._C"]
    assert not capsys.readouterr().err


def test_one_extensions_failure_leaves_the_other(setup_module, monkeypatch, capsys):
    class Extension:
        def __init__(self, name):
            self.name = name

    class Command:
        def __init__(self):
            self.extensions, self.built = [Extension("pcdiff.ops._C"), Extension("pcdiff.ops._cuda")], []
            self.compiler = None

        def run(self):
            assert self.compiler is None
            self.compiler = object()  # as setuptools does
            if self.extensions[0].name == "pcdiff.ops._cuda":
                raise RuntimeError("nvcc broke")
            self.built += self.extensions

        def get_outputs(self):
            return []

    monkeypatch.setenv("PCDIFF_BUILD", "auto")
    command = setup_module.lenient(Command)()
    command.run()
    assert [e.name for e in command.extensions] == [e.name for e in command.built] == ["pcdiff.ops._C"]
    assert "pcdiff.ops._cuda was NOT built: nvcc broke" in capsys.readouterr().err
    monkeypatch.setenv("PCDIFF_BUILD", "cuda")
    with pytest.raises(RuntimeError, match="nvcc broke"):
        setup_module.lenient(Command)().run()


def test_which_devices_have_kernels(monkeypatch):
    monkeypatch.setattr(_native, "_missing", None)
    monkeypatch.setattr(_native, "_missing_cuda", "hidden by the test")
    assert [ops.backend(device) for device in ("cpu", "cuda:1", "meta")] == ["cpu", "reference", "reference"]
    monkeypatch.setattr(_native, "_missing_cuda", None)
    assert ops.backend("cuda:1") == "cuda"
    assert _native.has_kernels("cuda")
    assert not _native.has_kernels("meta")


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (
            "cuda",
            "pcdiff.ops runs CUDA tensors on its slow PyTorch reference: the CUDA kernels are not built; build",
        ),
        ("meta", "pcdiff.ops has no kernels for meta tensors"),
    ],
)
def test_the_warning_names_the_device_and_the_reason(device, words, monkeypatch):
    monkeypatch.setattr(_native, "_warned", set())
    monkeypatch.setattr(
        _native, "_missing_cuda", _native._load_library("_no_such", "the CUDA kernels", "cuda", "none")
    )
    assert "PCDIFF_BUILD=cuda pip install" in _native._missing_cuda
    with pytest.warns(RuntimeWarning, match=words):
        _native._warn_once(torch.device(device))


@pytest.mark.skipif(not ops.cpu_capabilities(), reason="the native ops, which declare the schemas, are not built")
def test_coordinates_are_checked_before_a_cuda_kernel_runs(monkeypatch):
    op = torch.ops.pcdiff.nearest.default
    good, bad = torch.zeros(2, 4, 3), torch.zeros(2, 4, 3)
    bad[1, 2] = torch.nan
    _native._check_on_device(op, (None, None), {"x": good, "y": good})
    with pytest.raises(InputError, match="y must be finite, got 3 NaN"):
        _native._check_on_device(op, (None, None), {"x": good, "y": bad})
    # What stands behind a cloud's end is nobody's business.
    _native._check_on_device(op, (None, torch.tensor([4, 2])), {"x": good, "y": bad})
    with pytest.raises(InputError, match="y must be finite, got 3 NaN"):
        _native._check_on_device(op, (torch.tensor([4, 2]), torch.tensor([4, 3])), {"x": good, "y": bad})
    monkeypatch.setattr("pcdiff.ops._check.out_of_reach", lambda device: True)
    _native._check_on_device(op, (None, None), {"x": good, "y": bad})
