"""The guide to the diffusion core: its code runs, from top to bottom, and its tables list what there is."""

import re
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from pcdiff import diffusion

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
    """Say whether the row of this name says that it fits the process."""
    (row,) = [row for row in column if f"`{name}`" in row[0]]
    if row[-1] == "chains":
        return process in ("ddpm", "ncsn")
    return row[-1] == "all" or f"`{process}`" in row[-1]


@pytest.mark.parametrize("process", sorted(diffusion.PROCESSES))
def test_what_the_tables_say_fits_does_and_nothing_else(process):
    built = diffusion.build_process(process)
    for name in diffusion.PARAMETRIZATIONS:
        assert diffusion.parametrization(name).fits(built) == fits(table("predicts"), name, process), name
    for name, time_input in diffusion.TIME_INPUTS.items():
        assert time_input.fits(built) == fits(table("time_input"), name, process), name


def test_the_default_grids_are_those_of_the_table():
    for name, _, users in table("grid"):
        for user in re.findall(r"`([^`]+)`", users):
            assert getattr(diffusion.predictor(user), "grid", "uniform") == name.strip("`")


def test_the_code_runs():
    assert len(BLOCKS) >= 7
    torch.manual_seed(0)
    names = {}
    with ExitStack() as kept:
        for registry in REGISTRIES.values():
            kept.enter_context(patch.dict(registry))
        for block in BLOCKS:
            exec(compile(block.replace("2048", "32").replace("512", "8"), "docs/diffusion.md", "exec"), names)
    assert "cosine" not in diffusion.PROCESSES
    for key in ("clouds", "quick", "again", "whole"):
        assert names[key].shape == (4, 32, 3)
    assert all(names[key].isfinite().all() for key in ("loss", "nats", "bound", "clouds", "whole"))
