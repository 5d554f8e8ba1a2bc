"""Train a score model on images, with the trainer that point clouds have."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from image_pipeline.configs import ImageRunConfig, preset, read_config
from image_pipeline.data import ImageBatches, ImageDataset, to_bytes
from image_pipeline.data.image_files import save_images
from image_pipeline.model import ImageModel
from image_pipeline.models.loading import hold_out, open_data
from image_pipeline.models.sampling import draw_images, seconds_to_draw
from image_pipeline.training.validation import ImageValidation
from image_pipeline.viz import save_grid
from pcdiff.config import TrainConfig, check_train, to_json
from pcdiff.diffusion import OBJECTIVES
from pcdiff.errors import InputError
from pcdiff.runtime import distributed, run_folder
from pcdiff.runtime.bounded_build import within
from pcdiff.runtime.devices import resolve_device
from pcdiff.runtime.invocation import command_line
from pcdiff.runtime.progress import bar
from pcdiff.runtime.run_folder import NOWHERE
from pcdiff.runtime.stopping import Stop, interruptible
from pcdiff.training import Keeper, Outcome, Trainer, job
from pcdiff.training.budget_plan import with_plan
from pcdiff.training.closing import Closing, told_how_to_go_on
from pcdiff.training.dry_run import try_out
from pcdiff.version import __version__


def train(config: ImageRunConfig) -> None:
    """Load, train, validate on held-out images, draw samples in the end.

    Raises:
        InputError: a config that cannot be, data that do not fit it, or a run that is not this one.
        TrainingDiverged: the loss is not finite any more.
    """
    check(config)
    with distributed.joined(), cpu_threads(config.threads), interruptible(config.train.max_minutes) as stop:
        _train(config, stop)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with so many CPU threads for as long as this lasts; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(config: ImageRunConfig) -> None:
    """Refuse values that no run can have, before anything is read.

    Raises:
        InputError: names the field, what was expected and what came.
    """
    check_train(config.train)
    for name, least in (("num_samples", 1), ("seed", 0), ("threads", 1)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    twice = [
        name for name in config.objective.objectives if getattr(OBJECTIVES.get(name), "second_derivative", False)
    ]
    if config.train.compile and twice:
        raise InputError(
            f"objective {twice[0]!r} takes a second derivative, which a compiled net has not; leave out --compile"
        )
    if config.data.held_out < 0:
        raise InputError(f"held_out must not be negative, got {config.data.held_out}")


def _train(config: ImageRunConfig, stop: Stop) -> None:
    started, name = time.monotonic(), f"drawing {config.num_samples} images"
    closing = Closing(stop, {name: lambda model: seconds_to_draw(model, config.num_samples)})
    with stop.at_once():  # there is nothing to save yet
        used, held_out, parts = _parts(config, stop)
        if config.dry_run:
            config = _planned(config, NOWHERE, started, closing.seconds, *parts[1:])
            found = f"{len(used)} to train on, {held_out} held out ({used.identity.name}, {used.identity.splits})"
            try_out(config, preset(config.preset), found, make_trainer(config, NOWHERE, *parts), "images")
            return
    config, folder = run_folder.open_run(config, "images", read_config)
    with run_folder.logging_to(folder), run_folder.alone_in(folder):
        identity = used.identity
        run_folder.log.info(
            "data: %s, %d images %s, %d held out (%s)", identity.name, len(used), identity.shape, held_out,
            identity.splits,
        )  # fmt: skip
        if used.enlarged is not None:
            run_folder.log.warning("%s", used.enlarged)
        config = _planned(config, folder, started, closing.seconds, *parts[1:])
        trainer = make_trainer(config, folder, *parts)
        parameters = sum(p.numel() for p in trainer.model.parameters())
        run_folder.log.info("model: %s, %s parameters, on %s", config.net, f"{parameters:,}", parts[3])
        if trainer.keeper.exists():
            trainer.restore()
            run_folder.log.info("resumed at step %d", trainer.step)
        outcome = job.fit(config, trainer, "images", stop, closing.seconds)
        if outcome.reason == "interrupted":
            return
        with told_how_to_go_on(folder):
            model = trainer.sampling_model.eval()
            draws = f"{command_line('images sample')} --run {folder} draws them"
            drawn = closing.phase(name, lambda: _draw(config, model, stop), draws)
            if distributed.rank() == 0:
                _keep(config, folder, drawn, outcome, used)


def _parts(config: ImageRunConfig, stop: Stop) -> tuple[ImageDataset, int, tuple[Any, ...]]:
    """Return the images to train on, how many are held out, and what `make_trainer` takes.

    All is made before there is a folder: what does not fit leaves nothing behind.
    """
    data, device = config.data, resolve_device(config.device)
    whole = open_data(data, "train")
    used, kept = hold_out(whole, data.held_out)
    batches = ImageBatches(
        used,
        config.train.batch_size,
        config.seed,
        device,
        flip=data.flip,
        data_range=data.data_range,
        dequantise=data.dequantise,
        augment=data.augment,
    )
    if config.train.val_every and not len(kept):
        few = f"one in ten of {len(whole)} training images is none: give 10 or more"
        why = "--held-out 0 leaves none" if data.held_out == 0 else few
        raise InputError(f"no image is held out for the validation: {why}, or take --val-every 0")
    validation = ImageValidation(kept, config.seed, device, stop=stop)
    return used, len(kept), (make_model(config, used), batches, used, device, validation)


def _planned(
    config: ImageRunConfig,
    folder: Path,
    started: float,
    closing: Callable[[nn.Module], float],
    batches: ImageBatches,
    dataset: ImageDataset,
    device: torch.device,
    validate: ImageValidation,
) -> ImageRunConfig:
    """Return the config with the plan that its budget of time asks for; one without a budget as it is."""

    def fresh(train: TrainConfig) -> Trainer:
        parts = make_model(config, dataset), batches, dataset, device, validate
        return make_trainer(replace(config, train=train), NOWHERE, *parts)

    return with_plan(config, folder, device, fresh, closing, started)


def make_model(config: ImageRunConfig, dataset: ImageDataset) -> ImageModel:
    """Build the model from the run's seed.

    Raises:
        InputError: the config does not fit the images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        budget = Keeper((config.resume or config.out or NOWHERE) / "checkpoints").budget()
        model = within(budget, lambda: ImageModel(config, dataset.images.shape[1:]))
    if model.num_classes is not None and dataset.num_classes != model.num_classes:
        raise InputError(
            f"the net is conditioned on {model.num_classes} classes, "
            f"the images have {dataset.num_classes or 'none'}; "
            + (
                "take --model.num-classes None, and --model.no-null-class"
                if dataset.num_classes is None
                else f"take --model.num-classes {dataset.num_classes}"
            )
        )
    model.check_sampling()
    return model


