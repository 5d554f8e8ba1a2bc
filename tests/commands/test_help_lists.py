"""`--help` names every registered part that a flag can choose, those of a user's own included."""

import re

import pytest
from script_tools import help_of_each_flag

from image_pipeline.commands import parsing
from image_pipeline.nets import MODELS
from pcdiff import diffusion
from pcdiff.commands import cli, model_commands
from pcdiff.config.presets import GENERATOR_PRESETS
from pcdiff.encoders import ENCODERS
from pcdiff.flows import PRIORS
from pcdiff.metrics import METRICS, PROTOCOLS
from pcdiff.nets import NETS

INVERTIBLE = [name for name, facts in diffusion.PREDICTORS.facts("invertible").items() if facts["invertible"]]
COMPOSED = {
    "--process.name": diffusion.PROCESSES,
    "--process.predicts": diffusion.PARAMETRIZATIONS,
    "--process.time-input": diffusion.TIME_INPUTS,
    "--process.schedule": diffusion.SCHEDULES,
    "--objectives": diffusion.OBJECTIVES,
    "--time-draw": diffusion.TIME_DRAWS,
}
DRAWN = {"--sampler": diffusion.PREDICTORS, "--grid": diffusion.GRIDS}
DRAWN_FULLY = DRAWN | {"--corrector": diffusion.CORRECTORS}
COMMANDS = {
    "train-gen": (
        lambda: cli.parse_run(GENERATOR_PRESETS, ["--help"]),
        COMPOSED
        | {"--net": NETS, "--encoder": ENCODERS, "--prior": PRIORS}
        | {f"--sampling.{flag[2:]}": registry for flag, registry in DRAWN_FULLY.items()},
    ),
    "evaluate": (
        lambda: cli.parse_evaluation(["--help"]),
        DRAWN | {"--protocol": PROTOCOLS, "--metrics": METRICS},
    ),
    "sample": (lambda: model_commands.parse("sample", ["--help"]), DRAWN),
    "invert": (
        lambda: model_commands.parse("invert", ["--help"]),
        {"--sampler": INVERTIBLE, "--grid": diffusion.GRIDS},
    ),
    "images train": (lambda: parsing.parse(["train", "--help"]), COMPOSED | DRAWN_FULLY | {"--net": MODELS}),
    "images sample": (lambda: parsing.parse(["sample", "--help"]), DRAWN_FULLY),
}


def help_of(show, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        show()
    return help_of_each_flag(capsys.readouterr().out)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_registered_part(command, capsys, monkeypatch):
    show, chosen = COMMANDS[command]
    shown = help_of(show, capsys, monkeypatch)
    for flag, registry in chosen.items():
        assert set(registry) <= set(re.findall(r"[\w-]+", shown[flag])), flag


def test_a_part_of_ones_own_is_listed_too(capsys, monkeypatch):
    monkeypatch.setitem(NETS, "mine", NETS["pointwise"])
    show, _ = COMMANDS["train-gen"]
    assert re.search(r"One of: pointwise, .*mine\.", help_of(show, capsys, monkeypatch)["--net"])
