"""What stands beside the code says what the code says: versions, interpreters, type markers, hooks, C++ style."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pcdiff import __version__

ROOT = Path(__file__).resolve().parent.parent


def text(*names):
    return ROOT.joinpath(*names).read_text(encoding="utf-8")


def pyproject_list(name):
    (found,) = re.findall(rf"^{name} = (\[.*?\])", text("pyproject.toml"), flags=re.MULTILINE | re.DOTALL)
    return ast.literal_eval(found)


def test_the_version_is_said_alike():
    assert re.search(r"^version: (.*)$", text("CITATION.cff"), re.MULTILINE)[1] == __version__
    newest = re.search(r"^## (\S+)", text("CHANGELOG.md"), re.MULTILINE)[1]
    assert newest == __version__


def test_the_changelog_sorts_its_lines():
    releases = re.split(r"^## .*\n", text("CHANGELOG.md"), flags=re.MULTILINE)[1:]
    assert len(releases) >= 2
    for release in releases:
        before, *parts = re.split(r"^### (.*)\n", release, flags=re.MULTILINE)
        assert not re.search(r"^- ", before, re.MULTILINE)
        names = parts[::2]
        assert names == sorted(set(names)), names  # Added, Changed, Fixed, Removed: the alphabet's order too
        assert set(names) <= {"Added", "Changed", "Fixed", "Removed"}


def test_public_ci_runs_the_oldest_python():
    workflow = text(".github", "workflows", "ci.yml")
    versions = ast.literal_eval(re.search(r"python: (\[.*\])", workflow)[1])
    oldest = re.search(r'^requires-python = ">=(.*)"', text("pyproject.toml"), re.MULTILINE)[1]
    assert oldest in versions
    assert len(versions) >= 2
    assert "make test" in workflow


def test_both_packages_are_marked_as_typed():
    data = re.search(r"\[tool.setuptools.package-data\]\n((?:.+\n)+)", text("pyproject.toml"))[1]
    for package in ("pcdiff", "image_pipeline"):
        assert (ROOT / package / "py.typed").is_file()
        assert f'{package} = ["py.typed"]' in data


def test_hooks_run_what_make_lint_runs():
    hooks = text(".pre-commit-config.yaml")
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", text("Makefile"), re.MULTILINE)[1]
    tools = re.findall(r"\$\(BIN\)/(\w+)", recipe)
    assert set(tools) == {"ruff", "mypy"}
    for tool in tools:
        assert f".venv/bin/{tool}" in hooks


def test_large_files_are_refused_by_the_hook_but_those_that_are_there():
    limit = int(re.search(r"--maxkb=(\d+)", text(".pre-commit-config.yaml"))[1])
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    sizes = {name: (ROOT / name).stat().st_size for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    assert not {name: size for name, size in sizes.items() if size > 1024 * limit}


def test_csrc_has_the_style_of_its_file():
    program = shutil.which("clang-format") or shutil.which("clang-format", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("clang-format is not installed")
    pinned = re.search(r"clang-format==([\d.]+)", text(".pre-commit-config.yaml"))[1]
    if pinned not in subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout:
        pytest.skip(f"this clang-format is not {pinned}; others break lines elsewhere")
    files = [
        str(p) for p in (ROOT / "pcdiff" / "ops" / "csrc").rglob("*") if p.suffix in {".cpp", ".h", ".inc", ".cu"}
    ]
    done = subprocess.run([program, "--dry-run", "-Werror", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
