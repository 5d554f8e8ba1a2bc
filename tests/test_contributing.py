"""CONTRIBUTING's recipes, followed literally: its files are written, its code and its commands are run."""

import re
import runpy
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from pcdiff import diffusion, encoders, flows, metrics, nets
from pcdiff.runtime import user_modules

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = TEXT.partition("## Add a part\n")[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", RECIPES, flags=re.DOTALL)
COMPOSED = (nets.NETS, encoders.ENCODERS, flows.PRIORS)
REGISTRIES = (
    diffusion.PROCESSES,
    diffusion.PREDICTORS,
    diffusion.OBJECTIVES,
    metrics.METRICS,
    metrics.PROTOCOLS,
    *COMPOSED,
)


def run(line):
    """Run one command in this process."""
    python, flag, module, *args = shlex.split(line)
    assert (python, flag) == ("python", "-m")
    sys.modules.pop(f"{module}.__main__", None)  # as in a process of its own, whatever other tests have imported
    with patch.object(sys, "argv", [module, *args]):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert not end.code, line  # noqa: PT017 - a command may end either way


def test_every_recipe_works_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(user_modules, "_LOADED", {})
    for registry in COMPOSED:
        monkeypatch.setattr(registry, "_outside", {})
    names, files = {}, []
    with ExitStack() as kept:
        for registry in REGISTRIES:
            kept.enter_context(patch.dict(registry))
        for language, block in BLOCKS:
            if language == "bash":
                for line in block.strip().splitlines():
                    run(line)
            elif named := re.match(r"# (\w+\.py)\n", block):
                (tmp_path / named[1]).write_text(block, encoding="utf-8")
                files.append(named[1])
            else:
                exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    assert len(files) >= 8
    for name in files:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_the_targets_that_it_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([\w-]+)", TEXT.replace("make sure", ""))) <= targets


def test_the_files_that_it_names_exist():
    named = re.findall(r"`?((?:tests|docs)/[\w/]+\.(?:py|md))`?", TEXT)
    assert len(named) >= 5
    assert not [name for name in named if not (ROOT / name).is_file()]
