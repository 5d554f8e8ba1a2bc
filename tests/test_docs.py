"""The guide to the diffusion core: its code runs, from top to bottom, and its tables list what there is."""

import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from pcdiff import diffusion
from pcdiff.commands import cli, model_commands
from pcdiff.config.presets import GENERATOR_PRESETS
from pcdiff.errors import InputError
from pcdiff.models import build_model
from pcdiff.runtime import user_modules

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "diffusion.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
# a table's first heading: the registry that it lists
REGISTRIES = {
    "process": diffusion.PROCESSES,
    "schedule": diffusion.SCHEDULES,
    "predicts": diffusion.PARAMETRIZATIONS,
    "time_input": diffusion.TIME_INPUTS,
    "variance": diffusion.VARIANCES,
    "objective": diffusion.OBJECTIVES,
    "time_draw": diffusion.TIME_DRAWS,
    "predictor": diffusion.PREDICTORS,
    "corrector": diffusion.CORRECTORS,
    "grid": diffusion.GRIDS,
    "constraint": diffusion.CONSTRAINTS,
    "guidance": diffusion.GUIDANCE,
    "dequantization": diffusion.DEQUANTIZATIONS,
}


def table(heading):
    """Return the rows, as lists of cells, of the one table whose first heading this is."""
    (rows,) = re.findall(rf"^\| {heading} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", TEXT, flags=re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]


@pytest.mark.parametrize("heading", sorted(REGISTRIES))
def test_a_table_lists_its_registry_and_no_more(heading):
    listed = [name for row in table(heading) for name in re.findall(r"`([^`]+)`", row[0])]
    assert sorted(listed) == sorted(REGISTRIES[heading])


def fits(column, name, process):
    """Return whether the row of this name says that it fits the process."""
    (row,) = [row for row in column if f"`{name}`" in row[0]]
    named = row[-1].split(";")[0]  # behind it: what else is needed
    if named == "chains":
        return process in ("ddpm", "ncsn")
    return named in ("all", "a `NetDenoiser`") or f"`{process}`" in named


@pytest.mark.parametrize("process", sorted(diffusion.PROCESSES))
def test_what_the_tables_say_fits_does_and_nothing_else(process):
    built = diffusion.build_process(process)
    for name in diffusion.PARAMETRIZATIONS:
        assert diffusion.parametrization(name).fits(built) == fits(table("predicts"), name, process), name
    for name, time_input in diffusion.TIME_INPUTS.items():
        assert time_input.fits(built) == fits(table("time_input"), name, process), name


def refusal(check, *args):
    """Return the line with which a check refuses, or None."""
    try:
        check(*args)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("process", sorted(diffusion.PROCESSES))
def test_objectives_and_correctors_refuse_what_the_tables_say_does_not_fit(process):
    """Before anything is computed: with nothing but a process and a net that is never called."""
    built = diffusion.build_process(process)
    denoiser = diffusion.NetDenoiser(torch.nn.Identity(), built, time_input="t", variance="learned_range")
    for name in diffusion.OBJECTIVES:
        line = refusal(diffusion.check_objective, name, denoiser)
        assert (line is None) == fits(table("objective"), name, process), name
        assert line is None or f"objective '{name}' needs" in line
    for name in diffusion.CORRECTORS:
        options = {"step_size": 1e-7} if name.startswith("ncsn") else {}
        corrector = diffusion.corrector(name, **options)
        line = refusal(diffusion.check_steps, built, diffusion.predictor("none"), corrector)
        assert (line is None) == fits(table("corrector"), name, process), name


@pytest.mark.parametrize("process", sorted(diffusion.PROCESSES))
def test_predictors_refuse_what_the_table_says_does_not_fit(process):
    built = diffusion.build_process(process)
    for row in table("predictor"):
        cell, _, beside = row[-1].partition(";")  # behind it: the process that needs an option, or is left out
        if cell.startswith("all but"):
            fit = f"`{process}`" not in cell
        else:
            fit = cell.startswith(("all", "even grids")) or f"`{process}`" in cell
        fit = fit and f"`{process}`" not in beside
        for name in re.findall(r"`([^`]+)`", row[0]):
            line = refusal(diffusion.check_steps, built, diffusion.predictor(name))
            assert (line is None) == fit, name
    for name, options in (("euler_maruyama", {"flow": True}), ("heun", {"variable": "t"})):
        assert refusal(diffusion.check_steps, built, diffusion.predictor(name, **options)) is None


