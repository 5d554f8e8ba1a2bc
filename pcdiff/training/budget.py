"""Plan a training by wall clock: time its first steps, take the fastest way, fit the schedule to the time."""

import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from pcdiff.config import TrainConfig
from pcdiff.errors import InputError
from pcdiff.runtime import distributed
from pcdiff.runtime.devices import can_compile
from pcdiff.runtime.precision import native_bf16
from pcdiff.training.trainer import Trainer

log = logging.getLogger("pcdiff")

_WARM_UP = 2  # steps: the first allocates and compiles forwards and backwards, the second finds memory to reuse
_LEAST = 5  # timed steps of a way, at the least
_MOST = 100  # and at the most: after them the mean is known to a few per cent
_SHARE = 0.02  # of the budget that the timed steps of a way may take
# Compiling takes about a minute on two slow cores and saves up to a fifth of a step: below this the trial alone
# costs more than it can win.
_COMPILE_FROM = 600.0  # seconds
_MARGIN = 0.03  # of the time to train, for what is not a step: logging, checkpoints, other programs


@dataclass(frozen=True)
class Trial:
    """A way to train, timed.

    Attributes:
        precision: `fp32` or `bf16`.
        compile: whether encoder and net were compiled.
        seconds: a step's, after warming up.
        start: seconds until the steps ran at that speed, compilation included.
    """

    precision: str
    compile: bool
    seconds: float
    start: float

    def steps(self, seconds: float) -> int:
        """Return how many steps fit into a time, in seconds, with the start."""
        return max(0, math.floor((seconds - self.start) * (1 - _MARGIN) / self.seconds))

    def __str__(self) -> str:
        """Return the way in words, and its step's time."""
        how = "compiled" if self.compile else "not compiled"
        return f"{self.precision} {how} {self.seconds:.3g} s a step (start {self.start:.1f} s)"


def plan(
    config: TrainConfig,
    device: torch.device,
    make: Callable[[TrainConfig], Trainer],
    closing: Callable[[Trainer], float],
    started: float,
) -> TrainConfig:
    """Return the config with which a training, what comes after it included, takes `budget_minutes`.

    Fresh trainers make a few steps each: in fp32 and, with precision `auto` on hardware that multiplies it, in
    bf16; and, with `compile`, compiled, where the budget is long enough to win a compilation back. The way that
    fits most steps is taken. Schedule, warm-up, average and the steps between logs, checkpoints and validations
    keep their proportions to the number of steps. The plan is written into the config's `plan`, and a config that
    has one is not planned again.

    Args:
        config: with `budget_minutes`.
        device: where the training runs.
        make: builds a fresh trainer from such a config; it writes nothing.
        closing: seconds that validations, and what follows the last step, will take.
        started: when the budget began to run, by `time.monotonic()`.

    Raises:
        InputError: the budget holds no step.
    """
    budget = 60 * config.budget_minutes
    trials: list[Trial] = []
    closed = 0.0
    for precision, compiled in _ways(config, device):
        if compiled:  # of the faster precision alone
            precision = min(trials, key=lambda trial: trial.seconds).precision
        trainer = make(replace(config, precision=precision, compile=compiled))
        trials.append(_timed(trainer, precision, compiled, _SHARE * budget))
        if len(trials) == 1:
            closed = distributed.broadcast(closing(trainer))
        log.info("tried: %s", trials[-1])
        del trainer
        gc.collect()
        if compiled:
            torch.compiler.reset()
    left = budget - (distributed.broadcast(time.monotonic()) - distributed.broadcast(started)) - closed
    best = max(trials, key=lambda trial: trial.steps(left))
    steps = best.steps(left)
    if steps < 1:
        raise InputError(
            f"--budget-minutes {config.budget_minutes:g} holds no step: {left:.0f} s are left after "
            f"{closed:.0f} s for validation and samples, and a step takes {best.seconds:.3g} s"
        )
    text = f"{steps:,} steps of {best.seconds:.3g} s in {best.precision}, {'' if best.compile else 'not '}compiled"
    text += f"; {closed:.0f} s for validation and samples"
    return replace(scaled(config, steps), precision=best.precision, compile=best.compile, plan=text)


def _ways(config: TrainConfig, device: torch.device) -> list[tuple[Any, bool]]:
    """Return the precisions to try, each not compiled, and what is to be tried compiled."""
    precisions: list[Any] = [config.precision]
    if config.precision == "auto":
        precisions = ["fp32", "bf16"] if native_bf16(device) else ["fp32"]
    ways = [(precision, False) for precision in precisions]
    if config.compile and can_compile(device):
        if 60 * config.budget_minutes >= _COMPILE_FROM:
            ways.append((precisions[0], True))
        else:
            log.info("not tried compiled: %g minutes cannot win a compilation back", config.budget_minutes)
    return ways


def _timed(trainer: Trainer, precision: str, compiled: bool, seconds: float) -> Trial:
    """Make steps for about so long, and time them."""

    def steps(count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            float(trainer.train_step()["loss"])  # waits for a GPU too
        return time.perf_counter() - begun

    trainer.prepare()
    warm, probe = steps(_WARM_UP), steps(_LEAST)
    # The processes of a job wait for one another in every step, so all must make as many: the first one's number.
    more = distributed.broadcast(min(_MOST, int(seconds / max(probe / _LEAST, 1e-9))) - _LEAST)
    step = (probe + steps(max(0, more))) / (_LEAST + max(0, more))
    step, start = distributed.broadcast((step, max(0.0, warm - _WARM_UP * step)))
    return Trial(precision, compiled, step, start)


def scaled(config: TrainConfig, steps: int) -> TrainConfig:
    """Return the config for another number of steps, all that is counted in steps in the same proportion.

    The average's memory, 1 / (1 - decay) steps, is the same share of the training, but never below ten steps; log
    entries come as often as they did, but at least twenty times.
    """
    ratio = steps / config.max_iters

    def share(count: int) -> int:
        return max(1, round(count * ratio)) if count else 0

    decay = config.ema_decay
    return replace(
        config,
        max_iters=steps,
        lr_decay_start=share(config.lr_decay_start),
        lr_decay_end=share(config.lr_decay_end),
        lr_decay_every=share(config.lr_decay_every) if config.lr_decay_every > 1 else 1,
        warmup_iters=share(config.warmup_iters),
        ema_decay=None if decay is None else max(0.9, 1 - (1 - decay) / ratio),
        log_every=max(1, min(config.log_every, steps // 20)),
        save_every=share(config.save_every),
        val_every=share(config.val_every),
    )
