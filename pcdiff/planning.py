"""Fit a run to a budget of time: how long its end will take, and what is left for training."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pcdiff import distributed
from pcdiff.config import RunConfig, TrainConfig
from pcdiff.errors import InputError
from pcdiff.models import PointCloudModel
from pcdiff.runs import NOWHERE, log
from pcdiff.sampling import seconds_to_decode
from pcdiff.sessions import fresh_trainer
from pcdiff.training import Trainer, plan


def planned(config: RunConfig, folder: Path, started: float, count: int, num_points: int, *parts: Any) -> RunConfig:
    """Return a run's config with the plan that its budget of time asks for; one without a budget as it is.

    Args:
        config: the resolved config.
        folder: the run's; where the budget holds no step it is left without a config, as no run.
        started: when the budget began to run, by `time.monotonic()`.
        count: clouds that a validation, and the end, score.
        num_points: points of each that are compared.
        *parts: what `make_trainer` is given behind the folder.

    Raises:
        InputError: the budget holds no step.
    """

    def fresh(train: TrainConfig) -> Trainer:
        return fresh_trainer(replace(config, train=train), NOWHERE, *parts)

    def closing(trainer: Trainer) -> float:
        return seconds_to_close(config, trainer.model, count, num_points)

    return with_plan(config, folder, parts[2], fresh, closing, started)


def with_plan(
    config: Any,
    folder: Path,
    device: torch.device,
    fresh: Callable[[TrainConfig], Trainer],
    closing: Callable[[Trainer], float],
    started: float,
) -> Any:
    """Return what `planned` does, of any kind of run; the arguments are those of `pcdiff.training.plan`."""
    train = config.train
    if train.budget_minutes is None or train.plan:
        return config
    log.info("budget: %g minutes; timing the first steps", train.budget_minutes)
    try:
        train = plan(train, device, fresh, closing, started)
    except InputError:
        if distributed.rank() == 0:
            with suppress(OSError):  # the corrected command may have the folder
                (folder / "config.json").unlink()
        raise
    log.info("plan: %s", train.plan)
    return replace(config, train=train)


def seconds_to_close(config: RunConfig, model: PointCloudModel, count: int, num_points: int) -> float:
    """Estimate how long a run's validations, and what it draws and scores in the end, will take.

    Args:
        config: the run's.
        model: of that config, trained or not.
        count: clouds that are scored.
        num_points: points of each that are compared.
    """
    shown = 0.0
    if config.model.kind != "autoencoder":
        shown = seconds_to_decode(model, config.num_samples, config.sample_points)
    # the last validation's clouds are those that are scored in the end
    return shown + max(1, validations(config.train)) * seconds_to_decode(model, count, num_points)


def validations(config: TrainConfig) -> int:
    """Return how many validations a training has, the last step's included."""
    return math.ceil(config.max_iters / config.val_every) if config.val_every else 0
