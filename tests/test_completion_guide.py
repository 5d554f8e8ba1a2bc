"""The guide to completion: its code runs, its commands parse, and its tables list what there is."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from pcdiff.commands import cli, model_commands
from pcdiff.config import EvaluateConfig
from pcdiff.config.presets import GENERATOR_PRESETS
from pcdiff.data.partial import RULES
from pcdiff.metrics import completion_scores
from pcdiff.models.completing import METHODS
from pcdiff.ops.normalization import PART_MODES, SHARED_MODES

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "completion.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]


def listed(corner):
    """Return the names in the first column of the table with this corner."""
    rows = TEXT.partition(f"| {corner} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_the_tables_list_what_there_is():
    assert listed("`--partial.rule`") == list(RULES)
    assert sorted(listed("`--normalization`")) == sorted((*PART_MODES, *SHARED_MODES))
    assert set(re.findall(r"`--method (\w+)`", TEXT)) == set(METHODS) - {"trained"}
    clouds = torch.rand(2, 8, 3)
    scores = completion_scores(completions=clouds[:, None].repeat(1, 2, 1, 1), reference=clouds, given=clouds)[
        "scores"
    ]
    assert set(listed("score")) == set(scores)


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command):
    words = shlex.split(command, comments=True)
    if words[0] == "pcdiff":
        model_commands.parse(words[1], words[2:])
    elif words[1] == "evaluate.py":
        cli.parse(EvaluateConfig, words[2:])
    else:
        config = cli.parse_run(GENERATOR_PRESETS, words[2:])
        assert config.data.normalization == listed("`--normalization`")[0]
        assert config.data.partial.rule == listed("`--partial.rule`")[0]


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python"])
def test_python(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = torch.rand(4, 96, 3, generator=torch.Generator().manual_seed(0))
    made = {"train": train}
    torch.manual_seed(0)
    exec(compile(code, "a guide", "exec"), made)
    assert made["whole"].shape == (2, 64, 3)
    assert torch.equal(made["whole"][:, :24], train[:2, :24])


def test_the_page_is_linked():
    assert all(
        "completion.md" in (ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/training.md")
    )
