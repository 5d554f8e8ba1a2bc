"""One training loop, for any model with `loss_terms`. It knows no concrete model and no concrete data."""

import copy
import ctypes
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pcdiff import checkpoint, distributed, rng
from pcdiff.config import TrainConfig
from pcdiff.errors import InputError
from pcdiff.precision import autocast, resolve_precision

log = logging.getLogger("pcdiff")


class Validation(Protocol):
    """Scores a model and shows what it scored."""

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return scores by name; the key `"score"`, lower is better, ranks the model."""

    def show(self, writer: SummaryWriter, step: int) -> None:
        """Log what was scored last to TensorBoard."""


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is not finite any more."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended: `reason` is `finished`, `time is up` or `interrupted`."""

    reason: str
    step: int
    steps_per_second: float
    best: dict[str, float] | None


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of step `step` (from 0): linear warm-up, constant, linear decay to `end_lr`."""
    if step < config.warmup_iters:
        return config.lr * (step + 1) / config.warmup_iters
    span = max(1, config.lr_decay_end - config.lr_decay_start)
    share = min(1.0, max(0.0, (step - config.lr_decay_start) / span))
    return config.lr + share * (config.end_lr - config.lr)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of handing it back to the kernel; elsewhere do nothing.

    A step on the CPU frees and takes the same tens of megabytes over and over. By default each goes back to the
    kernel, which then clears the pages anew: a fifth to a third of a step (`benchmarks/training.py`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)


def can_compile(device: torch.device) -> bool:
    """Tell whether torch.compile can work for `device`; say so where it cannot for want of a C++ compiler."""
    if device.type == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            log.warning("no C++ compiler found: training goes on uncompiled, which is slower")
            return False
    return True


def resolve_device(name: str) -> torch.device:
    """Return the device a flag names; `auto` is CUDA where there is one.

    Without a number, each process of a `torchrun` job gets a GPU of its own, as far as they go.

    Raises:
        InputError: the name is not a device, or the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        name = f"cuda:{distributed.local_rank() % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("expected auto, cpu or cuda")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from None
    return device


