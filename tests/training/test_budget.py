"""A training fitted to a budget of time: what is timed, what is chosen, what is planned."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from small_training import trainer

from pcdiff.config import TrainConfig
from pcdiff.errors import InputError
from pcdiff.runtime.progress import estimated_seconds
from pcdiff.training import budget, learning_rate

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    max_iters=1000,
    budget_minutes=5.0,
    lr_decay_start=100,
    lr_decay_end=1000,
    warmup_iters=50,
    ema_decay=0.99,
    precision="auto",
    compile=True,
    log_every=20,
    save_every=500,
    val_every=250,
)


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter


class Timed:
    """A trainer whose steps take what a table of (precision, compile) says; the first takes `start` more."""

    def __init__(self, clock, table, config):
        self.clock, self.config, self.steps = clock, config, 0
        self.seconds, self.start = table[config.precision, config.compile]

    def prepare(self):
        pass

    def train_step(self):
        self.clock.now += self.seconds + (self.start if self.steps == 0 else 0)
        self.steps += 1
        return {"loss": torch.zeros(())}


@pytest.fixture
def plan(monkeypatch):
    """Return `plan(table, config, bf16, closing)` under a clock of its own; what was made lies in `plan.made`."""
    clock = Clock()
    monkeypatch.setattr(budget, "time", clock)

    def planned(table, config=CONFIG, bf16=True, closing=0.0):
        monkeypatch.setattr(budget, "native_bf16", lambda device: bf16)
        planned.made, begun = [], clock.now

        def fresh(train):
            planned.made.append(Timed(clock, table, train))
            return planned.made[-1]

        result = budget.plan(config, CPU, fresh, lambda trainer: closing, begun)
        planned.spent = clock.now - begun
        return result

    return planned


def seconds_of(config, table):
    """Return how long a planned training takes by the table."""
    step, start = table[config.precision, config.compile]
    return start + step * config.max_iters


def test_the_run_ends_with_the_time(plan):
    table = {("fp32", False): (0.2, 1.0), ("bf16", False): (0.1, 1.0)}
    config = plan(table, closing=40.0)
    assert (config.precision, config.compile) == ("bf16", False)
    whole = plan.spent + 40 + seconds_of(config, table)
    assert 0.96 * 300 < whole <= 300  # 3 % of the training is left for what is not a step


def test_bf16_is_tried_only_where_it_is_native_and_asked_for(plan):
    table = {("fp32", False): (0.2, 0.0)}
    assert plan(table, bf16=False).precision == "fp32"
    assert plan(table, replace(CONFIG, precision="fp32")).precision == "fp32"


def test_compiling_must_be_won_back(plan):
    # a tenth faster: 61 s are won back after 610 s of training, not in 9 minutes
    table = {("fp32", False): (0.2, 0.0), ("fp32", True): (0.18, 61.0)}
    short = plan(table, replace(CONFIG, budget_minutes=5), bf16=False)
    assert not short.compile
    assert len(plan.made) == 1  # the trial alone would cost a fifth of the budget
    assert not plan(table, replace(CONFIG, budget_minutes=10), bf16=False).compile
    assert len(plan.made) == 2
    assert plan(table, replace(CONFIG, budget_minutes=60), bf16=False).compile
    assert not plan(table, replace(CONFIG, budget_minutes=60, compile=False), bf16=False).compile
    assert len(plan.made) == 1


def test_the_faster_precision_is_the_one_compiled(plan):
    table = {("fp32", False): (0.2, 0.0), ("bf16", False): (0.1, 0.0), ("bf16", True): (0.05, 30.0)}
    config = plan(table, replace(CONFIG, budget_minutes=60))
    assert (config.precision, config.compile) == ("bf16", True)


def test_schedule_warm_up_average_and_validations_keep_their_proportions(plan):
    config = plan({("fp32", False): (0.03, 0.0)}, bf16=False)
    assert config.max_iters > 5000
    assert config.lr_decay_end == config.max_iters
    for name in ("lr_decay_start", "warmup_iters", "save_every", "val_every"):
        wanted = Fraction(getattr(CONFIG, name) * config.max_iters, CONFIG.max_iters)
        assert abs(getattr(config, name) - wanted) <= Fraction(1, 2), name
    assert 1 / (1 - config.ema_decay) / config.max_iters == pytest.approx(100 / 1000)
    assert learning_rate(config.max_iters, config) == pytest.approx(config.end_lr)
    assert f"{config.max_iters:,} steps of 0.03 s in fp32, not compiled" in config.plan


def test_a_very_short_average_keeps_ten_steps():
    assert budget.scaled(CONFIG, 20).ema_decay == 0.9
    assert budget.scaled(replace(CONFIG, ema_decay=None, val_every=0), 20).ema_decay is None
    assert budget.scaled(replace(CONFIG, val_every=0), 20).val_every == 0


def test_no_step_in_the_budget_is_refused(plan):
    with pytest.raises(InputError, match=r"--budget-minutes 5 holds no step: -?\d+ s are left after 280 s"):
        plan({("fp32", False): (4.0, 0.0)}, bf16=False, closing=280.0)


def test_a_real_training_is_planned_and_not_changed_by_it(tmp_path):
    made = []

    def fresh(train):
        made.append(trainer(tmp_path / "nowhere", **vars(replace(train, plan=""))))
        return made[-1]

    begun = budget.time.monotonic()
    asked = replace(CONFIG, budget_minutes=2.0, batch_size=4, compile=False)
    config = budget.plan(asked, CPU, fresh, lambda trainer: 0.0, begun)
    assert config.max_iters >= 1
    assert config.plan
    assert made[0].step >= 5  # they were real steps, of a trainer that is thrown away
    assert not list(tmp_path.iterdir())


def test_an_estimate_stops_the_work_after_a_few_steps(monkeypatch):
    clock, calls = Clock(), []
    monkeypatch.setattr("pcdiff.runtime.progress.time", clock)

    def work(progress, total=100):
        for k in range(total):
            clock.now += 10.0 if k == 0 else 0.5
            calls.append(k)
            progress(k + 1, total)

    assert estimated_seconds(work) == pytest.approx(50.0)  # the first step's 10 s are not counted
    assert len(calls) == 4
    assert estimated_seconds(lambda progress: work(progress, 3)) == pytest.approx(11.0)  # done to its end
