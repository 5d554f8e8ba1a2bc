"""The guide to training: its commands parse, and every flag, preset and file that it names is there."""

import re
import shlex
from pathlib import Path

import pytest

from pcdiff.commands import cli
from pcdiff.config import CloudObjectiveConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from pcdiff.config.presets import AUTOENCODER_PRESETS, GENERATOR_PRESETS
from pcdiff.training import SCHEDULES

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
PARTS = (RunConfig, ModelConfig, CloudObjectiveConfig, DataConfig, TrainConfig)
FLAGS = {f"--{name.replace('_', '-')}" for part in PARTS for name in part.__dataclass_fields__}
TORCHRUN = {"--standalone", "--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--max-restarts"}


def test_every_flag_exists():
    named = set(re.findall(r"--[a-z][a-z-]*", TEXT))
    assert len(named & FLAGS) > 25
    assert named - FLAGS <= TORCHRUN | {"--help"}


def test_all_flags_of_a_training_but_the_self_evident_are_told():
    told = set(re.findall(r"--[a-z][a-z-]*", TEXT))
    ours = {f"--{name.replace('_', '-')}" for name in TrainConfig.__dataclass_fields__}
    assert ours - told == {"--plan", "--weight-decay"}  # the run writes its own plan


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, tmp_path, monkeypatch):
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert all(f"{word.split('=')[0]} ?=" in (ROOT / "Makefile").read_text() for word in words[2:])
        return
    at = words.index("train_gen.py")
    assert {word for word in words[:at] if word.startswith("--")} <= TORCHRUN
    if "--resume" not in words:
        cli.parse_run(GENERATOR_PRESETS, words[at + 1 :])


def test_presets_and_schedules_are_those_there_are():
    assert re.findall(r"^\| `(\w+)`.* \|", TEXT, flags=re.MULTILINE) == list(GENERATOR_PRESETS)
    paper, autoencoder = GENERATOR_PRESETS["paper"], AUTOENCODER_PRESETS["paper"]
    numbers = (paper.train.max_iters, paper.train.batch_size, paper.data.num_points, autoencoder.train.max_iters)
    told = re.search(r"([\d,]+) steps of (\d+) clouds of (\d+) points, fp32 \(autoencoder: ([\d,]+)\)", TEXT)
    assert tuple(int(number.replace(",", "")) for number in told.groups()) == numbers
    assert paper.train.precision == "fp32"
    assert all(f"`{name}`" in TEXT or f"--lr-schedule {name}" in TEXT for name in SCHEDULES)
    assert (ROOT / "docs" / "results.md").is_file()
