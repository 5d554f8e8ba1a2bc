"""Learning rates by name: how the rate falls from `lr` to `end_lr`."""

import math
from collections.abc import Callable

from pcdiff.config import TrainConfig

SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "cosine": lambda share: (1 - math.cos(math.pi * share)) / 2,  # Loshchilov & Hutter, SGDR, 2017, eq. 5
    "constant": lambda share: 0.0,
}
"""How much of the fall lies behind, in [0, 1], when a share of its steps does."""


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of step `step` (from 0): linear warm-up, constant, then the fall to `end_lr`."""
    if step < config.warmup_iters:
        return config.lr * (step + 1) / config.warmup_iters
    span = max(1, config.lr_decay_end - config.lr_decay_start)
    share = min(1.0, max(0.0, (step - config.lr_decay_start) / span))
    return config.lr + SCHEDULES[config.lr_schedule](share) * (config.end_lr - config.lr)
