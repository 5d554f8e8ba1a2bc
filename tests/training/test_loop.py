"""The training loop: averages, limits, validation, divergence, and what it refuses to continue from."""

import dataclasses
import os
import signal

import pytest
import torch
from script_tools import logged
from small_training import BATCH, Line, Scores, batches, last, trainer
from torch._inductor.exc import InvalidCxxCompiler

from pcdiff.config import TrainConfig
from pcdiff.errors import InputError
from pcdiff.runtime import devices
from pcdiff.training import ExponentialMovingAverage, Trainer, TrainingDiverged, checkpoint, interruptible


def test_it_learns_and_reports(tmp_path):
    t = trainer(tmp_path, max_iters=300)
    outcome = t.fit()
    assert outcome.reason == "finished"
    assert outcome.step == 300
    assert outcome.steps_per_second > 0
    assert float(t.model.slope.detach()) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_resumed_equals_uninterrupted(tmp_path, ema_decay):
    trainer(tmp_path / "whole", max_iters=9, ema_decay=ema_decay).fit()
    trainer(tmp_path / "parts", max_iters=4, ema_decay=ema_decay).fit()
    second = trainer(tmp_path / "parts", max_iters=9, ema_decay=ema_decay)
    second.restore()
    assert second.step == 4
    second.fit()
    whole, parts = last(tmp_path / "whole")[0], last(tmp_path / "parts")[0]
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_the_noise_depends_on_the_seed(tmp_path):
    a, b = trainer(tmp_path / "a", seed=0), trainer(tmp_path / "b", seed=1)
    a.fit()
    b.fit()
    assert not torch.equal(a.model.slope, b.model.slope)


def test_moving_average_in_closed_form():
    model = Line()
    average = ExponentialMovingAverage(model, decay=0.5)
    expected = 0.0
    for step in range(6):
        with torch.no_grad():
            model.slope.fill_(step + 1.0)
            model.seen.fill_(step)
        average.update(model, step)
        decay = min(0.5, (step + 1) / (step + 10))
        expected = decay * expected + (1 - decay) * (step + 1)
        assert float(average.model.slope) == pytest.approx(expected)
        assert int(average.model.seen) == step
    with pytest.raises(InputError, match=r"ema_decay must be in \(0, 1\), got 1"):
        ExponentialMovingAverage(model, 1.0)


def test_gradients_are_clipped_and_the_norm_before_is_reported(tmp_path):
    t = trainer(tmp_path, max_grad_norm=0.5)
    terms = t.train_step()
    assert float(terms["gradient_norm"]) > 0.5
    assert float(t.model.slope.grad.norm()) == pytest.approx(0.5, rel=1e-4)


def test_best_is_the_lowest_score_and_ties_keep_the_first(tmp_path):
    scores = Scores(3.0, 1.0, 1.0, 2.0)
    outcome = trainer(tmp_path, validate=scores, max_iters=8, val_every=2).fit()
    assert outcome.best == {"score": 1.0, "step": 4}
    assert scores.modes == [False] * 4
    assert scores.shown == [2, 4, 6, 8]
    _, metadata = checkpoint.read(tmp_path / "checkpoints" / "best.safetensors")
    assert metadata["step"] == 4
    assert last(tmp_path)[1]["best"]["step"] == 4


def test_when_time_is_up_the_final_weights_are_validated_too(tmp_path):
    scores = Scores(*range(1000, 0, -1))
    outcome = trainer(tmp_path, validate=scores, max_iters=10**6, val_every=10**5, max_minutes=1e-3).fit()
    assert outcome.reason == "time is up"
    assert outcome.best["step"] == outcome.step
    assert last(tmp_path)[1]["step"] == outcome.step


@pytest.mark.parametrize("poisoned", [6, 8])
def test_divergence_stops_and_leaves_the_last_checkpoint(tmp_path, poisoned):
    with pytest.raises(TrainingDiverged, match=rf"loss.*not finite at step {poisoned}; the last checkpoint"):
        trainer(tmp_path, Line(poison=poisoned), save_every=4).fit()
    tensors, metadata = last(tmp_path)
    assert metadata["step"] == 4
    assert all(v.isfinite().all() for v in tensors.values() if v.is_floating_point())
    kept, facts = checkpoint.read(tmp_path / f"nonfinite-step-{poisoned}-rank-0.safetensors")
    assert facts == {"step": poisoned, "not_finite": ["loss", "gradient_norm"]}
    assert torch.equal(kept["batch"], batches(poisoned - 1, slice(None)))
    assert kept["noise"].shape == kept["batch"].shape


