"""Train a model of clouds; then do with it what its kind is for, and score that on the validation split."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from pcdiff.commands.partial import back, partial_clouds, unit
from pcdiff.config import RunConfig
from pcdiff.config.files import read_config
from pcdiff.config.presets import AUTOENCODER_PRESETS, GENERATOR_PRESETS, preset
from pcdiff.data import Batches, CloudDataset, announce, count_clouds, load_clouds, partial_set
from pcdiff.errors import InputError
from pcdiff.models.classes import spread
from pcdiff.runtime import distributed, run_folder
from pcdiff.runtime.devices import resolve_device
from pcdiff.runtime.run_folder import NOWHERE
from pcdiff.runtime.stopping import Stop, interruptible
from pcdiff.training import job
from pcdiff.training.after_completion import CompletionEnding
from pcdiff.training.after_training import AutoencoderEnding, GeneratorEnding
from pcdiff.training.dry_run import rehearse, tally
from pcdiff.training.job_budget import planned
from pcdiff.training.validation import AutoencoderValidation, CompletionValidation, GeneratorValidation


class Scoring(NamedTuple):
    """How a kind of model is validated, what follows its training, and the latter's further arguments."""

    validation: GeneratorValidation | AutoencoderValidation | CompletionValidation
    ending: GeneratorEnding | AutoencoderEnding | CompletionEnding
    shown: dict[str, Any]


def train_generator(config: RunConfig) -> None:
    """Load, train, sample (or complete clouds), score on the validation split."""
    score = _of_completion if config.model.kind == "completion" else _of_generator
    with distributed.joined(), interruptible(config.train.max_minutes) as stop:
        _train(config, stop, "gen", GENERATOR_PRESETS, score)


def train_autoencoder(config: RunConfig) -> None:
    """Load, train, reconstruct, score on the validation split."""
    with distributed.joined(), interruptible(config.train.max_minutes) as stop:
        _train(config, stop, "ae", AUTOENCODER_PRESETS, _of_autoencoder)


def _of_generator(config: RunConfig, clouds: CloudDataset, val: CloudDataset, stop: Stop) -> Scoring:
    reference = val.points
    points = min(config.train.val_points, reference.shape[1])
    labels = _labels(config, val)
    validation = GeneratorValidation(
        reference, points, config.seed, flexibility=config.flexibility, stop=stop, labels=labels
    )
    ending = GeneratorEnding(config, clouds.identity.to_dict(), reference, points, stop, labels)
    return Scoring(validation, ending, {"beside": clouds.points})


def _of_autoencoder(config: RunConfig, clouds: CloudDataset, val: CloudDataset, stop: Stop) -> Scoring:
    given = val.points[:, : config.train.val_points]
    validation = AutoencoderValidation(given, config.seed, config.flexibility, stop)
    ending = AutoencoderEnding(config, clouds.identity.to_dict(), given, val.denormalize, stop)
    return Scoring(validation, ending, {})


def _of_completion(config: RunConfig, clouds: CloudDataset, val: CloudDataset, stop: Stop) -> Scoring:
    cut = partial_clouds(config)
    assert cut is not None
    points = min(config.train.val_points, val.points.shape[1])
    held = partial_set(val.points, cut, config.seed)
    given = held.points[:, :points]
    validation = CompletionValidation(given, cut.num_given, config.seed, config.flexibility, stop)
    told = unit(config.data.normalization)
    ending = CompletionEnding(config, clouds.identity.to_dict(), given, back(held, val), told, stop)
    return Scoring(validation, ending, {})


def _with_classes(config: RunConfig, clouds: CloudDataset) -> RunConfig:
    """Return the config with the names of the classes, where the model is class-conditional.

    Raises:
        InputError: there is one category alone, which is no condition.
    """
    if not config.model.class_conditional:
        return config
    names = clouds.identity.categories
    if len(names) < 2:
        raise InputError(f"--class-conditional needs two or more --categories, got {', '.join(names)} alone")
    return replace(config, model=replace(config.model, class_names=names))


def _labels(config: RunConfig, clouds: CloudDataset) -> Tensor | None:
    """Return the labels of clouds, where the model is class-conditional."""
    return clouds.labels(config.model.class_names) if config.model.class_conditional else None


def _train(
    config: RunConfig,
    stop: Stop,
    name: str,
    presets: Mapping[str, RunConfig],
    score: Callable[[RunConfig, CloudDataset, CloudDataset, Stop], Scoring],
) -> None:
    started = time.monotonic()
    data, device = config.data, resolve_device(config.device)
    with stop.at_once():  # there is nothing to save yet
        asked = data.dataset_path, data.categories
        clouds, val = (load_clouds(*asked, split, data.normalization) for split in ("train", "val"))
        config = _with_classes(config, clouds)
        # of several categories some of each
        val = val.subset(spread(val.labels(val.identity.categories), config.train.val_clouds))
        sizes = config.train.batch_size, data.num_points, config.seed, device, data.rotate
        batches = Batches(clouds.points, *sizes, partial_clouds(config), _labels(config, clouds))
        validation, ending, shown = score(config, clouds, val, stop)
        parts = batches, clouds.identity.to_dict(), device, validation, clouds.statistics
        if config.dry_run:
            config = planned(config, NOWHERE, started, ending.seconds, *parts)
            found = tally(count_clouds(data.dataset_path, data.categories))
            rehearse(config, preset(presets, config.preset, data.categories), found, *parts)
            return
    config, folder = run_folder.open_run(config, name, read_config)
    with run_folder.logging_to(folder), run_folder.alone_in(folder):
        run_folder.log.info(announce(clouds.identity))
        config = planned(config, folder, started, ending.seconds, *parts)
        trainer = job.make_trainer(config, folder, *parts)
        outcome = job.fit(config, trainer, stop=stop, closing=ending.seconds)
        if outcome.reason != "interrupted":
            made = validation.made if trainer.validated == outcome.step else None
            ending(config, folder, trainer.sampling_model, outcome, made, **shown)
