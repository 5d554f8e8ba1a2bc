"""Signals and limits of time in every phase of the scripts: what is done is kept, and continuing ends alike."""

import json
import os
import signal

import numpy as np
import pytest
from script_tools import TINY, assert_same, script, tensors, train

from pcdiff.commands import training
from pcdiff.models import sampling
from pcdiff.runtime import stopping
from pcdiff.runtime.resumable import ResultCache, ResumableMap
from pcdiff.runtime.stopping import Stop, Stopped
from pcdiff.training import Remainder, after_training, checkpoint, closing_phases, job, time_reserve
from pcdiff.training.time_reserve import TimeReserve

# The last validation; what a generator shows; the scoring. An autoencoder shows what the validation made.
PHASES = {
    "validation": ("train_gen.py", sampling, "decode_chunk", 1),
    "samples": ("train_gen.py", sampling, "decode_chunk", 2),
    "scores": ("train_gen.py", after_training, "evaluate", 1),
    "autoencoder's validation": ("train_ae.py", sampling, "decode_chunk", 1),
}
FLAGS = ["--max-iters", 3, "--val-every", 3]


def told_at(monkeypatch, number, count, target=sampling, name="decode_chunk"):
    """Send this process a signal at the start of a function's `count`-th call."""
    calls, function = [], getattr(target, name)

    def signalled(*args, **options):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return function(*args, **options)

    monkeypatch.setattr(target, name, signalled)


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {name: train(name, dataset, folder / name, *FLAGS) for name in ("train_gen.py", "train_ae.py")}


@pytest.mark.parametrize("phase", PHASES)
def test_after_a_signal_past_the_last_step_going_on_ends_alike(phase, whole, dataset, tmp_path, monkeypatch):
    name, target, function, count = PHASES[phase]
    number = signal.SIGINT if phase == "samples" else signal.SIGTERM
    with monkeypatch.context() as patched:
        told_at(patched, number, count, target, function)
        run = train(name, dataset, tmp_path / "run", *FLAGS)  # status 0
    log = (run / "log.txt").read_text()
    assert "interrupted: all is saved" in log
    assert log.rstrip().endswith(f"resume with: --resume {run}")
    assert not (run / "results.json").exists()
    assert (run / "samples.npy").exists() == (phase == "scores")
    metadata = checkpoint.read(run / "checkpoints" / "last.safetensors")[1]
    assert (metadata["step"], metadata["validated"]) == (3, 0 if "validation" in phase else 3)
    assert script(name, "--resume", run) == 0
    for which in ("last", "best"):
        assert_same(tensors(run, which), tensors(whole[name], which))
    assert np.array_equal(np.load(run / "samples.npy"), np.load(whole[name] / "samples.npy"))
    results = [json.loads((folder / "results.json").read_text()) for folder in (run, whole[name])]
    assert results[0]["scores"] == results[1]["scores"]


def test_a_validation_in_between_that_a_signal_ended_is_made_up_for(dataset, tmp_path, monkeypatch):
    flags = ["--max-iters", 3, "--val-every", 2]
    expected = train("train_ae.py", dataset, tmp_path / "expected", *flags)
    with monkeypatch.context() as patched:
        told_at(patched, signal.SIGTERM, 1)
        run = train("train_ae.py", dataset, tmp_path / "run", *flags)
    metadata = checkpoint.read(run / "checkpoints" / "last.safetensors")[1]
    assert (metadata["step"], metadata["validated"], metadata["best"]) == (2, 0, None)
    assert script("train_ae.py", "--resume", run) == 0
    for which in ("last", "best"):
        assert_same(tensors(run, which), tensors(expected, which))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["train_gen.py", "train_ae.py"])