def test_bad_steps_may_be_skipped_and_are_counted(tmp_path):
    t = trainer(tmp_path, Line(poison=6), nonfinite="skip", ema_decay=0.5)
    t.train_step()
    for _ in range(4):
        t.train_step()
    before, average = t.model.slope.item(), t.ema.model.slope.item()
    t.train_step()  # the bad one
    assert t.model.slope.item() == before
    assert torch.isfinite(t.model.last)
    assert average != t.ema.model.slope.item()
    assert all(v.isfinite().all() for v in t.ema.model.state_dict().values())
    outcome = t.fit()
    assert outcome.skipped == 1
    assert t.model.slope.item() != before


def test_a_model_is_trained_in_fp16_by_scaled_losses(tmp_path):
    t = trainer(tmp_path, precision="fp16", max_iters=200)
    t.fit()
    assert t.scaler.get_scale() > 1
    assert float(t.model.slope.detach()) == pytest.approx(2, abs=0.05)
    again = trainer(tmp_path, precision="fp16", max_iters=200)
    again.restore()
    assert again.scaler.state_dict() == t.scaler.state_dict()


def test_training_stops_when_validations_bring_nothing(tmp_path):
    scores = Scores(3.0, 2.0, 2.5, 2.0, 1.0)
    outcome = trainer(tmp_path, validate=scores, max_iters=50, val_every=2, patience=2).fit()
    assert (outcome.reason, outcome.step, outcome.best["step"]) == ("no progress", 8, 4)
    assert last(tmp_path)[1]["step"] == 8
    more = trainer(tmp_path, validate=Scores(1.0, 1.5, 1.5), max_iters=50, val_every=2, patience=2)
    more.restore()
    assert more.stale == 2
    assert more.fit().best == {"score": 1.0, "step": 10}


def test_checkpoints_come_by_minutes_too(tmp_path):
    t = trainer(tmp_path, max_iters=3, save_every=1000, save_minutes=1e-9)
    saved = []
    t.save = lambda: saved.append(t.step)
    t.fit()
    assert saved == [1, 2, 3]


def test_scalars_reach_the_disk_before_the_checkpoint_that_a_resumed_run_goes_on_from(tmp_path):
    t, seen = trainer(tmp_path, max_iters=6, save_every=3), []

    def save():
        seen.append([step for step, _ in logged(tmp_path / "tensorboard")])

    t.save = save
    t.fit()
    assert seen == [[1, 2, 3], [1, 2, 3, 4, 5, 6]]


def test_a_failing_validation_loses_no_step(tmp_path):
    with pytest.raises(IndexError):
        trainer(tmp_path, validate=Scores(), max_iters=7, val_every=7).fit()
    assert last(tmp_path)[1]["step"] == 7


def test_a_copy_of_best_cannot_be_resumed(tmp_path):
    trainer(tmp_path, validate=Scores(1.0), max_iters=4, val_every=4).fit()
    folder = tmp_path / "checkpoints"
    (folder / "best.safetensors").replace(folder / "last.safetensors")
    with pytest.raises(InputError, match="has no optimizer state"):
        trainer(tmp_path).restore()


def test_another_data_set_cannot_be_resumed_but_a_renamed_one_can(tmp_path):
    trainer(tmp_path, max_iters=2).fit()
    renamed = trainer(tmp_path)
    renamed.metadata = {"dataset": {"name": "renamed", "fingerprint": "f"}}
    renamed.restore()
    other = trainer(tmp_path)
    other.metadata = {"dataset": {"name": "made up", "fingerprint": "g"}}
    with pytest.raises(InputError, match="was trained on"):
        other.restore()


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch, caplog):
    trainer(tmp_path, max_iters=4).fit()
    before = (tmp_path / "checkpoints" / "last.safetensors").read_bytes()
    monkeypatch.setattr(
        "pcdiff.training.checkpoint.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space"))
    )
    with pytest.raises(InputError, match="No space"):
        trainer(tmp_path, max_iters=9).fit()
    assert caplog.text.count("the training continues and tries again") == 2  # steps 4 and 8; step 9 is the last
    assert (tmp_path / "checkpoints" / "last.safetensors").read_bytes() == before
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["last.safetensors"]


