"""The guide to training: its commands parse, and every flag, preset and file that it names is there."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from cases import first

from pcdiff.commands import cli, model_commands
from pcdiff.commands.flags import Sample
from pcdiff.config import (
    CloudObjectiveConfig,
    DataConfig,
    ModelConfig,
    ProcessConfig,
    RunConfig,
    SamplingConfig,
    TrainConfig,
)
from pcdiff.config.legacy_layout import RENAMED_FLAGS
from pcdiff.config.model import PARTS, known
from pcdiff.config.presets import AUTOENCODER_PRESETS, GENERATOR_PRESETS
from pcdiff.diffusion import PROCESSES, build_process
from pcdiff.models import MODELS
from pcdiff.models.default_sampling import default_sampling
from pcdiff.runtime.part_config import config_class
from pcdiff.training import SCHEDULES

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
PLAIN = (RunConfig, ModelConfig, CloudObjectiveConfig, DataConfig, TrainConfig)
FLAG = re.compile(r"--[a-z][\w-]*(?:\.[a-z][\w-]*)?")


def flags_of(config, prefix=""):
    return {f"--{prefix}{field.name.replace('_', '-')}" for field in fields(config)}


OF_PARTS = {
    f"--{part} {name}": flags_of(config_class(cls), f"{part}.")
    for part in PARTS
    for name, cls in known(part).items()
}
FLAGS = set().union(*map(flags_of, PLAIN), *OF_PARTS.values(), RENAMED_FLAGS, {"--import"})
FLAGS |= flags_of(Sample) | flags_of(ProcessConfig, "process.") | flags_of(SamplingConfig, "sampling.")
TORCHRUN = {"--standalone", "--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--max-restarts"}


def test_every_flag_exists():
    named = set(FLAG.findall(TEXT))
    assert len(named & FLAGS) > 25
    assert named - FLAGS <= TORCHRUN | {"--help"}


def test_all_flags_of_a_training_but_the_self_evident_are_told():
    told = set(FLAG.findall(TEXT))
    assert flags_of(TrainConfig) - told == {"--plan", "--weight-decay"}  # the run writes its own plan


def table(corner):
    """Return the rows of the table with this corner, by what stands in their first cell, cells as written."""
    rows = TEXT.partition(f"| `{corner}` |" if corner.startswith("-") else f"| {corner} |")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()[2:]]
    return {re.match("`(.*?)`", first)[1]: rest for first, *rest in cells}


def test_kinds_and_parts_are_those_of_the_registries():
    kinds = {kind: tuple(re.findall(r"`(\w+)`", rest[-1])) for kind, rest in table("--kind").items()}
    assert kinds == {kind: ModelConfig(kind=kind).parts for kind in MODELS}
    parts = {name: set(FLAG.findall(rest[0])) for name, rest in table("part").items()}
    assert parts == OF_PARTS


@pytest.mark.parametrize("name", first(3, sorted(PROCESSES)))
def test_what_a_process_sets_beside_it(name):
    assert set(table("--process")) == set(PROCESSES)
    for preset in (name for name, config in GENERATOR_PRESETS.items() if config.process.name == "ddpm"):
        config = cli.parse_run(GENERATOR_PRESETS, ["--preset", preset, "--process", name])
        drawn = default_sampling(build_process(name), config.sampling)
        steps = "all" if drawn.num_steps is None else drawn.num_steps
        process, objective = config.process, config.objective
        (trained_on,) = objective.objectives
        row = [f"`{word}`" for word in (process.predicts, trained_on, objective.time_draw)]
        assert table("--process")[name] == [*row, f"`{drawn.sampler}`, {steps} steps"]
        assert (process.sigma_data == 1, process.time_input == "edm") == (name in ("edm", "ve"),) * 2
        assert (drawn.variable == "t") == (name == "rectified_flow")


def test_the_short_names_of_flags_stand_for_what_is_told():
    told = re.findall(r"`(--[\w-]+)` of\s+`(--[\w.-]+)`", TEXT.partition("### Flags and runs")[2])
    assert len(told) >= 6
    assert {short: RENAMED_FLAGS.get(short) for short, _ in told} == dict(told)


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, tmp_path, monkeypatch):
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert all(f"{word.split('=')[0]} ?=" in (ROOT / "Makefile").read_text() for word in words[2:])
        return
    if words[0] == "pcdiff":
        assert model_commands.parse(words[1], words[2:]).run
        return
    if words[1:2] == ["evaluate.py"]:
        assert cli.parse_evaluation(words[2:]).run
        return
    presets = AUTOENCODER_PRESETS if "train_ae.py" in words else GENERATOR_PRESETS
    at = words.index("train_ae.py" if "train_ae.py" in words else "train_gen.py")
    assert {word for word in words[:at] if word.startswith("--")} <= TORCHRUN
    if "--resume" not in words:
        cli.parse_run(presets, words[at + 1 :])


def test_presets_and_schedules_are_those_there_are():
    assert list(table("--preset")) == list(GENERATOR_PRESETS)
    paper, autoencoder = GENERATOR_PRESETS["paper"], AUTOENCODER_PRESETS["paper"]
    numbers = (paper.train.max_iters, paper.train.batch_size, paper.data.num_points, autoencoder.train.max_iters)
    told = re.search(r"([\d,]+) steps of (\d+) clouds of (\d+) points, fp32 \(autoencoder: ([\d,]+)\)", TEXT)
    assert tuple(int(number.replace(",", "")) for number in told.groups()) == numbers
    assert paper.train.precision == "fp32"
    assert all(f"`{name}`" in TEXT or f"--lr-schedule {name}" in TEXT for name in SCHEDULES)
    assert (ROOT / "docs" / "results.md").is_file()
