"""What a training script does around the loop: build, warn, resume, sample, score, report."""

import copy
import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from pcdiff.config import RunConfig, to_json
from pcdiff.interop.files import write_clouds
from pcdiff.models import build_model
from pcdiff.runtime import distributed
from pcdiff.runtime.memory_limit import within
from pcdiff.runtime.progress import in_words
from pcdiff.runtime.run_folder import log, tell_changes, write_config, write_json
from pcdiff.runtime.stopping import Stop
from pcdiff.training import CheckpointManager, Outcome, Remainder, TensorBoardScalars, Trainer, Validation
from pcdiff.version import __version__
from pcdiff.viz import save_grid

_ELEVATION = 38.0  # degrees: from well above, wings and seats show their outline
_PICTURED = 64  # more clouds than this do not fit a picture
_COLUMNS = 8


def make_trainer(
    config: RunConfig,
    folder: Path,
    batches: Callable[[int, slice], Tensor],
    dataset: dict[str, Any],
    device: torch.device,
    validate: Validation | None = None,
    statistics: dict[str, Any] | None = None,
) -> Trainer:
    """Build the model from the run's seed and its trainer; go back to `last` where the folder has one.

    Args:
        config: the resolved config.
        folder: the run's folder.
        batches: `batches(step, rows)` on `device`.
        dataset: the data set's identity, kept in every checkpoint.
        device: where to train.
        validate: a validation of `pcdiff.training.validation`.
        statistics: what a global normalization took from the data, kept likewise.

    Raises:
        InputError: the folder's checkpoints are damaged, or of another model or data set.
    """
    trainer = fresh_trainer(config, folder, batches, dataset, device, validate, statistics)
    resume(trainer, f"model: {describe(config)}")
    if config.preset == "paper" and device.type == "cpu":
        remaining = config.train.max_iters - trainer.step
        log.warning(
            "NO GPU: the `paper` preset would take about %s on this machine. "
            "`--preset quick` fits two CPU cores in a few minutes.",
            in_words(remaining * seconds_per_step(trainer)),
        )
    return trainer


def describe(config: RunConfig) -> str:
    """Return which parts a model is composed of, in words.

    Example:
        >>> describe(RunConfig())
        'latent (encoder pointnet, prior coupling, net pointwise; ddpm, predicts eps)'
    """
    parts = ", ".join(f"{part} {getattr(config.model, part)}" for part in config.model.parts)
    return f"{config.model.kind} ({parts}; {config.process.name}, predicts {config.process.predicts})"