def test_a_best_that_cannot_be_kept_is_not_what_to_beat(tmp_path, monkeypatch, caplog):
    t = trainer(tmp_path, validate=Scores(1.0, 2.0, 3.0), max_iters=6, val_every=2)
    save_best, calls = t.checkpoints.save_best, []

    def full_once(*args):
        calls.append(args)
        if len(calls) == 1:
            raise InputError("best: cannot write (No space left on device)")
        save_best(*args)

    monkeypatch.setattr(t.checkpoints, "save_best", full_once)
    assert t.fit().best == {"score": 2.0, "step": 4}
    assert "step 2: best: cannot write (No space left on device); the training continues" in caplog.text
    assert checkpoint.read(tmp_path / "checkpoints" / "best.safetensors")[1]["step"] == 4


def test_a_validation_that_an_interrupt_kept_from_being_made_is_made_up_for(tmp_path):
    class Interrupting(Line):
        def loss_terms(self, x, noise):
            if self.calls == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().loss_terms(x, noise)

    scores = Scores(3.0)
    first = trainer(tmp_path, Interrupting(), validate=scores, val_every=4)
    assert (first.fit().reason, first.step, scores.shown) == ("interrupted", 4, [])
    scores = Scores(3.0, 2.0, 1.0)
    second = trainer(tmp_path, validate=scores, val_every=4, max_iters=9)
    second.restore()
    second.fit()
    assert scores.shown == [4, 8, 9]
    scores = Scores()
    third = trainer(tmp_path, validate=scores, val_every=4, max_iters=9)
    third.restore()
    assert third.fit().reason == "finished"
    assert scores.shown == []


def test_the_whole_batch_of_a_bad_step_is_kept(tmp_path):
    with pytest.raises(TrainingDiverged, match="at step 3"):
        trainer(tmp_path, Line(poison=6), accumulate=2).fit()
    kept, _ = checkpoint.read(tmp_path / "nonfinite-step-3-rank-0.safetensors")
    assert torch.equal(kept["batch"], batches(2, slice(None)))


def test_a_divergence_is_told_where_its_batch_cannot_be_kept(tmp_path):
    (tmp_path / "nonfinite-step-3-rank-0.safetensors").mkdir()
    with pytest.raises(TrainingDiverged, match=r"at step 3; .* Its batch is not kept: .*cannot write"):
        trainer(tmp_path, Line(poison=3)).fit()


def test_a_second_interrupt_interrupts():
    before = signal.getsignal(signal.SIGINT)  # of tests in the background: ignored
    with interruptible() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signals == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_without_a_compiler_training_goes_on_and_says_so(tmp_path, monkeypatch, caplog):
    def none():
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    assert trainer(tmp_path, max_iters=2, compile=True).fit().step == 2
    assert "no C++ compiler found" in caplog.text


@pytest.mark.parametrize("name", ["tpu9", "meta", "cuda:99"])
def test_devices_that_are_not_there(name):
    with pytest.raises(InputError, match=f"--device {name}: not available here"):
        devices.resolve_device(name)


def test_a_trainer_goes_on_without_any_metadata(tmp_path):
    """What a user's own trainer need not know: the keys of the scripts' checkpoints."""
    settings = TrainConfig(max_iters=2, batch_size=BATCH, lr=0.1, val_every=0)
    Trainer(Line(), batches, settings, tmp_path).fit()
    again = Trainer(Line(), batches, dataclasses.replace(settings, max_iters=4), tmp_path)
    again.restore()
    assert again.step == 2
    assert again.fit().reason == "finished"
    whole = Trainer(Line(), batches, dataclasses.replace(settings, max_iters=4), tmp_path / "whole")
    whole.fit()
    assert torch.equal(again.model.slope, whole.model.slope)
    named = Trainer(
        Line(), batches, dataclasses.replace(settings, max_iters=6), tmp_path, {"dataset": {"name": "a"}}
    )
    named.restore()  # a data set without a fingerprint, where none was known
    assert named.step == 4


def test_adams_betas_are_the_configs(tmp_path):
    t = trainer(tmp_path, adam_beta1=0.5, adam_beta2=0.99)
    t.train_step()
    gradient = float(t.model.slope.grad)
    kept = t.optimizer.state[t.model.slope]
    assert float(kept["exp_avg"]) == pytest.approx(0.5 * gradient, rel=1e-6)
    assert float(kept["exp_avg_sq"]) == pytest.approx(0.01 * gradient**2, rel=1e-5)
