"""Imports point down only: a module may import what lies on a lower floor, and nothing beside or above it."""

import ast
import fnmatch
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. Rooms on one floor do not import one another; within a room, files may. `pcdiff` itself is its
# `__init__.py`, which gathers the public names.
FLOORS = [
    {"pcdiff.errors", "pcdiff.version"},
    {"pcdiff.runtime"},
    {"pcdiff.registry", "pcdiff.ops"},
    {"pcdiff.nets", "pcdiff.diffusion"},
    {"pcdiff.encoders", "pcdiff.flows"},
    {"pcdiff.config"},
    {"pcdiff.models", "pcdiff.metrics", "pcdiff.viz"},
    {"pcdiff.interop"},
    {"pcdiff.data", "pcdiff.training"},
    {"pcdiff.notebook", "pcdiff.evaluation"},
    {"pcdiff"},
    {"pcdiff.commands"},
    {"image_pipeline"},
    {"pcdiff.__main__", "train_gen", "train_ae", "evaluate", "setup"},
    {"benchmarks"},
    {"data"},  # what a checkout's user may write for pcdiff.data; the package does not
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TOPS = {"pcdiff", *(room for room in FLOOR if "." not in room)}


def sources(root=ROOT):
    """Yield every module's dotted name and file. `data/` is `pcdiff.data`, whatever the checkout calls it."""
    files = list(root.glob("*.py"))
    for folder in ("pcdiff", "data", "image_pipeline", "benchmarks"):
        files += (root / folder).rglob("*.py")
    for path in sorted(files):
        parts = list(path.relative_to(root).with_suffix("").parts)
        parts = ["pcdiff", *parts] if parts[0] == "data" else parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def room_of(module):
    """Return the room of a dotted name; a public name taken from `pcdiff` is `pcdiff` itself."""
    parts = module.split(".")
    if parts[0] != "pcdiff" or len(parts) == 1:
        return parts[0]
    return ".".join(parts[:2])


def imported(module, path, modules):
    """Yield the dotted names of our modules that a file imports, anywhere in it, with their lines."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            # `from pcdiff import rng` imports a module, `from pcdiff import load` a name
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] in TOPS:
                yield name, node.lineno


def violations(root=ROOT):
    """Return one line for every import that does not point down."""
    found, modules = [], dict(sources(root))
    for module, path in modules.items():
        room = room_of(module)
        if room not in FLOOR:
            found.append(f"{module}: has no floor; give it one in tests/test_floors.py")
            continue
        for name, line in imported(module, path, modules):
            other = room_of(name)
            if other not in FLOOR:
                found.append(f"{module}:{line}: imports {name}, which has no floor")
            elif other != room and FLOOR[other] >= FLOOR[room]:
                found.append(f"{module}:{line}: imports {name}, which does not lie below it")
    return found


def test_imports_point_down_only():
    assert not violations()


def test_every_floors_room_exists():
    rooms = {room_of(module) for module, _ in sources()}
    assert {room for room in FLOOR if room not in rooms} == {"data"}


def test_what_is_installed_imports_nothing_that_is_not():
    found = re.search(r"^include = (\[.*\])$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    patterns, modules = ast.literal_eval(found[1]), dict(sources())

    def installed(name):
        return any(fnmatch.fnmatch(name.split(".")[0], pattern) for pattern in patterns)

    assert {name.split(".")[0] for name in modules if installed(name)} == {"pcdiff", "image_pipeline"}
    assert not [
        f"{module}:{line}: imports {name}"
        for module, path in modules.items()
        if installed(module)
        for name, line in imported(module, path, modules)
        if not installed(name)
    ]


def test_no_room_is_on_two_floors():
    assert not [a & b for a, b in itertools.combinations(FLOORS, 2) if a & b]


@pytest.mark.parametrize(
    ("file", "text", "caught"),
    [
        ("pcdiff/ops/bad.py", "from pcdiff.models import Latent", "pcdiff.models"),  # up
        ("pcdiff/nets/bad.py", "import pcdiff.diffusion.editing", "pcdiff.diffusion"),  # beside
        ("pcdiff/flows/bad.py", "from ..encoders import pointnet", "pcdiff.encoders"),  # beside, relative
        ("pcdiff/config/bad.py", "def f():\n    from pcdiff import training", "pcdiff.training"),  # up, hidden
        ("pcdiff/errors.py", "from . import registry", "pcdiff.registry"),  # up, relative
        ("pcdiff/training/bad.py", "from pcdiff import evaluation", "pcdiff.evaluation"),  # up
        ("pcdiff/metrics/bad.py", "from pcdiff import models", "pcdiff.models"),  # beside
        ("pcdiff/models/bad.py", "import pcdiff", "imports pcdiff,"),  # the public names lie above
        ("pcdiff/models/bad.py", "from pcdiff import load", "imports pcdiff,"),
        ("pcdiff/training/bad.py", "from pcdiff.data.batches import Batches", "pcdiff.data"),  # beside
        ("pcdiff/evaluation/bad.py", "from data import load_clouds", "imports data"),  # the checkout's name of it
        ("data/bad.py", "import train_gen", "train_gen"),  # a script
        ("pcdiff/attic.py", "", "pcdiff.attic: has no floor"),  # a new room
    ],
)
def test_a_bad_import_is_caught(file, text, caught, tmp_path):
    for module, path in sources():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("" if module.count(".") else "# nothing", encoding="utf-8")
    assert not violations(tmp_path)
    (tmp_path / file).write_text(text, encoding="utf-8")
    found = violations(tmp_path)
    assert len(found) == 1
    assert caught in found[0]


def test_allowed_imports_pass(tmp_path):
    for file, text in {
        "pcdiff/errors.py": "",
        "pcdiff/nets/one.py": "from pcdiff.errors import InputError\nfrom pcdiff.nets.two import b\nimport torch",
        "pcdiff/nets/two.py": "from . import three",
        "pcdiff/nets/three.py": "",
        "pcdiff/models.py": "from pcdiff.nets.one import a",
        "pcdiff/__init__.py": "from pcdiff.models import A",
        "train_gen.py": "import pcdiff\nfrom pcdiff import models",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
    assert not violations(tmp_path)


def test_the_ground_floors_import_alone():
    """Each room below the models loads in a fresh process without any other of ours above it."""
    ground = sorted(set().union(*FLOORS[:5]))
    code = "\n".join(
        [
            "import importlib, sys",
            "sys.modules['pcdiff'] = type(sys)('pcdiff')",  # not the package's __init__, which gathers everything
            f"sys.modules['pcdiff'].__path__ = [{str(ROOT / 'pcdiff')!r}]",
            f"for room in {ground!r}:",
            "    importlib.import_module(room)",
            "ours = {'.'.join(name.split('.')[:2]) for name in sys.modules if name.startswith('pcdiff.')}",
            f"assert ours <= set({ground!r}), ours",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
