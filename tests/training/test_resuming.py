"""A run continues from a checkpoint only where every fact in it is of its kind."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pcdiff.config import TrainConfig
from pcdiff.errors import InputError
from pcdiff.training import Trainer
from pcdiff.training.resume_checks import check_adam, optimizer_state, progress_of

SCALER = {
    "scale": 65536.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2000,
    "_growth_tracker": 0,
}
FACTS = {
    "step": 3,
    "best": {"score": 0.5, "MMD-CD": 0.5, "step": 2},
    "stale": 1,
    "validated": 2,
    "scaler": SCALER,
    "dataset": {"fingerprint": "ab"},
}


def test_what_a_trainer_writes_is_read(tmp_path):
    for facts in (FACTS, {**FACTS, "best": None, "scaler": {}}, {"step": 0}):
        found = progress_of(facts, tmp_path)
        assert found.step == facts["step"]
        assert found.validated == facts.get("validated", facts["step"])
        assert (found.best, found.stale) == (facts.get("best"), facts.get("stale", 0))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("step", ["3", 3.0, -1, None, True, 2**63, []]),
        ("best", ["good", 1.0, [], {"score": 1.0}, {"step": 2},
                  {"score": "low", "step": 2}, {"score": True, "step": 1}]),
        ("stale", ["1", -1, 1.5, {}]),
        ("validated", ["1", -1, None]),
        ("scaler", ["fp16", 5, [1], {"scale": 1.0}]),
        ("scaler", [{**SCALER, "scale": value} for value in ("big", float("nan"), 0, None)]),
        ("dataset", ["chairs", [], 5, {"fingerprint": 5}]),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_refused(name, values, tmp_path):
    for value in values:
        with pytest.raises(InputError, match=rf"last: damaged: {name} must be .*, got .*; use another checkpoint"):
            progress_of({**FACTS, name: value}, tmp_path / "last")


def test_the_optimizers_state_fits_the_parameters(tmp_path):
    parameters = list(nn.Linear(2, 3).parameters())
    good = {
        "optimizer.0.exp_avg": torch.zeros(3, 2),
        "optimizer.1.step": torch.zeros(()),
        "model.weight": torch.zeros(1),
    }
    assert set(optimizer_state(good, parameters, tmp_path)) == {0, 1}
    for name, tensor in {
        "optimizer.2.step": torch.zeros(()),
        "optimizer.x.step": torch.zeros(()),
        "optimizer.0": torch.zeros(()),
        "optimizer.0.exp_avg": torch.zeros(2, 3),
        "optimizer." + "9" * 5000 + ".step": torch.zeros(()),
    }.items():
        with pytest.raises(InputError, match=r"belongs to none of the model's 2 parameters|must be .*, got"):
            optimizer_state({name: tensor}, parameters, tmp_path)
    with pytest.raises(InputError) as caught:
        optimizer_state({"optimizer.0.exp_avg": torch.zeros((1,) * 5000)}, parameters, tmp_path)
    assert len(str(caught.value)) < 1000


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def draw(self, batch, count, generator):
        return {"noise": torch.randn(count, 2, generator=generator)}

    def loss_terms(self, batch, noise):
        return {"loss": (self.layer(batch + noise) ** 2).mean()}


def trainer(folder, **facts):
    config = TrainConfig(max_iters=9, batch_size=2, keep=2)
    facts = {"dataset": {"fingerprint": "ab"}, **facts}
    return Trainer(Tiny(), lambda step, rows: torch.ones(2, 2)[rows], config, folder, facts, 0, torch.device("cpu"))


@pytest.mark.parametrize("facts", [{"best": "good"}, {"scaler": "fp16"}, {"stale": "many"}])
def test_a_damaged_checkpoint_is_passed_over_and_a_run_without_a_whole_one_refused(tmp_path, facts, caplog):
    first = trainer(tmp_path)
    first.train_step()
    first.save()
    first.train_step()
    first._metadata = lambda: {**Trainer._metadata(first), **facts}
    first.save()
    again = trainer(tmp_path)
    again.restore()
    assert again.step == 1
    assert "going back to" in caplog.text
    again.checkpoints.path("last").with_name("step-00000001.safetensors").unlink()
    with pytest.raises(InputError, match=rf"last\.safetensors: damaged: {next(iter(facts))} must be"):
        trainer(tmp_path).restore()


def test_a_state_that_is_not_whole_is_refused():
    whole = {"step": torch.ones(()), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    check_adam({0: whole, 1: whole}, Path("x"))
    for changed in ({k: v for k, v in whole.items() if k != "step"}, whole | {"step\x00": whole["step"]}, {}):
        with pytest.raises(
            InputError, match=r"x: damaged: the optimizer must keep exp_avg, .*, step of parameter 1, got"
        ):
            check_adam({0: whole, 1: changed}, Path("x"))
