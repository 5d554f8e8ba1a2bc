"""The guide to nets: its code runs, its commands parse, and its numbers are those of the nets."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from pcdiff.commands import cli, model_commands
from pcdiff.config.presets import GENERATOR_PRESETS
from pcdiff.nets import NETS, PVCNN

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "nets.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip()
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def test_the_code_runs():
    shared = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(compile(block, "docs/nets.md", "exec"), shared)
    assert isinstance(shared["net"], PVCNN)


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command):
    words = shlex.split(command, comments=True)
    if words[:2] == ["python", "train_gen.py"]:
        cli.parse_run(GENERATOR_PRESETS, words[2:])
    else:
        assert words[0] == "pcdiff"
        model_commands.parse(words[1], words[2:])


def test_every_option_that_is_named_exists():
    section = TEXT[TEXT.index("## Point-voxel net") :].split("\n## ")[0]
    fields = set(vars(PVCNN.Config()))
    quirks = section[section.index("**PVD's quirks**") : section.index("**PVD's and TIGER's weights**")]
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+|checkpoint)`", quirks))
    assert len(named & fields) >= 9
    assert named <= fields


@pytest.mark.parametrize("preset", ["pvd", "tiger"])
def test_the_numbers_of_parameters(preset):
    with torch.device("meta"):
        net = NETS["pvcnn"](GENERATOR_PRESETS[preset].model.net_options)
    assert f"| {sum(p.numel() for p in net.parameters()):,} |" in TEXT
