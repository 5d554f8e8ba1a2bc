"""Learning rates by name: how the rate falls from `lr` to `end_lr`."""

import math
from collections.abc import Callable

from pcdiff.config import TrainConfig

SCHEDULES: dict[str, Callable[[float, float, float], float]] = {
    "linear": lambda lr, end_lr, share: lr + share * (end_lr - lr),
    # Loshchilov & Hutter, SGDR, 2017, eq. 5
    "cosine": lambda lr, end_lr, share: lr + (1 - math.cos(math.pi * share)) / 2 * (end_lr - lr),
    "exponential": lambda lr, end_lr, share: lr * (end_lr / lr) ** share,
    "constant": lambda lr, end_lr, share: lr,
}
"""The rate after a share of the decay's steps, in [0, 1]."""


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of step `step` (from 0): linear warm-up, constant, then the fall to `end_lr`.

    Within the fall it changes every `lr_decay_every` steps.
    """
    if step < config.warmup_iters:
        return config.lr * (step + 1) / config.warmup_iters
    span = max(1, config.lr_decay_end - config.lr_decay_start)
    behind = max(0, step - config.lr_decay_start)
    share = 1.0 if behind >= span else (behind - behind % config.lr_decay_every) / span
    return SCHEDULES[config.lr_schedule](config.lr, config.end_lr, share)
