"""For notebooks: a trainer with defaults for all that is not given, and scores in one call."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pcdiff.config import DataConfig, PartialConfig, RunConfig, TrainConfig, check_train, to_json
from pcdiff.data import Batches, CloudDataset, PartialClouds, partial_of_run, partial_set
from pcdiff.errors import InputError
from pcdiff.metrics import evaluate as evaluate_sets
from pcdiff.models import Completion, PointCloudModel
from pcdiff.ops.normalization import PART_MODES, SHARED_MODES
from pcdiff.runtime import rng
from pcdiff.runtime.cloud_batch import CloudBatch
from pcdiff.runtime.devices import resolve_device
from pcdiff.runtime.run_folder import write_config
from pcdiff.training.protocols import Outcome, Validation
from pcdiff.training.trainer import Trainer as TrainingLoop
from pcdiff.training.validation import CompletionValidation, GeneratorValidation
from pcdiff.version import __version__


class LoaderBatches:
    """A DataLoader's batches as a function of the step, so that a resumed training sees what it would have seen.

    An epoch's order and what is drawn for each batch come from torch's random state, or a generator of the loader's
    own, set by (seed, step); after a resume the epoch's first batches are read again and dropped.

    Args:
        loader: yields clouds `(B, N, 3)`, or tuples and lists that begin with them; has a length.
        seed: of the order.
        device: where the batches appear.
        with_labels: the clouds' labels `(B,)` come second; batches are `CloudBatch`es.

    Raises:
        InputError: the loader has no length or no batches, or its last batch is smaller than the others.
    """

    def __init__(self, loader: Any, seed: int, device: torch.device, with_labels: bool = False):
        if not hasattr(loader, "__len__") or len(loader) == 0:
            raise InputError(
                "data must be clouds (n, P, 3), a CloudDataset, or a DataLoader with batches and a length"
            )
        size = getattr(loader, "batch_size", None)
        if size and not getattr(loader, "drop_last", True) and (left := len(loader.dataset) % size):
            raise InputError(f"the DataLoader's last batch holds {left} of {size} clouds; give it drop_last=True")
        self.loader, self.seed, self.device, self.with_labels = loader, seed, device, with_labels
        self.steps_per_epoch = float(len(loader))
        self._at, self._last, self._labels = -1, torch.empty(0), torch.empty(0)
        self._batches: Iterator[Any] = iter(())

    def __call__(self, step: int, rows: slice = slice(None)) -> Tensor | CloudBatch:
        """Return the batch of a step, or those rows of it.

        Raises:
            InputError: it holds another number of clouds than the one before, or labels are missing.
        """
        if step != self._at:
            index = step % len(self.loader)
            first = step if step == self._at + 1 and index else step - index
            for at in range(first, step + 1):
                batch = self._next(at)
            if self.with_labels:
                if not isinstance(batch, tuple | list) or len(batch) < 2:
                    raise InputError(
                        "the DataLoader's batches must be (clouds, labels) for a class-conditional model, got "
                        f"{type(batch).__name__}"
                    )
                self._labels = torch.as_tensor(batch[1], device=self.device)
            batch = torch.as_tensor(batch[0] if isinstance(batch, tuple | list) else batch, device=self.device)
            if self._at >= 0 and len(batch) != len(self._last):
                raise InputError(
                    f"the DataLoader's batches must be of one size, got {len(self._last)} and {len(batch)}"
                )
            self._last, self._at = batch, step
        return CloudBatch(self._last[rows], self._labels[rows]) if self.with_labels else self._last[rows]

    def _next(self, step: int) -> Any:
        number = rng.number(self.seed, "loader", step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            if step % len(self.loader) == 0:
                if getattr(self.loader, "generator", None) is not None:
                    self.loader.generator.manual_seed(number)
                self._batches = iter(self.loader)
            return next(self._batches)


class Trainer:
    """Train a model of clouds, and keep a run's folder that `pcdiff.load`, `evaluate.py` and a resume understand.

    Args:
        model: of `pcdiff.models`, or any module with `draw` and `loss_terms`, which `pcdiff.load` cannot rebuild.
        data: clouds `(n, P, 3)` as an array or a tensor, a `CloudDataset`, or a DataLoader of batches `(B, N, 3)`,
            for a completion model with the given points first. For a class-conditional model a `CloudDataset`,
            whose categories are its classes, or a DataLoader of pairs, clouds and labels.
        folder: the run's; made by `fit`.
        steps: optimizer steps in all.
        batch_size: clouds of a batch; of a DataLoader its own.
        num_points: points drawn of each cloud; all, at most 2048, by default. A DataLoader draws its own.
        optimizer: of the model's parameters; Adam by default.
        validation: clouds to score samples against, or a `Validation`; none by default.
        partial: how clouds are cut for a completion model; by what a random viewpoint sees by default. A
            `CloudDataset` in a normalization of each cloud by itself is normalized by the given points.
        seed: of every random draw.
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, ...
        resume: resume the run in the folder.
        **settings: fields of `pcdiff.config.TrainConfig`, such as `lr`, `ema_decay`, `save_every`, `precision`.

    Raises:
        InputError: unknown settings or values out of range; data of another shape; a folder that holds a run
            already, without `resume`, or no run, with it.

    Example:
        >>> import pcdiff
        >>> model = pcdiff.models.Direct(process="edm")
        >>> trainer = pcdiff.Trainer(model, np.random.rand(8, 32, 3), "runs/mine", steps=2, batch_size=4)
        >>> trainer.fit().reason
        'finished'
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        folder: str | Path,
        steps: int = 10_000,
        *,
        batch_size: int = 32,
        num_points: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        validation: Any = None,
        partial: PartialConfig | None = None,
        seed: int = 2020,
        device: str = "auto",
        resume: bool = False,
        **settings: Any,
    ):
        self.model, self.folder = model, Path(folder)
        where = resolve_device(device)
        self.config = _train_config(steps, batch_size, settings)
        points, identity, normalization, statistics = _described(data)
        cut = None
        if isinstance(model, Completion):
            if normalization not in SHARED_MODES:
                normalization = PART_MODES[0] if normalization not in PART_MODES else normalization
            cut = partial_of_run(model.config.num_given, partial or PartialConfig(), normalization)
        names = model.config.class_names if isinstance(model, PointCloudModel) else ()
        if points is None:
            batches: Any = LoaderBatches(data, seed, where, with_labels=bool(names))
        else:
            taken = min(points.shape[1], 2048) if num_points is None else num_points
            labels = _labels(data, names)
            batches = Batches(points, self.config.batch_size, taken, seed, where, partial=cut, labels=labels)
            if labels is not None:
                model.set_class_counts(labels)
        like = batches(0)
        like = like.points if isinstance(like, CloudBatch) else like
        self.config = replace(self.config, batch_size=len(like))
        facts: dict[str, Any] = {"dataset": identity, "statistics": statistics, "version": __version__}
        self.run = None
        if isinstance(model, PointCloudModel):
            self.run = RunConfig(
                preset="own",
                seed=seed,
                model=model.config,
                process=model.process_config,
                objective=model.objective_config,
                sampling=model.sampling_config,
                data=DataConfig(
                    normalization=normalization, num_points=like.shape[1], partial=partial or PartialConfig()
                ),
                train=self.config,
            )
            facts["config"] = json.loads(to_json(self.run))
        scored = _validation(validation, seed, cut, names)
        self.loop = TrainingLoop(model, batches, self.config, self.folder, facts, seed, where, scored, optimizer)
        if resume:
            self.loop.restore()
        elif self.loop.checkpoints.exists():
            raise InputError(f"{self.folder}: holds a run already; resume=True continues it")

    def fit(self) -> Outcome:
        """Train to the last step, or to a signal; see `pcdiff.training.Trainer.fit`."""
        if self.run is not None:
            write_config(self.folder, self.run)
        return self.loop.fit()


