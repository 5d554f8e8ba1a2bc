"""The training loop, independent of the model and of the data."""

import logging
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pcdiff.config import TrainConfig
from pcdiff.errors import InputError
from pcdiff.runtime import distributed, rng
from pcdiff.runtime.devices import can_compile, prepare
from pcdiff.runtime.precision import autocast, resolve_precision
from pcdiff.runtime.stopping import Stop, Stopped, interruptible
from pcdiff.training import checkpoint
from pcdiff.training.checkpoint_manager import CheckpointManager
from pcdiff.training.ema import ExponentialMovingAverage
from pcdiff.training.lr_schedule import learning_rate
from pcdiff.training.micro_batches import MicroBatches
from pcdiff.training.nonfinite import NonfiniteWatch, TrainingDiverged
from pcdiff.training.protocols import Outcome, Remainder, Validation
from pcdiff.training.resume_checks import check_adam, optimizer_state, progress_of
from pcdiff.training.stopping import StopConditions
from pcdiff.training.tensorboard import TensorBoardScalars
from pcdiff.training.time_reserve import TimeReserve

log = logging.getLogger("pcdiff")

# Below this, fp16 gradients overflow whatever they are scaled by.
_SMALLEST_SCALE = 2.0**-14


@dataclass
class Trainer:
    """Train `model` on `batches` and keep its run's folder up to date.

    Resumed equals uninterrupted, bit for bit on the CPU: a step's data and noise depend on the seed and the step
    alone, and the checkpoint carries weights, average, optimizer and best score. Several processes (`torchrun`)
    share each batch, and reach what one reaches but for the rounding of sums.

    Args:
        model: a module with `draw` and `loss_terms` (see `Trainable`).
        batches: `batches(step, rows) -> batch`, the slice `rows` of the step's batch, on `device`.
        config: how to train; `batch_size` is that of the whole batch.
        folder: the run's folder.
        metadata: JSON-ready facts that every checkpoint carries (config, data set); none by default. A data set's
            identity under `dataset`, with the key `fingerprint`, is compared when a run continues.
        seed: the run's seed.
        device: where to train; the CPU by default.
        validate: scores the model now and then; the score decides which checkpoint is `best`.
        optimizer: of the model's parameters; Adam with the config's settings by default. Learning
            rates of one's own rise and fall with the schedule, in their proportion to `config.lr`.
    """

    model: nn.Module
    batches: Any
    config: TrainConfig
    folder: Path
    metadata: dict[str, Any] = field(default_factory=dict)
    seed: int = 2020
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    validate: Validation | None = None
    optimizer: Any = None
    step: int = field(default=0, init=False)
    best: dict[str, float] | None = field(default=None, init=False)

    def __post_init__(self):
        config = self.config
        self.model.to(self.device)
        decay = config.ema_decay
        self.ema = None if decay is None else ExponentialMovingAverage(self.model, decay)
        self.parts = MicroBatches(self.model, config.batch_size, config.accumulate, self.device)
        self._adam = self.optimizer is None
        if self.optimizer is None:
            self.optimizer = torch.optim.Adam(
                self.model.parameters(),
                lr=config.lr,
                betas=(config.adam_beta1, config.adam_beta2),
                weight_decay=config.weight_decay,
                fused=True,
            )
        self._lr_scales = [group["lr"] / config.lr for group in self.optimizer.param_groups]
        self.precision = resolve_precision(config.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.checkpoints = CheckpointManager(self.folder / "checkpoints", config.keep)
        self.watch = NonfiniteWatch(self.device)
        self.stale = 0  # validations in a row that were no better than the best
        self.validated = 0  # the step of the last validation

    @property
    def sampling_model(self) -> nn.Module:
        """The model to score and sample: the moving average where one is kept."""
        return self.model if self.ema is None else self.ema.model

    def save(self) -> None:
        """Write `last`: all that is needed to continue. Of several processes the first one writes.

        Raises:
            InputError: it cannot be written; the previous one is untouched.
        """
        if distributed.rank() > 0:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{k}": v for k, v in self.ema.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            kept = {k: v for k, v in state.items() if v is not None}
            tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in kept.items()}
        self.checkpoints.save(tensors, self._metadata())

    def _metadata(self) -> dict[str, Any]:
        progress = {"step": self.step, "best": self.best, "stale": self.stale, "validated": self.validated}
        return {**self.metadata, **progress, "scaler": self.scaler.state_dict()}

    def restore(self) -> None:
        """Go back to the newest checkpoint that is whole.

        Raises:
            InputError: there is none, it does not fit the model or the data set, or it is past the last step.
        """
        path, tensors, metadata = self.checkpoints.newest()
        there = progress_of(metadata, path)
        if there.step > self.config.max_iters:
            raise InputError(f"max_iters {self.config.max_iters}: {path} is at step {there.step} already")
        was, now = there.dataset, self.metadata.get("dataset")
        if was and now and was.get("fingerprint") != now.get("fingerprint"):
            raise InputError(f"{path}: was trained on {was}, got {now}; give the run its own data set")
        checkpoint.load_weights(self.model, tensors, "model.", str(path))
        if self.ema is not None:
            checkpoint.load_weights(self.ema.model, tensors, "ema.", str(path))
        parameters = list(self.model.parameters())
        state = optimizer_state(tensors, parameters, path)
        if there.step > 0 and self._adam and len(state) != len(parameters):
            raise InputError(f"{path}: has no optimizer state (a copy of `best`?), so it cannot be resumed")
        if self._adam:
            check_adam(state, path)
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        self.step, self.best = there.step, there.best
        self.stale, self.validated = there.stale, there.validated
        if there.scaler:
            self.scaler.load_state_dict(there.scaler)

    def train_step(self) -> dict[str, Tensor]:
        """Make one optimizer step; return the loss terms, gradient norm and learning rate.

        A step whose loss or gradient is not finite leaves weights and buffers as they were.
        """
        lr = learning_rate(self.step, self.config)
        for group, scale in zip(self.optimizer.param_groups, self._lr_scales, strict=True):
            group["lr"] = lr * scale
        # Random numbers from the global generator, such as dropout's: keyed by step and process.
        torch.manual_seed(rng.number(self.seed, "layers", self.step, distributed.rank()))
        buffers = [b for b in self.model.buffers() if b.is_floating_point()]
        before = torch._foreach_clone(buffers) if buffers else []
        self.optimizer.zero_grad()
        parts, draws = [], None
        for k, rows in enumerate(self.parts.rows):
            batch = self.batches(self.step, rows)
            draws = self._draws(self.step, batch) if draws is None else draws
            parts.append(self._backward(k, batch, draws))
        terms = {name: reduce(torch.add, (part[name] for part in parts)) / len(parts) for name in parts[0]}
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        # In fp16 a gradient that overflows is the scaler's affair.
        seen = terms if self.scaler.is_enabled() else terms | {"gradient_norm": norm}
        left_out = self.watch.see(self.step, seen)
        if distributed.world_size() > 1:  # the same steps everywhere: all processes see the same gradient
            left_out = 1 - norm.isfinite().float()
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif all(group.get("fused") for group in self.optimizer.param_groups):
            self.optimizer.found_inf = left_out  # on the device: nobody waits for it
            self.optimizer.step()
        elif not left_out > 0:
            self.optimizer.step()
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(torch.where(left_out > 0, old, buffer))
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        self.step += 1
        return terms | {"gradient_norm": norm, "learning_rate": torch.tensor(lr)}

    def _backward(self, part: int, batch: Any, draws: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the gradients of a part's rows to the parameters'; return its loss terms."""
        with self.parts.exchanging(part):
            with autocast(self.precision, self.device):
                terms = self.parts.terms(batch, draws, part)
            self.scaler.scale(terms["loss"] / len(self.parts.rows)).backward()
        return {name: value.detach() for name, value in terms.items()}

    def _draws(self, step: int, like: Any) -> dict[str, Tensor]:
        """Return all that is random in a step's loss, for the whole batch, whose rows are like those of `like`."""
        generator = rng.generator(self.seed, "train", step, device=self.device)
        return self.model.draw(like, self.config.batch_size, generator)

    def prepare(self) -> None:
        """Prepare for steps: training mode, freed memory kept, the model compiled if the config asks for it."""
        self.model.train()
        prepare(self.device)
        if self.config.compile and can_compile(self.device):
            self.model.compile(mode=self.config.compile_mode)

    def fit(self, stop: Stop | None = None, remainder: Callable[[nn.Module], Remainder] | None = None) -> Outcome:
        """Train until `max_iters`, a limit or a signal; save at the end in every case.

        Args:
            stop: the signals and the time of the whole call, of which the training is a part; by default signals
                are handled during the training alone, and `max_minutes` are its own.
            remainder: `remainder(model)` estimates what follows the last step. It is asked after the first step,
                where time is limited, and the training ends early enough for it, but not before half of the time.

        Raises:
            TrainingDiverged: the loss or gradient is not finite; the last checkpoint stays as it was.
            InputError: the last save fails. A failure before that is logged, and the training continues.
        """
        self.prepare()
        writes = distributed.rank() == 0
        scalars = TensorBoardScalars(self.folder / "tensorboard" if writes else None, self.step)
        bar = tqdm(
            total=self.config.max_iters,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            mininterval=0.5 if sys.stderr.isatty() else 20.0,
            disable=not writes,
        )
        heard = interruptible(self.config.max_minutes) if stop is None else nullcontext(stop)
        with heard as stop, bar:
            limits = StopConditions(self.config, stop)
            try:
                return self._loop(limits, stop, remainder, scalars, bar)
            finally:
                scalars.close()
                limits.close()

    def _loop(
        self,
        limits: StopConditions,
        stop: Stop,
        remainder: Callable[[nn.Module], Remainder] | None,
        scalars: TensorBoardScalars,
        bar: tqdm,
    ) -> Outcome:
        start = saved = time.monotonic()
        first, paused, bad_steps = self.step, 0.0, 0
        self.ahead = TimeReserve(stop, remainder)
        reason = "finished" if self.step >= self.config.max_iters else None
        if distributed.agreed(stop.interrupted):
            reason = "interrupted"
            self._attempt(self.save, reason)
        if self._owes_validation(reason):
            reason = self._validate(scalars, reason)
        while reason is None:
            terms = self.train_step()
            logs = self.step % self.config.log_every == 0
            saves = self.step % self.config.save_every == 0
            # Reading from a GPU waits for it: there it is read only before a log entry or a checkpoint.
            if self.device.type == "cpu" or logs or saves:
                bad_steps = self._bad_steps()
                bar.set_postfix(loss=f"{float(terms['loss']):.4f}", refresh=False)
            paused += self.ahead.stepped(self.sampling_model)
            needed = self.ahead.needed(validates=self._owes_validation(None))
            reason = limits.reason(self.step, bad_steps > 0 and self.config.nonfinite == "stop", needed)
            if reason == "diverged":
                self._stop_diverged()
            bar.update()
            if logs or reason:
                scalars.add(self.step, "train", self._over_processes(terms) | {"skipped_steps": bad_steps})
            minutes = (time.monotonic() - saved) / 60
            if saves or reason or minutes >= (self.config.save_minutes or math.inf):
                scalars.flush()  # first: a run resumed from this checkpoint does not log its steps again
                self._attempt(self.save, reason)
                saved = time.monotonic()
            if self._owes_validation(reason):
                before = time.monotonic()
                reason = self._validate(scalars, reason)
                paused += self.ahead.validated(time.monotonic() - before)
        if self._bad_steps() and self.config.nonfinite == "stop":
            self._stop_diverged()
        if distributed.agreed(stop.interrupted):  # the last validation may have seen it too late
            reason = "interrupted"
        seconds = max(1e-9, time.monotonic() - start - paused)
        return Outcome(reason, self.step, (self.step - first) / seconds, self.best, self._bad_steps())

    def _over_processes(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms of the whole batch."""
        if distributed.world_size() == 1:
            return terms
        means = distributed.mean(torch.stack([value.to(self.device, torch.float32) for value in terms.values()]))
        return dict(zip(terms, means.unbind(), strict=True))

    def _attempt(self, save: Callable[[], None], reason: str | None) -> bool:
        """Save and return whether it worked; a failure in between is logged, one at the end is raised."""
        try:
            save()
        except InputError as error:
            if reason is not None:
                raise
            log.error("step %d: %s; the training continues and tries again", self.step, error)
            return False
        return True

    def _bad_steps(self) -> int:
        count, _, _ = self.watch.read()
        if self.scaler.is_enabled() and self.scaler.get_scale() < _SMALLEST_SCALE:
            return count + 1
        return count

    def _stop_diverged(self) -> None:
        """Keep the batch of the first bad step for inspection, and raise `TrainingDiverged`."""
        _, step, names = self.watch.read()
        hint = (
            f"the last checkpoint is untouched. Try a smaller --lr (now {self.config.lr}) or --max-grad-norm "
            f"(now {self.config.max_grad_norm})"
        )
        if step < 0:
            where = "in another process" if not self.scaler.is_enabled() else "in fp16, however small their scale"
            raise TrainingDiverged(f"loss or gradients not finite {where}, by step {self.step}; {hint}")
        path = self.folder / f"nonfinite-step-{step + 1}-rank-{distributed.rank()}.safetensors"
        batch = self.batches(step, slice(self.parts.rows[0].start, self.parts.rows[-1].stop))
        draws = self._draws(step, batch)
        given = {"batch": batch} if isinstance(batch, Tensor) else dict(enumerate(batch))
        tensors = {str(name): value for name, value in given.items() if value is not None} | draws
        try:
            checkpoint.save(path, tensors, {"step": step + 1, "not_finite": names})
            kept = f"Its batch and draws: {path}"
        except InputError as error:
            kept = f"Its batch is not kept: {error}"
        raise TrainingDiverged(f"{', '.join(names)} not finite at step {step + 1}; {hint}. {kept}")

    def _owes_validation(self, reason: str | None) -> bool:
        """Return whether this step is to be validated and has not been: the run may have been stopped before."""
        if not (self.validate and self.config.val_every) or reason == "interrupted" or self.validated == self.step:
            return False
        return reason is not None or self.step % self.config.val_every == 0

    def _validate(self, scalars: TensorBoardScalars, reason: str | None) -> str | None:
        """Score the model, on all processes together, and keep it if it is the best so far.

        Returns:
            Why the training ends: what is given, or `no progress`; None to continue.
        """
        if reason is not None and distributed.broadcast(self.ahead.too_late()):
            log.info("step %d: not validated, since the time is up; see --max-minutes", self.step)
            return reason
        scores = self._scores()
        if scores is None:
            interrupted = distributed.agreed(self.ahead.stop.interrupted)
            log.info("step %d: validation broken off%s", self.step, "" if interrupted else ": the time is up")
            reason = "interrupted" if interrupted else reason or "time is up"
            self._attempt(self.save, reason)
            return reason
        scalars.add(self.step, "val", scores)
        scalars.show(self.validate.show, self.step)
        scalars.flush()
        self.stale, self.validated = self.stale + 1, self.step
        if self.best is None or scores["score"] < self.best["score"]:
            before = self.best, self.stale
            self.best, self.stale = {**scores, "step": self.step}, 0
            if not distributed.broadcast(self._attempt(self._save_best, reason)):
                self.best, self.stale = before  # what is not kept is not what to beat
        self._attempt(self.save, reason)  # `last` remembers what to beat
        text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if name != "score")
        best = "none kept" if self.best is None else f"step {self.best['step']}"
        log.info("step %d: validation %s (best so far: %s)", self.step, text, best)
        return "no progress" if reason is None and 0 < self.config.patience <= self.stale else reason

    def _scores(self) -> dict[str, float] | None:
        """Return what the validation finds; None where any process gave it up."""
        model = self.sampling_model
        training = model.training
        model.eval()
        scores: dict[str, float] | None = None
        assert self.validate is not None  # `fit` comes here only with one
        with suppress(Stopped):
            scores = self.validate(model)
        model.train(training)
        return distributed.broadcast(None if distributed.agreed(scores is None) else scores)

    def _save_best(self) -> None:
        if distributed.rank() == 0:
            tensors = {f"model.{k}": v for k, v in self.sampling_model.state_dict().items()}
            self.checkpoints.save_best(tensors, self._metadata())
