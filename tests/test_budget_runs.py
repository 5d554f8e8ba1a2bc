"""`--budget-minutes` of the scripts: the plan lies in the run's config, and a resumed run keeps it."""

import json
from dataclasses import replace

import pytest
from script_tools import TINY, assert_same, script, tensors

from pcdiff.config.files import read_config
from pcdiff.training.budget import scaled

BUDGET = ["--budget-minutes", "0.5", "--val-every", "500", "--val-clouds", "2", "--val-points", "32"]


def config_of(run):
    return json.loads((run / "config.json").read_text(encoding="utf-8"))


@pytest.fixture
def short(monkeypatch):
    """Let every plan be of six steps, whatever the machine's speed; return how often one was made."""
    made = []

    def plan(train, device, fresh, closing, started):
        trainer = fresh(train)
        assert closing(trainer) > 0
        made.append(float(trainer.train_step()["loss"]))
        return replace(scaled(train, 6), precision="fp32", compile=False, plan="six steps")

    monkeypatch.setattr("pcdiff.training.job_budget.plan", plan)
    return made


@pytest.mark.parametrize("name", ["train_gen.py", "train_ae.py"])
def test_the_plan_lies_in_the_config_and_stays(name, short, dataset, tmp_path, capsys):
    run, flags = tmp_path / "run", [*TINY, "--categories", "chair", "--dataset-path", dataset]
    assert script(name, *flags, *BUDGET, "--out", run) == 0
    assert "plan: six steps" in capsys.readouterr().err
    train = config_of(run)["train"]
    assert (train["max_iters"], train["lr_decay_end"], train["val_every"]) == (6, 6, 3)
    assert (train["budget_minutes"], train["plan"]) == (0.5, "six steps")
    whole = tensors(run)

    cut = tmp_path / "cut"  # the same run, stopped half-way, continues by the same plan
    assert script(name, *flags, *BUDGET, "--out", cut, "--max-minutes", 1e-9) == 0
    assert script(name, "--resume", cut, "--max-minutes", 1000) == 0
    assert len(short) == 2
    assert_same(whole, tensors(cut))


def test_a_run_that_was_planned_keeps_its_budget(short, dataset, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [*TINY, "--categories", "chair", "--dataset-path", dataset, "--out", run]
    assert script("train_gen.py", *flags, *BUDGET) == 0
    assert script("train_gen.py", "--resume", run, "--budget-minutes", 9) == 2
    assert "budget_minutes is 0.5 in this run; it cannot change" in capsys.readouterr().err
    assert read_config(run).train.plan == "six steps"


def test_a_run_of_another_day_has_no_plan(generator_run):
    assert config_of(generator_run)["train"]["budget_minutes"] is None
    assert config_of(generator_run)["train"]["plan"] == ""


def test_a_budget_without_room_leaves_one_line(dataset, tmp_path, capsys):
    run, flags = tmp_path / "run", [*TINY, "--categories", "chair", "--dataset-path", dataset]
    assert script("train_gen.py", *flags, "--budget-minutes", 1e-6, "--out", run) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "--budget-minutes 1e-06 holds no step" in error
    assert not (run / "config.json").exists()  # the corrected command is not told that a run lies there