def fresh_trainer(
    config: RunConfig,
    folder: Path,
    batches: Callable[[int, slice], Tensor],
    dataset: dict[str, Any],
    device: torch.device,
    validate: Validation | None = None,
    statistics: dict[str, Any] | None = None,
) -> Trainer:
    """Build the model from the run's seed and its trainer, at step 0; arguments as for `make_trainer`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = within(CheckpointManager(folder / "checkpoints").budget(), lambda: build_model(config))
    if (labels := getattr(batches, "labels", None)) is not None:
        model.set_class_counts(labels)
    facts = metadata(config, dataset, statistics=statistics or {})
    return Trainer(model, batches, config.train, folder, facts, config.seed, device, validate)


def metadata(config: Any, dataset: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """Return the metadata of every checkpoint of a run, ready for JSON.

    Args:
        config: the resolved config, of clouds, images or classifiers.
        dataset: the data set's identity.
        **facts: what this kind of run keeps too.
    """
    return {"config": json.loads(to_json(config)), "dataset": dataset, **facts, "version": __version__}


def resume(trainer: Trainer, what: str) -> None:
    """Log what is trained, and go back to the last checkpoint where the folder has one.

    Raises:
        InputError: the folder's checkpoints are damaged, or of another model or data set.
    """
    parameters = sum(p.numel() for p in trainer.model.parameters())
    log.info("%s, %s parameters, on %s", what, f"{parameters:,}", trainer.device)
    if trainer.checkpoints.exists():
        trainer.restore()
        log.info("resumed at step %d", trainer.step)


def seconds_per_step(trainer: Trainer, clouds: int = 8) -> float:
    """Estimate the seconds of a training step from one on part of its batch; the trainer is unchanged."""
    model = copy.deepcopy(trainer.model).train()
    part = trainer.batches(trainer.step, slice(0, min(clouds, trainer.config.batch_size)))
    seconds = []
    for _ in range(2):  # the first pays for warming up
        start = time.perf_counter()
        model.loss_terms(part, torch.Generator(part.device).manual_seed(0))["loss"].backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds) * trainer.config.batch_size / len(part)


def fit(
    config: RunConfig,
    trainer: Trainer,
    unit: str = "clouds",
    stop: Stop | None = None,
    closing: Callable[[nn.Module], float] | None = None,
) -> Outcome:
    """Train; log how it ended, its speed, the best checkpoint and its path, and how to resume.

    Args:
        config: the run's, or another with the same parts.
        trainer: of the run.
        unit: what a batch holds, for the log.
        stop: the signals and the time of the whole call; see `Trainer.fit`.
        closing: estimates the seconds of what follows, with a model in evaluation mode.
    """
    with distributed.refused_together():
        if distributed.rank() == 0:
            tell_changes(trainer.folder, config, trainer.step)
    if distributed.rank() == 0:
        write_config(trainer.folder, config)  # with what a resumed run's flags have changed
    outcome = trainer.fit(stop, None if closing is None else partial(remainder, trainer, closing))
    if distributed.rank() > 0:
        return outcome
    _log_hyperparameters(config, trainer.folder, outcome)
    ends = {
        "finished": "finished",
        "time is up": "stopped: time is up",
        "no progress": f"stopped: no better score in {config.train.patience} validations",
        "interrupted": "interrupted: all is saved",
    }
    rows = outcome.steps_per_second * config.train.batch_size
    log.info(
        "%s at step %d (%.2f steps/s, %.0f %s/s)",
        ends[outcome.reason],
        outcome.step,
        outcome.steps_per_second,
        rows,
        unit,
    )
    if outcome.skipped:
        log.info("%d steps were skipped: their loss or gradient was not finite", outcome.skipped)
    if outcome.best is not None:
        scores = ", ".join(f"{k} {v:.4g}" for k, v in outcome.best.items() if k not in ("score", "step"))
        log.info("best: step %d, %s: %s", outcome.best["step"], scores, trainer.checkpoints.path("best"))
    log.info("last: %s; scalars: tensorboard --logdir %s", trainer.checkpoints.path("last"), trainer.folder)
    if outcome.reason != "finished":
        log.info("resume with: --resume %s", trainer.folder)
    return outcome


def remainder(trainer: Trainer, closing: Callable[[nn.Module], float], model: nn.Module) -> Remainder:
    """Estimate what follows the last step of a training: its validation, if it has any, and the closing.

    Args:
        trainer: its validation has `seconds(model)`.
        closing: estimates the seconds of what the script does in the end, with a model in evaluation mode.
        model: to sample, trained or not.
    """
    training = model.training
    model.eval()
    validates = trainer.validate is not None and trainer.config.val_every
    estimated = Remainder(trainer.validate.seconds(model) if validates else 0.0, closing(model))
    model.train(training)
    return estimated


def keep_clouds(
    folder: Path,
    name: str,
    clouds: Tensor,
    title: str,
    pictured: Tensor | None = None,
    columns: int | None = None,
    beside: Tensor | None = None,
) -> None:
    """Write `<name>.npy` and a shaded grid `<name>.png` (of `pictured`, if given) into a folder.

    Training clouds given as `beside` fill a row above the others, and each row has a label.
    """
    write_clouds(folder / f"{name}.npy", clouds)
    shown, rows = list((clouds if pictured is None else pictured)[:_PICTURED].numpy()), None
    if beside is not None and len(beside):
        columns = min(_COLUMNS, len(shown), len(beside))
        rows = ["training shapes"] + [
            f"samples {first + 1} to {min(first + columns, len(shown))}" for first in range(0, len(shown), columns)
        ]
        shown = [*beside[:columns].numpy(), *shown]
    save_grid(folder / f"{name}.png", shown, columns, title=title, row_titles=rows, elevation=_ELEVATION)
    log.info("clouds: %s", folder / f"{name}.png")


def training_facts(config: RunConfig, outcome: Outcome) -> dict[str, Any]:
    """Return a result's record of the training, ready for JSON."""
    return {
        "steps": outcome.step,
        "ended": outcome.reason,
        "steps_per_second": outcome.steps_per_second,
        "skipped_steps": outcome.skipped,
        "best": outcome.best,
        "seed": config.seed,
        "preset": config.preset,
    }


def keep_results(
    folder: Path, results: dict[str, Any], dataset: dict[str, Any], config: RunConfig, outcome: Outcome
) -> None:
    """Write scores on the validation split, if there are any, and what the training was, to `results.json`."""
    training = training_facts(config, outcome) | {"scored_checkpoint": "last"}
    facts = {"dataset": dataset, "split": "val", "training": training, "version": __version__}
    write_json(folder / "results.json", {**results, **facts})
    log.info("results: %s", folder / "results.json")


def _log_hyperparameters(config: RunConfig, folder: Path, outcome: Outcome) -> None:
    flat = {
        f"{part}/{name}": value if isinstance(value, bool | int | float | str) else str(value)
        for part in ("model", "process", "objective", "sampling", "data", "train")
        if hasattr(config, part)  # a classifier of noisy images has the process of another run
        for name, value in dataclasses.asdict(getattr(config, part)).items()
    }
    metrics = {f"best/{name}": value for name, value in (outcome.best or {}).items()}

    def show(writer: SummaryWriter, step: int) -> None:
        file_writer: Any = writer.file_writer  # annotated as the None that it is before it is opened
        for event in hparams(flat, metrics):
            file_writer.add_summary(event)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    scalars = TensorBoardScalars(folder / "tensorboard", outcome.step)
    scalars.show(show, outcome.step)
    scalars.close()