def make_trainer(
    config: ImageRunConfig,
    folder: Path,
    model: ImageModel,
    batches: ImageBatches,
    dataset: ImageDataset,
    device: torch.device,
    validate: ImageValidation | None = None,
) -> Trainer:
    """Return the model's trainer."""
    metadata: dict[str, Any] = {
        "config": json.loads(to_json(config)),
        "dataset": {**dataset.identity.to_dict(), "class_names": list(dataset.class_names)},
        "version": __version__,
    }
    return Trainer(model, batches, config.train, folder, metadata, config.seed, device, validate)


def _draw(config: ImageRunConfig, model: ImageModel, stop: Stop) -> Tensor:
    with bar("sampling", "step") as progress:
        drawn = draw_images(model, config.num_samples, config.seed, stop=stop, progress=progress)
    return to_bytes(drawn, config.data.data_range)


def _keep(
    config: ImageRunConfig, folder: Path, images: Tensor | None, outcome: Outcome, dataset: ImageDataset
) -> None:
    """Write samples, if there are any, and what the training was."""
    training = job.training_facts(config, outcome)
    if images is not None:
        save_images(folder / "samples.npz", images)
        save_grid(folder / "samples.png", images)
        run_folder.log.info("samples: %s", folder / "samples.png")
    run_folder.write_json(
        folder / "training.json",
        {"dataset": dataset.identity.to_dict(), "training": training, "version": __version__},
    )
    run_folder.log.info("score the run with: %s --run %s", command_line("images evaluate"), folder)