def test_a_learned_variance_and_a_net_are_needed_where_the_table_says_so():
    chain = diffusion.build_process("ncsn", num_scales=3)
    plain = diffusion.NetDenoiser(torch.nn.Identity(), chain)
    assert "needs a denoiser with a learned variance, got 'small'" in refusal(
        diffusion.check_objective, "hybrid", plain
    )
    assert "needs a NetDenoiser" in refusal(diffusion.check_objective, "regression", diffusion.Denoiser(chain))


def test_steps_of_annealed_langevin_suit_the_levels_or_are_told(caplog):
    """On data at one point a step is x (1 - c) plus noise, c = step_size / sigma_L^2: it shrinks while c < 2."""
    process, stay = diffusion.build_process("ncsn", sigma_min=0.002, num_scales=10), diffusion.predictor("none")
    line = refusal(diffusion.check_steps, process, stay, diffusion.corrector("ncsn"))
    assert "step_size of corrector 'ncsn' must be below 1.6e-05" in line  # 2 * 0.002^2 / (1 / 2)
    diffusion.check_steps(process, stay, diffusion.corrector("ncsnv2", step_size=0.1 * 0.002**2, num_steps=100))
    assert not caplog.records
    # one level of 2 about which noise of 50 lies: c = 1e-8 / 4 shrinks nothing, and 50 / 2 is left
    far = diffusion.corrector("ncsnv2", step_size=1e-8, num_steps=1)
    times = torch.tensor([1.0, 0.0], dtype=torch.float64)
    spread = diffusion.NoiseLevels(torch.tensor([2.0, 50.0]))
    diffusion.check_steps(spread, stay, far, grid=times)
    assert "at the end it is 25 times the smallest level" in caplog.text


def test_the_default_grids_are_those_of_the_table():
    listed = {user: row[0].strip("`") for row in table("grid") for user in re.findall(r"`([^`]+)`", row[2])}
    for name in diffusion.PREDICTORS:
        step = diffusion.predictor(name)
        assert diffusion.default_grid(diffusion.VP(), step) == listed.get(name, "uniform")
        on_edm = listed.get(name, "edm").replace("chain", "edm")
        assert diffusion.default_grid(diffusion.EDMProcess(), step) == on_edm


def test_commands_on_clouds_take_the_parts_of_the_guide(tmp_path, monkeypatch):
    """Its file of parts is what its section defines, without the calls."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_modules, "_LOADED", {})
    section = TEXT.partition("## A part of your own\n")[2].partition("\n## ")[0]
    parts = [block.partition("\n\n\n")[2] for block in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)]
    imports = "\n".join(re.findall(r"^(?:import|from) .*", section, flags=re.MULTILINE))
    defined = [part.partition("\n\n\n")[0] for part in parts]
    Path("my_parts.py").write_text("\n\n\n".join([imports, *defined]))
    lines = [shlex.split(line) for line in re.findall(r"^python -m pcdiff (.*)$", section, flags=re.MULTILINE)]
    assert [line[0] for line in lines] == ["train-gen", "sample"]
    with ExitStack() as kept:
        for registry in REGISTRIES.values():
            kept.enter_context(patch.dict(registry))
        config = cli.parse_run(GENERATOR_PRESETS, lines[0][1:])
        assert type(build_model(config).denoiser.process).__name__ == "Cosine"
        assert model_commands.parse("sample", lines[1][1:]).sampler in diffusion.PREDICTORS
    sys.modules.pop("my_parts", None)


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it trains into runs/
    assert len(BLOCKS) >= 7
    torch.manual_seed(0)
    names = {}
    with ExitStack() as kept:
        for registry in REGISTRIES.values():
            kept.enter_context(patch.dict(registry))
        for block in BLOCKS:
            exec(compile(block.replace("2048", "32").replace("512", "8"), "docs/diffusion.md", "exec"), names)
    assert "cosine" not in diffusion.PROCESSES
    for key in ("clouds", "quick", "made", "whole"):
        assert names[key].shape == (4, 32, 3)
    assert all(names[key].isfinite().all() for key in ("loss", "nats", "bound", "clouds", "whole"))
