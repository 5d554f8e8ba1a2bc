"""Train a score model on images, with the trainer that point clouds have."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from image_pipeline.configs import ImageRunConfig, preset, read_config
from image_pipeline.data import ImageDataset, to_bytes
from image_pipeline.data.image_files import save_images
from image_pipeline.data.splits import open_data
from image_pipeline.model import ImageModel
from image_pipeline.models.sampling import draw_images, seconds_to_draw
from image_pipeline.training.setup import TrainingImages, check_run, cpu_threads
from image_pipeline.training.validation import ImageValidation
from image_pipeline.viz import save_grid
from pcdiff.config import TrainConfig
from pcdiff.diffusion import OBJECTIVES
from pcdiff.errors import InputError
from pcdiff.runtime import distributed, run_folder
from pcdiff.runtime.devices import resolve_device
from pcdiff.runtime.invocation import command_line
from pcdiff.runtime.memory_limit import within
from pcdiff.runtime.progress import bar
from pcdiff.runtime.run_folder import NOWHERE
from pcdiff.runtime.stopping import Stop, interruptible
from pcdiff.training import CheckpointManager, Outcome, Trainer, job
from pcdiff.training.closing_phases import Closing, told_how_to_go_on
from pcdiff.training.dry_run import try_out
from pcdiff.training.job_budget import with_plan
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


def check(config: ImageRunConfig) -> None:
    """Refuse values that no run can have, before anything is read.

    Raises:
        InputError: names the field, what was expected and what came.
    """
    check_run(config)
    twice = [
        name for name in config.objective.objectives if getattr(OBJECTIVES.get(name), "second_derivative", False)
    ]
    if config.train.compile and twice:
        raise InputError(
            f"objective {twice[0]!r} takes a second derivative, which a compiled net has not; leave out --compile"
        )


@dataclass(frozen=True)
class _Parts:
    """What a training is made of, before there is a folder: what does not fit leaves nothing behind."""

    config: ImageRunConfig
    images: TrainingImages
    device: torch.device
    validation: ImageValidation

    @classmethod
    def of(cls, config: ImageRunConfig, stop: Stop) -> "_Parts":
        device = resolve_device(config.device)
        images = TrainingImages.of(config, open_data(config.data, "train"), device)
        return cls(config, images, device, ImageValidation(images.held_out, config.seed, device, stop=stop))

    def trainer(self, config: ImageRunConfig, folder: Path, model: ImageModel | None = None) -> Trainer:
        """Return the trainer of a model, a fresh one by default."""
        used = self.images.used
        model = make_model(self.config, used) if model is None else model
        dataset = {**used.identity.to_dict(), "class_names": list(used.class_names)}
        metadata = job.metadata(config, dataset)
        batches, seed = self.images.batches, config.seed
        return Trainer(model, batches, config.train, folder, metadata, seed, self.device, self.validation)

    def planned(
        self, config: ImageRunConfig, folder: Path, started: float, closing: Callable[[nn.Module], float]
    ) -> ImageRunConfig:
        """Return the config with the plan that its budget of time asks for; one without a budget as it is."""

        def fresh(train: TrainConfig) -> Trainer:
            return self.trainer(replace(config, train=train), NOWHERE)

        return with_plan(config, folder, self.device, fresh, closing, started)


def _train(config: ImageRunConfig, stop: Stop) -> None:
    started, name = time.monotonic(), f"drawing {config.num_samples} images"
    closing = Closing(stop, {name: lambda model: seconds_to_draw(model, config.num_samples)})
    with stop.at_once():  # there is nothing to save yet
        parts = _Parts.of(config, stop)
        used, held_out = parts.images.used, parts.images.held_out
        model = make_model(config, used)
        if config.dry_run:
            config = parts.planned(config, NOWHERE, started, closing.seconds)
            found = (
                f"{len(used)} to train on, {len(held_out)} held out ({used.identity.name}, {used.identity.splits})"
            )
            try_out(config, preset(config.preset), found, parts.trainer(config, NOWHERE, model), "images")
            return
    config, folder = run_folder.open_run(config, "images", read_config)
    with run_folder.logging_to(folder), run_folder.alone_in(folder):
        parts.images.log()
        config = parts.planned(config, folder, started, closing.seconds)
        trainer = parts.trainer(config, folder, model)
        job.resume(trainer, f"model: {config.net}")
        outcome = job.fit(config, trainer, "images", stop, closing.seconds)
        if outcome.reason == "interrupted":
            return
        with told_how_to_go_on(folder):
            model = trainer.sampling_model.eval()
            draws = f"{command_line('images sample')} --run {folder} draws them"
            drawn = closing.phase(name, lambda: _draw(config, model, stop), draws)
            if distributed.rank() == 0:
                _keep(config, folder, drawn, outcome, used)


def make_model(config: ImageRunConfig, dataset: ImageDataset) -> ImageModel:
    """Build the model from the run's seed.

    Raises:
        InputError: the config does not fit the images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        budget = CheckpointManager((config.resume or config.out or NOWHERE) / "checkpoints").budget()
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
