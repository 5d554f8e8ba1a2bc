"""What a training would be and cost, found out by a few of its steps (`--dry-run`). Nothing is written."""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from pcdiff.config import RunConfig, differences, to_json
from pcdiff.errors import Lines, escaped
from pcdiff.runtime import distributed
from pcdiff.runtime.progress import in_words
from pcdiff.runtime.run_folder import NOWHERE
from pcdiff.training import Trainer
from pcdiff.training.job import make_trainer

_STEPS = 3


def rehearse(config: RunConfig, default: RunConfig, found: str, batches: Any, *parts: Any) -> None:
    """Print the config, the clouds, sizes, memory and times of a training, after a few steps of it.

    Args:
        config: the resolved config.
        default: the preset it starts from.
        found: how much data there are, in words.
        batches: as the training's, with `steps_per_epoch`.
        *parts: what `pcdiff.training.job.make_trainer` is given behind them.
    """
    trainer = make_trainer(replace(config, resume=None), NOWHERE, batches, *parts)
    try_out(config, default, found, trainer, "clouds")


def tally(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return how much each split holds, and of which category where there are several.

    Example:
        >>> tally({"train": {"chair": 10, "mug": 2}, "val": {"chair": 3, "mug": 0}})
        '12 train (10 chair, 2 mug), 3 val (3 chair, 0 mug)'
    """
    parts = []
    for split, held in counts.items():
        each = ", ".join(f"{count} {name}" for name, count in held.items())
        parts.append(f"{sum(held.values())} {split}" + (f" ({each})" if len(held) > 1 else ""))
    return ", ".join(parts)


def told_config(config: Any, default: Any) -> str:
    """Return a config in words: what differs from its preset, or all of it as JSON where that is asked for."""
    if config.show_config:
        return to_json(config).rstrip()
    apart = {
        name: value
        for name, value in differences(config, default).items()
        if name not in ("dry_run", "out", "preset", "resume", "train.plan")
    }
    changed = ", ".join(f"{name} {value}" for name, value in apart.items())
    return f"preset {config.preset}{f', but {changed}' if changed else ', as it is'}"


def try_out(config: Any, default: Any, found: str, trainer: Trainer, unit: str) -> None:
    """Print what `rehearse` does, of any trainer.

    Args:
        config: the resolved config.
        default: the preset it starts from.
        found: how much data there are, in words.
        trainer: of a fresh model; its batches have `steps_per_epoch`.
        unit: what a batch holds.
    """
    model, train, batches = trainer.model, config.train, trainer.batches
    trainer.prepare()
    seconds = []
    for _ in range(_STEPS):  # the first pays for warming up
        start = time.perf_counter()
        float(trainer.train_step()["loss"])
        seconds.append(time.perf_counter() - start)
    step = min(seconds)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    parameters = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size)
    processes, parts = distributed.world_size(), len(trainer.parts.rows)
    lines = [
        told_config(config, default),
        *([f"plan: {train.plan}"] if train.plan else []),
        f"{unit} found: {found}",
        f"parameters: {sum(sizes.values()):,} ({parameters})",
        f"batch: {train.batch_size} {unit}; processes: {processes}, parts of each: {parts}, "
        f"in {trainer.precision} on {trainer.device}",
        f"memory: {peak_memory(trainer.device) / 2**30:.2f} GiB at the peak of a step, with data, in each process",
        f"steps per epoch: {batches.steps_per_epoch:.1f}",
        f"a step: {step:.3f} s ({1 / step:.2f} steps/s, {train.batch_size / step:.0f} {unit}/s)",
        f"all {train.max_iters:,} steps: {in_words(train.max_iters * step)}, without validations",
        "dry run: nothing was written",
    ]
    if distributed.rank() == 0:
        print(escaped(Lines("\n".join(lines))))


def peak_memory(device: torch.device) -> int:
    """Return the most memory that this process has held, in bytes: of a GPU what tensors took, else all of it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
