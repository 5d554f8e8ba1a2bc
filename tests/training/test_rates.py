"""Learning-rate schedules against their closed forms."""

import math

import pytest

from pcdiff.config import TrainConfig
from pcdiff.training import SCHEDULES, learning_rate


def config(schedule, **others):
    settings = {"lr": 1.0, "end_lr": 0.2, "lr_decay_start": 10, "lr_decay_end": 30, "lr_schedule": schedule}
    return TrainConfig(**settings | others)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", lambda share: 1 - 0.8 * share),
        ("cosine", lambda share: 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * share))),
        ("constant", lambda share: 1.0),
    ],
)
def test_the_fall_in_closed_form(schedule, expected):
    for step in range(40):
        share = min(max((step - 10) / 20, 0), 1)
        assert learning_rate(step, config(schedule)) == pytest.approx(expected(share), abs=1e-12)


def test_all_schedules_are_tested():
    assert set(SCHEDULES) == {"linear", "cosine", "constant"}


def test_warming_up_never_starts_at_0_and_meets_the_rest():
    warm = config("cosine", warmup_iters=5)
    assert [learning_rate(step, warm) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert learning_rate(20, warm) == learning_rate(20, config("cosine"))


def test_a_fall_without_length_is_a_step():
    sudden = config("linear", lr_decay_start=10, lr_decay_end=10)
    assert [learning_rate(step, sudden) for step in (9, 10, 11)] == pytest.approx([1, 1, 0.2])