def test_a_signal_before_anything_is_there_leaves_nothing(name, number, dataset, tmp_path, monkeypatch, capsys):
    told_at(monkeypatch, number, 2, target=training, name="load_clouds")
    flags = [*TINY, "--categories", "chair", "--dataset-path", dataset, "--out", tmp_path / "run"]
    assert script(name, *flags) == 0
    assert "stopped before any work began" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_signal_before_the_first_step_keeps_the_run(whole, dataset, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        told_at(patched, signal.SIGTERM, 1, target=job, name="build_model")
        run = train("train_gen.py", dataset, tmp_path / "run", *FLAGS)
    assert checkpoint.read(run / "checkpoints" / "last.safetensors")[1]["step"] == 0
    assert script("train_gen.py", "--resume", run) == 0
    assert_same(tensors(run), tensors(whole["train_gen.py"]))


def test_an_evaluation_gives_up_the_chunk_it_is_at(generator_run, tmp_path, monkeypatch, capsys):
    for module in (
        "evaluation.runs",
        "evaluation.job",
        "models.sampling",
    ):  # the last is where the others have it from
        monkeypatch.setattr(f"pcdiff.{module}.CHUNK", 2)
    monkeypatch.setattr("pcdiff.evaluation.runs.picture", lambda *args, **options: None)
    flags = ["--run", generator_run, "--device", "cpu", "--emd", "no", "--resamples", 10]
    assert script("evaluate.py", *flags, "--out", tmp_path / "whole") == 0
    steps = []
    with monkeypatch.context() as patched:
        told_at(patched, signal.SIGTERM, 2)
        decode = sampling.decode_chunk

        def counted(*args, progress, **options):
            def moved(done, total):
                steps.append(done)
                progress(done, total)

            return decode(*args, progress=moved, **options)

        patched.setattr(sampling, "decode_chunk", counted)
        assert script("evaluate.py", *flags, "--out", tmp_path / "parts") == 0
    assert steps == [1, 2, 3, 4, 1]  # one chunk of four steps, and the first step of the next
    assert f"resume with: --resume {tmp_path / 'parts'}" in capsys.readouterr().err
    assert script("evaluate.py", "--resume", tmp_path / "parts") == 0
    one, two = ((tmp_path / name / "results.json").read_bytes() for name in ("whole", "parts"))
    assert one == two


def test_an_evaluation_that_is_stopped_before_its_first_block_says_so(generator_run, tmp_path, monkeypatch, capsys):
    told_at(monkeypatch, signal.SIGTERM, 1)
    assert script("evaluate.py", "--run", generator_run, "--device", "cpu", "--out", tmp_path / "new") == 0
    assert "stopped before any block was finished; the same command starts over" in capsys.readouterr().err
    assert not list((tmp_path / "new").glob("results*"))


def test_where_the_time_is_over_the_rest_is_left_out_with_a_line_each(dataset, tmp_path):
    flags = ["--max-iters", 1000, "--val-every", 1000, "--max-minutes", 1e-6]
    run = train("train_gen.py", dataset, tmp_path / "run", *flags)
    log = (run / "log.txt").read_text()
    assert "step 1: not validated, since the time is up" in log
    assert "drawing 2 clouds of 32 points: left out: 0.0 seconds of --max-minutes are left; python -m pcdiff" in log
    assert "points on the validation split: left out" in log
    assert set(json.loads((run / "results.json").read_text())) == {"dataset", "split", "training", "version"}
    assert not (run / "samples.npy").exists()


class Clock:
    """Stands in for the module `time`."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (stopping, time_reserve):
        monkeypatch.setattr(module, "time", clock)
    return clock


def steps_made(clock, plan, seconds_of_a_step=1.0, val_every=0, validation=0.0):
    """Make steps of a training as `Trainer` does, until the time is up; return how many."""
    step = 0
    while True:
        clock.now += seconds_of_a_step
        step += 1
        plan.stepped(None)
        due = bool(val_every) and step % val_every == 0
        if plan.stop.seconds_left <= plan.needed(due):
            return step
        if due:
            clock.now += validation
            plan.validated(validation)


def test_a_training_ends_early_enough_for_what_follows(clock):
    """100 s, steps of 1 s, 30 s estimated: the last step is the first that leaves no 1 + 1.2 x 30 s = 37 s."""
    plan = TimeReserve(Stop(100 / 60), lambda model: Remainder(validation=10.0, rest=20.0))
    assert steps_made(clock, plan) == 63


def test_what_takes_more_than_half_of_the_time_does_not_take_more(clock):
    """After the first step 99 s are left: the last one is the first that leaves no 1 + 99 / 2 s = 50.5 s."""
    plan = TimeReserve(Stop(100 / 60), lambda model: Remainder(rest=1000.0))
    assert steps_made(clock, plan) == 50


def test_a_validation_that_is_due_is_counted_and_a_measured_one_corrects_the_estimate(clock):
    """Validations are thought to take 1 s and take 8: at step 20 there must be 1 + 1.2 x (8 + 8 + 4) s = 25 s.

    The validation of step 10 ends at 18 s, step 20 at 28 s: the 22 s left of 50 s are for its own, the last one.
    """
    plan = TimeReserve(Stop(50 / 60), lambda model: Remainder(validation=1.0, rest=4.0))
    assert steps_made(clock, plan, val_every=10, validation=8.0) == 20


def test_without_a_limit_nothing_is_estimated(clock):
    plan = TimeReserve(Stop(), lambda model: pytest.fail("asked"))
    plan.stepped(None)
    assert not plan.too_late()


def test_a_phase_is_left_out_broken_off_or_done(clock, caplog):
    caplog.set_level("INFO")
    stop = Stop(1.0)
    estimates = {"long": 61.0, "short": 1.0, "wrong": 1.0}
    phases = closing_phases.Closing(stop, {name: lambda model, s=s: s for name, s in estimates.items()})
    assert phases.seconds(None) == 63.0
    assert phases.phase("long", lambda: pytest.fail("begun"), "later") is None
    assert "long: left out: it takes about 1.0 minutes, 1.0 minutes of --max-minutes are left; later" in caplog.text
    assert phases.phase("short", lambda: 5, "") == 5

    def endless():
        clock.now += 60
        stop.check()

    assert phases.phase("wrong", endless, "do it later") is None
    assert "wrong: broken off, the time is up; do it later" in caplog.text
    stop.note(signal.SIGTERM, None)
    with pytest.raises(Stopped):
        phases.phase("short", lambda: 5, "")


def test_a_block_that_another_process_gave_up_stops_all_and_finished_ones_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("pcdiff.runtime.distributed.world_size", lambda: 2)
    monkeypatch.setattr("pcdiff.runtime.distributed.gather", lambda mine: [mine, None])
    monkeypatch.setattr("pcdiff.runtime.distributed.broadcast", lambda value: value)
    with ResultCache(tmp_path / "journal", {}) as journal, pytest.raises(Stopped):
        list(ResumableMap(journal).map("blocks", range(4), lambda block: (np.array(block),)))
    monkeypatch.undo()
    with ResultCache(tmp_path / "journal", {}) as again:
        assert list(again.records) == [("blocks", 0)]


def test_readers_that_catch_whatever_is_raised_let_a_stop_pass():
    assert not issubclass(Stopped, Exception)
    stop = Stop()
    with pytest.raises(Stopped), stop.at_once():
        stop.note(signal.SIGTERM, None)


def test_a_limit_of_time_leaves_a_call_its_first_block():
    class Over(Stop):
        def __call__(self):
            return True

    work, done = ResumableMap(stop=Over()), []

    def compute(block):
        work.check()
        done.append(block)
        return (np.array(block),)

    with pytest.raises(Stopped):
        list(work.map("blocks", range(3), compute))
    assert done == [0]


def test_an_autoencoder_ends_in_a_table(whole):
    log = (whole["train_ae.py"] / "log.txt").read_text()
    assert "| CD ×10⁴ ↓ |" in log
    assert "| reconstructions, 64 points |" in log
    assert "{'CD'" not in log