class ExponentialMovingAverage:
    """Moving average of a model's weights and buffers, with a warm-up: early on it follows quickly.

    Args:
        model: the model to follow; the average is a copy of it.
        decay: share of the old average kept at a step, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise InputError(f"ema_decay must be in (0, 1), got {decay}")
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model` after step `step` (from 0)."""
        decay = min(self.decay, (step + 1) / (step + 10))
        average, current = self.model.state_dict(), model.state_dict()
        floating = [k for k, v in average.items() if v.is_floating_point()]
        torch._foreach_lerp_([average[k] for k in floating], [current[k] for k in floating], 1 - decay)
        for name, value in average.items():
            if not value.is_floating_point():
                value.copy_(current[name])


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying; a second SIGINT does interrupt."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass
class Trainer:
    """Train `model` on `batches` and keep its run's folder up to date.

    Resumed equals uninterrupted, bit for bit on the CPU: a step's data and noise depend on the seed and the step
    alone, and the checkpoint carries weights, average, optimiser and best score.

    Args:
        model: has `loss_terms(batch, generator) -> dict` with the key `"loss"`.
        batches: `batches(step) -> batch` on `device`.
        config: how to train.
        folder: the run's folder.
        metadata: JSON-ready facts that every checkpoint carries (config, data set).
        seed: the run's seed.
        device: where to train.
        validate: scores the model now and then; the score decides which checkpoint is `best`.
    """

    model: nn.Module
    batches: Callable[[int], Tensor]
    config: TrainConfig
    folder: Path
    metadata: dict[str, Any]
    seed: int
    device: torch.device
    validate: Validation | None = None
    step: int = field(default=0, init=False)
    best: dict[str, float] | None = field(default=None, init=False)

    def __post_init__(self):
        self.model.to(self.device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay, fused=True
        )
        decay = self.config.ema_decay
        self.ema = None if decay is None else ExponentialMovingAverage(self.model, decay)
        self.precision = resolve_precision(self.config.precision, self.device)

    @property
    def sampling_model(self) -> nn.Module:
        """The model to score and sample: the moving average where one is kept."""
        return self.model if self.ema is None else self.ema.model

    def checkpoint_path(self, name: str) -> Path:
        """Return the path of checkpoint `last` or `best`."""
        return self.folder / "checkpoints" / f"{name}.safetensors"

    def save(self) -> None:
        """Write `last`: all that is needed to go on."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{k}": v for k, v in self.ema.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        checkpoint.save(self.checkpoint_path("last"), tensors, self._metadata())

    def _save_best(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.sampling_model.state_dict().items()}
        checkpoint.save(self.checkpoint_path("best"), tensors, self._metadata())

    def _metadata(self) -> dict[str, Any]:
        return {**self.metadata, "step": self.step, "best": self.best}

    def restore(self) -> None:
        """Go back to `last`.

        Raises:
            InputError: there is none, or it does not fit the model or the data set.
        """
        path = self.checkpoint_path("last")
        tensors, metadata = checkpoint.read(path)
        was, now = metadata["dataset"], self.metadata["dataset"]
        if was["fingerprint"] != now["fingerprint"]:
            raise InputError(f"{path}: was trained on {was}, got {now}; give the run its own data set")
        checkpoint.load_weights(self.model, tensors, "model.", str(path))
        if self.ema is not None:
            checkpoint.load_weights(self.ema.model, tensors, "ema.", str(path))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = tensor
        if metadata["step"] > 0 and len(state) != len(list(self.model.parameters())):
            raise InputError(f"{path}: has no optimiser state (a copy of `best`?), so the run cannot go on from it")
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        self.step, self.best = metadata["step"], metadata["best"]

    def train_step(self) -> dict[str, Tensor]:
        """Make one optimiser step; return the loss terms, gradient norm and learning rate."""
        lr = learning_rate(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        noise = rng.generator(self.seed, "train", self.step, device=self.device)
        with autocast(self.precision, self.device):
            terms = self.model.loss_terms(self.batches(self.step), noise)
        self.optimizer.zero_grad()
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        self.step += 1
        return {k: v.detach() for k, v in terms.items()} | {
            "gradient_norm": norm,
            "learning_rate": torch.tensor(lr),
        }

    def fit(self) -> Outcome:
        """Train until `max_iters`, `max_minutes` or a signal; save at the end in every case.

        Raises:
            TrainingDiverged: the loss or gradient is not finite; the last checkpoint stays as it was.
        """
        self.model.train()
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.config.compile and can_compile(self.device):
            self.model.compile()
        start, first, validating = time.monotonic(), self.step, 0.0
        writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1 if self.step else None)
        bar = tqdm(
            total=self.config.max_iters,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            mininterval=0.5 if sys.stderr.isatty() else 20.0,
        )
        reason = "finished" if self.step >= self.config.max_iters else None
        with interruptible() as signals, bar, writer:
            while reason is None:
                terms = self.train_step()
                reason = self._why_stop(signals, start)
                # Reading the loss waits for a GPU: there it is read only before a log entry or a checkpoint.
                reads = self._due(self.config.log_every, reason) or self._due(self.config.save_every, reason)
                if self.device.type == "cpu" or reads:
                    self._check_finite(terms)
                    bar.set_postfix(loss=f"{float(terms['loss']):.4f}", refresh=False)
                bar.update()
                if self._due(self.config.log_every, reason):
                    for name, value in terms.items():
                        writer.add_scalar(f"train/{name}", float(value), self.step)
                if self._due(self.config.save_every, reason):
                    self.save()
                if self.validate and self._due(self.config.val_every, reason) and reason != "interrupted":
                    paused = time.monotonic()
                    self._validate(self.validate, writer)
                    validating += time.monotonic() - paused
        seconds = max(1e-9, time.monotonic() - start - validating)
        return Outcome(reason, self.step, (self.step - first) / seconds, self.best)

    def _why_stop(self, signals: list[int], start: float) -> str | None:
        if self.step >= self.config.max_iters:
            return "finished"
        if signals:
            return "interrupted"
        minutes = (time.monotonic() - start) / 60
        return "time is up" if minutes >= (self.config.max_minutes or math.inf) else None

    def _due(self, every: int, reason: str | None) -> bool:
        return every > 0 and (reason is not None or self.step % every == 0)

    def _check_finite(self, terms: dict[str, Tensor]) -> None:
        bad = [name for name, value in terms.items() if not math.isfinite(float(value))]
        if bad:
            raise TrainingDiverged(
                f"{', '.join(bad)} not finite at step {self.step}; the last checkpoint is untouched. "
                f"Try a smaller --lr (now {self.config.lr}) or --max-grad-norm (now {self.config.max_grad_norm})"
            )

    def _validate(self, validate: Validation, writer: SummaryWriter) -> None:
        model = self.sampling_model
        training = model.training
        model.eval()
        scores = validate(model)
        for name, value in scores.items():
            writer.add_scalar(f"val/{name}", value, self.step)
        validate.show(writer, self.step)
        model.train(training)
        if self.best is None or scores["score"] < self.best["score"]:
            self.best = {**scores, "step": self.step}
            self._save_best()
            self.save()  # `last` remembers what to beat
        text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if name != "score")
        log.info("step %d: validation %s (best so far: step %d)", self.step, text, self.best["step"])
