"""Fit a run to a budget of time: how long its end will take, and what is left for training."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pcdiff.config import RunConfig, TrainConfig
from pcdiff.errors import InputError
from pcdiff.runtime import distributed
from pcdiff.runtime.run_folder import NOWHERE, log
from pcdiff.training import Trainer, plan
from pcdiff.training.job import fresh_trainer, remainder


def planned(
    config: RunConfig, folder: Path, started: float, closing: Callable[[nn.Module], float], *parts: Any
) -> RunConfig:
    """Return a run's config with the plan that its budget of time asks for; one without a budget as it is.

    Args:
        config: the resolved config.
        folder: the run's; where the budget holds no step it is left without a config, as no run.
        started: when the budget began to run, by `time.monotonic()`.
        closing: estimates the seconds of what follows the last validation, with a model in evaluation mode.
        *parts: what `make_trainer` is given behind the folder.

    Raises:
        InputError: the budget holds no step.
    """

    def fresh(train: TrainConfig) -> Trainer:
        return fresh_trainer(replace(config, train=train), NOWHERE, *parts)

    return with_plan(config, folder, parts[2], fresh, closing, started)


def with_plan(
    config: Any,
    folder: Path,
    device: torch.device,
    fresh: Callable[[TrainConfig], Trainer],
    closing: Callable[[nn.Module], float],
    started: float,
) -> Any:
    """Return what `planned` does, of any kind of run; `fresh` makes a trainer, with its validation, at step 0."""
    train = config.train
    if train.budget_minutes is None or train.plan:
        return config

    def seconds_to_close(trainer: Trainer) -> float:
        found = remainder(trainer, closing, trainer.model)
        return validations(train) * found.validation + found.rest

    log.info("budget: %g minutes; timing the first steps", train.budget_minutes)
    try:
        fitted = plan(train, device, fresh, seconds_to_close, started)
    except InputError:
        if distributed.rank() == 0:
            with suppress(OSError):  # the corrected command may have the folder
                (folder / "config.json").unlink()
        raise
    log.info("plan: %s", fitted.plan)
    return replace(config, train=fitted)


def validations(config: TrainConfig) -> int:
    """Return how many validations a training has, the last step's included."""
    return math.ceil(config.max_iters / config.val_every) if config.val_every else 0
