"""Learning-rate schedules against their closed forms."""

import math

import pytest
import torch

from pcdiff.config import TrainConfig
from pcdiff.config.train import check_train
from pcdiff.errors import InputError
from pcdiff.training import SCHEDULES, learning_rate


def config(schedule, **others):
    settings = {"lr": 1.0, "end_lr": 0.2, "lr_decay_start": 10, "lr_decay_end": 30, "lr_schedule": schedule}
    return TrainConfig(**settings | others)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", lambda share: 1 - 0.8 * share),
        ("cosine", lambda share: 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * share))),
        ("exponential", lambda share: 0.2**share),
        ("constant", lambda share: 1.0),
    ],
)
def test_the_fall_in_closed_form(schedule, expected):
    for step in range(40):
        share = min(max((step - 10) / 20, 0), 1)
        assert learning_rate(step, config(schedule)) == pytest.approx(expected(share), abs=1e-12)


def test_all_schedules_are_tested():
    assert set(SCHEDULES) == {"linear", "cosine", "exponential", "constant"}


def test_warming_up_never_starts_at_0_and_meets_the_rest():
    warm = config("cosine", warmup_iters=5)
    assert [learning_rate(step, warm) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert learning_rate(20, warm) == learning_rate(20, config("cosine"))


def test_a_fall_without_length_is_a_step():
    sudden = config("linear", lr_decay_start=10, lr_decay_end=10)
    assert [learning_rate(step, sudden) for step in (9, 10, 11)] == pytest.approx([1, 1, 0.2])


def test_a_rate_that_changes_once_an_epoch_is_pytorchs_exponential_rate():
    epoch, gamma, lr = 7, 0.998, 2e-4
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=lr)
    theirs = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
    ours = config(
        "exponential", lr=lr, end_lr=lr * gamma**5, lr_decay_start=0, lr_decay_end=5 * epoch, lr_decay_every=epoch
    )
    for step in range(5 * epoch):
        assert learning_rate(step, ours) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        if (step + 1) % epoch == 0:
            theirs.step()
    with pytest.raises(InputError, match=r"end_lr must be above 0 with lr_schedule exponential, got 0"):
        check_train(config("exponential", end_lr=0.0))
