"""What a training script does around the loop: build, warn, resume, sample, score, report."""

import copy
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

import pcdiff
from pcdiff.config import RunConfig, to_json
from pcdiff.interop.files import write_clouds
from pcdiff.models import build_model
from pcdiff.runs import log, write_config, write_json
from pcdiff.training import Outcome, Trainer, Validation
from pcdiff.viz import save_grid

_ELEVATION = 38.0  # degrees: from well above, wings and seats show their outline
_PICTURED = 64  # more clouds than this do not fit a picture


def make_trainer(
    config: RunConfig,
    folder: Path,
    batches: Callable[[int], Tensor],
    dataset: dict[str, Any],
    device: torch.device,
    validate: Validation | None = None,
    statistics: dict[str, Any] | None = None,
) -> Trainer:
    """Build the model from the run's seed and its trainer; go back to `last` where the folder has one.

    Args:
        config: the resolved config.
        folder: the run's folder.
        batches: `batches(step)` on `device`.
        dataset: the data set's identity, kept in every checkpoint.
        device: where to train.
        validate: a validation of `pcdiff.validation`.
        statistics: what a global normalisation took from the data, kept likewise.

    Raises:
        InputError: the folder's checkpoint is damaged, or of another model or data set.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(config.model, config.objective)
    parameters = sum(p.numel() for p in model.parameters())
    log.info("model: %s, %s parameters, on %s", config.model.kind, f"{parameters:,}", device)
    metadata = {
        "config": json.loads(to_json(config)),
        "dataset": dataset,
        "statistics": statistics or {},
        "version": pcdiff.__version__,
    }
    trainer = Trainer(
        model,
        batches,
        config.train,
        folder,
        metadata,
        config.seed,
        device,
        validate,
    )
    if trainer.checkpoint_path("last").exists():
        trainer.restore()
        write_config(folder, config)
        log.info("resumed at step %d", trainer.step)
    if config.preset == "paper" and device.type == "cpu":
        remaining = config.train.max_iters - trainer.step
        days = remaining * seconds_per_step(trainer) / 86_400
        log.warning(
            "NO GPU: the `paper` preset would take about %s on this machine. "
            "`--preset quick` fits two CPU cores in a few minutes.",
            f"{days:.1f} days" if days >= 1 else f"{days * 24:.1f} hours",
        )
    return trainer


def seconds_per_step(trainer: Trainer, clouds: int = 8) -> float:
    """Estimate the seconds of a training step from one on part of its batch; the trainer is unchanged."""
    model = copy.deepcopy(trainer.model).train()
    batch = trainer.batches(trainer.step)
    part = batch[:clouds]
    seconds = []
    for _ in range(2):  # the first pays for warming up
        start = time.perf_counter()
        model.loss_terms(part, torch.Generator(part.device).manual_seed(0))["loss"].backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds) * len(batch) / len(part)


def fit(config: RunConfig, trainer: Trainer) -> Outcome:
    """Train, and say how it ended and how to go on."""
    outcome = trainer.fit()
    _log_hyperparameters(config, trainer.folder, outcome)
    ends = {"finished": "finished", "time is up": "stopped: time is up", "interrupted": "interrupted: all is saved"}
    log.info("%s at step %d (%.2f steps/s)", ends[outcome.reason], outcome.step, outcome.steps_per_second)
    if outcome.reason != "finished":
        log.info("go on with: --resume %s", trainer.folder)
    return outcome


def keep_clouds(
    folder: Path,
    name: str,
    clouds: Tensor,
    title: str,
    pictured: Tensor | None = None,
    columns: int | None = None,
) -> None:
    """Write `<name>.npy` and a shaded grid `<name>.png` (of `pictured`, if given) into a folder."""
    write_clouds(folder / f"{name}.npy", clouds)
    pictured = clouds if pictured is None else pictured
    save_grid(folder / f"{name}.png", pictured[:_PICTURED].numpy(), columns, title=title, elevation=_ELEVATION)
    log.info("clouds: %s", folder / f"{name}.png")


def keep_results(folder: Path, results: dict[str, Any]) -> None:
    """Write `results.json` into a run's folder."""
    write_json(folder / "results.json", {**results, "version": pcdiff.__version__})
    log.info("results: %s", folder / "results.json")


def training_summary(config: RunConfig, outcome: Outcome) -> dict[str, Any]:
    """Return what `results.json` says of the training."""
    return {
        "steps": outcome.step,
        "scored_checkpoint": "last",
        "ended": outcome.reason,
        "steps_per_second": outcome.steps_per_second,
        "best": outcome.best,
        "seed": config.seed,
        "preset": config.preset,
    }


def _log_hyperparameters(config: RunConfig, folder: Path, outcome: Outcome) -> None:
    flat = {
        f"{part}/{name}": value if isinstance(value, bool | int | float | str) else str(value)
        for part in ("model", "objective", "data", "train")
        for name, value in dataclasses.asdict(getattr(config, part)).items()
    }
    metrics = {f"best/{name}": value for name, value in (outcome.best or {}).items()}
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for event in hparams(flat, metrics):
            writer.file_writer.add_summary(event)
        for name, value in metrics.items():
            writer.add_scalar(name, value, outcome.step)