def evaluate(samples: Any, reference: Any, **options: Any) -> dict[str, Any]:
    """Score generated clouds against a reference set; see `pcdiff.metrics.evaluate`.

    Args:
        samples: clouds `(n, P, 3)`.
        reference: clouds `(n, Q, 3)`, or a `CloudDataset`, whose normalized clouds are taken: as many as samples.
        **options: of `pcdiff.metrics.evaluate`, such as `protocol`, `train` and `num_points`.

    Example:
        >>> import pcdiff
        >>> result = pcdiff.evaluate(np.random.rand(4, 32, 3), reference=np.random.rand(4, 32, 3))
        >>> sorted(result["scores"])[:3]
        ['1-NNA-CD', '1-NNA-EMD', 'COV-CD']
    """
    if isinstance(reference, CloudDataset):
        reference = reference.points[: len(samples)]
    if isinstance(options.get("train"), CloudDataset):
        options["train"] = options["train"].points
    return evaluate_sets(samples=samples, reference=reference, **options)


def _train_config(steps: int, batch_size: int, settings: dict[str, Any]) -> TrainConfig:
    usual = {
        "lr": 1e-3,
        "end_lr": 1e-5,
        "lr_decay_start": 0,
        "lr_decay_end": steps,
        "save_every": max(1, min(1000, steps // 4)),
        "log_every": 20,
        "val_every": max(1, steps // 4),
    }
    known = TrainConfig.__dataclass_fields__
    if unknown := sorted(set(settings) - set(known)):
        raise InputError(f"settings must be fields of TrainConfig, {sorted(known)}, got {unknown}")
    config = TrainConfig(**{**usual, **settings, "max_iters": steps, "batch_size": batch_size})
    check_train(config)
    return config


def _described(data: Any) -> tuple[Tensor | None, dict[str, Any], str, dict[str, Any]]:
    """Return clouds (None of a DataLoader), what they are, their normalization, and what it took from them."""
    if isinstance(data, CloudDataset):
        return data.points, data.identity.to_dict(), data.normalization, data.statistics
    if isinstance(data, np.ndarray | Tensor):
        points = torch.as_tensor(data).float().cpu()
        digest = hashlib.sha256(points.numpy().tobytes()).hexdigest()[:16]
        return points, _identity("an array", digest), "none", {}
    return None, _identity("a DataLoader", None), "none", {}


def _identity(name: str, fingerprint: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": name, "stand_in": False, "categories": []}
    return facts if fingerprint is None else facts | {"fingerprint": fingerprint}


def _validation(validation: Any, seed: int, cut: PartialClouds | None, names: Sequence[str]) -> Validation | None:
    if validation is None or callable(validation):
        return validation
    clouds = validation.points if isinstance(validation, CloudDataset) else torch.as_tensor(validation).float()
    points = min(clouds.shape[1], 2048)
    if cut is not None:
        return CompletionValidation(partial_set(clouds, cut, seed).points[:, :points], cut.num_given, seed)
    return GeneratorValidation(clouds, points, seed, labels=_labels(validation, names))


def _labels(data: Any, names: Sequence[str]) -> Tensor | None:
    """Return the labels of clouds among the names of a model's classes; None where it has none.

    Raises:
        InputError: the clouds have no categories, or others than the classes.
    """
    if not names:
        return None
    if not isinstance(data, CloudDataset):
        raise InputError(
            f"a class-conditional model needs clouds with categories, a CloudDataset, got a {type(data).__name__}"
        )
    return data.labels(names)
