"""The type checker of `make lint` sees code that can never run."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# the check that once stood in image_pipeline/commands/making.py had the same shape: an answer was asked for again
DEAD = '''
def sizes(height: int | None, width: int | None) -> tuple[int, int]:
    """Return both."""
    if height is None or width is None:
        raise ValueError("no size")
    if height is None:
        return 1, width
    return height, width
'''


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """Return a function that gives mypy's lines for a source, under the project's own settings."""
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    place = tmp_path_factory.mktemp("types")

    def lines(source):
        (place / "example.py").write_text(source, encoding="utf-8")
        settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(place / "cache")]
        out, wrong, _ = api.run([*settings, str(place / "example.py")])
        assert not wrong, wrong
        return [line.removeprefix(f"{place}/") for line in out.splitlines() if "example.py:" in line]

    return lines


def test_a_branch_that_cannot_run_is_found(check):
    assert check(DEAD) == ["example.py:7: error: Statement is unreachable  [unreachable]"]


def test_without_the_branch_nothing_is_found(check):
    assert not check(DEAD.replace("    if height is None:\n        return 1, width\n", ""))


def test_an_ignore_that_ignores_nothing_is_found(check):
    assert any("unused-ignore" in line for line in check("x: int = 1  # type: ignore[attr-defined]\n"))
