"""Train a classifier of noisy images for a trained model, with the trainer that all have."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from image_pipeline.configs.classifier import (
    ClassifierObjectiveConfig,
    ClassifierRunConfig,
    read_classifier_config,
)
from image_pipeline.configs.config import DataConfig, from_json
from image_pipeline.data import RANGES, ImageBatch, ImageDataset, to_range
from image_pipeline.data.image_files import check_shape
from image_pipeline.data.splits import open_data
from image_pipeline.interop import native
from image_pipeline.models.loading import load_model
from image_pipeline.models.noisy_classifier import KIND, Guided, NoisyClassifier
from image_pipeline.training.setup import TrainingImages, check_run, cpu_threads
from pcdiff.errors import InputError
from pcdiff.runtime import distributed, rng, run_folder
from pcdiff.runtime.devices import resolve_device
from pcdiff.runtime.invocation import command_line
from pcdiff.runtime.paths import is_file
from pcdiff.runtime.progress import bar
from pcdiff.runtime.stopping import Stop, Stopped, interruptible
from pcdiff.training import Trainer, checkpoint, job

_CHUNK = 64
_DRAWS = 4  # times and noises of each held-out image


@dataclass
class ClassifierValidation:
    """The mean cross-entropy of held-out images is the score; the same draws every time.

    Args:
        dataset: images with classes.
        data_range: of the model.
        seed: of the draws.
        device: where the model is.
        stop: asked after every batch; by default a validation is never given up.
    """

    dataset: ImageDataset
    data_range: str
    seed: int
    device: torch.device
    stop: Stop | None = None

    @torch.no_grad()
    def __call__(self, model: NoisyClassifier) -> dict[str, float]:
        """Return the cross-entropy as `loss` and `score`, and the `accuracy` over all times.

        Raises:
            Stopped: `stop` said so.
        """
        count, sums = len(self.dataset), {"loss": 0.0, "accuracy": 0.0}
        with bar("validation", "image") as progress:
            for first in range(0, count, _CHUNK):
                rows = min(_CHUNK, count - first)
                terms = self._terms(model, first, rows)
                sums = {name: sums[name] + terms[name] * rows / count for name in sums}
                progress(first + rows, count)
                if self.stop is not None and distributed.agreed(self.stop()):  # all processes do the same here
                    raise Stopped
        return {**sums, "score": sums["loss"]}

    @torch.no_grad()
    def seconds(self, model: NoisyClassifier) -> float:
        """Estimate the seconds that a validation of `model` takes."""
        rows = min(_CHUNK, len(self.dataset))
        start = time.perf_counter()
        self._terms(model, 0, rows)
        return (time.perf_counter() - start) * len(self.dataset) / rows

    def _terms(self, model: NoisyClassifier, first: int, count: int) -> dict[str, float]:
        rows = torch.arange(first, first + count)
        images: Tensor = to_range(self.dataset.images[rows], self.data_range).to(self.device)
        batch, sums = ImageBatch(images, self.dataset.labels[rows].to(self.device)), {"loss": 0.0, "accuracy": 0.0}
        for k in range(_DRAWS):
            generator = rng.generator(self.seed, "validation", first, k, device=self.device)
            terms = model.loss_terms(batch, **model.draw(batch, count, generator))
            sums = {name: sums[name] + float(terms[name]) / _DRAWS for name in sums}
        return sums

    def show(self, writer: SummaryWriter, step: int) -> None:
        """There is nothing to show beside the scores."""


def train_classifier(config: ClassifierRunConfig) -> None:
    """Load the model's facts and the data, train, and log how to guide by it.

    Raises:
        InputError: flags, data or the run do not fit.
        TrainingDiverged: the loss is not finite any more.
    """
    _check(config)
    with distributed.joined(), cpu_threads(config.threads), interruptible(config.train.max_minutes) as stop:
        _train(config, stop)


def _check(config: ClassifierRunConfig) -> None:
    check_run(config)
    if config.run is None:
        raise InputError("--run must be given: the model that the classifier will guide")
    if config.train.budget_minutes is not None:
        raise InputError("--budget-minutes plans score models; take --max-minutes for a classifier")
    if config.data.augment is not None:
        raise InputError(
            "--augment needs a net that takes augmentation labels, which a classifier does not; take --flip"
        )


def _train(config: ClassifierRunConfig, stop: Stop) -> None:
    with stop.at_once():  # there is nothing to save yet
        model, images, device = _parts(config)
    config, folder = run_folder.open_run(config, "classifier", read_classifier_config)
    with run_folder.logging_to(folder), run_folder.alone_in(folder):
        images.log()
        facts = {"class_names": list(images.used.class_names), "guides": model.guided.to_dict()}
        metadata = job.metadata(config, images.used.identity.to_dict(), kind=KIND, **facts)
        validation = ClassifierValidation(images.held_out, config.data.data_range, config.seed, device, stop)
        trainer = Trainer(model, images.batches, config.train, folder, metadata, config.seed, device, validation)
        job.resume(trainer, f"classifier for {config.run}")
        outcome = job.fit(config, trainer, "images", stop)
        if outcome.reason != "interrupted" and distributed.rank() == 0:
            run_folder.log.info(
                "guide by it with: %s --run %s --classifier %s --output classes.png",
                command_line("images class-conditional"), config.run, folder,
            )  # fmt: skip


def _parts(config: ClassifierRunConfig) -> tuple[NoisyClassifier, TrainingImages, torch.device]:
    """Make all that is trained, before there is a folder: what does not fit leaves nothing behind.

    Raises:
        InputError: data and model do not fit each other.
    """
    data, device = config.data, resolve_device(config.device)
    guided = _guided(config)
    if RANGES[data.data_range] != guided.data_range:
        low, high = guided.data_range
        raise InputError(f"--data-range must be the model's, [{low:g}, {high:g}], got {data.data_range}")
    whole = open_data(data, "train")
    if whole.num_classes is None or whole.num_classes < 2:
        raise InputError(f"{data.dataset_path}: a classifier needs images of two classes or more; see --labels")
    check_shape(data.dataset_path, whole.images.shape[1:], guided.image_shape)
    images = TrainingImages.of(config, whole, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = NoisyClassifier(config.model, guided, whole.num_classes, config.objective)
    return model, images, device


def _guided(config: ClassifierRunConfig) -> Guided:
    """Return what the classifier shares with the model: of a resumed training what it began with."""
    if config.resume is not None:
        file = config.resume / "checkpoints" / "last.safetensors"
        if is_file(file):
            _, metadata = checkpoint.read(file, ("none",))
            return Guided.from_dict(metadata.get("guides"), str(file))
    return Guided.of(load_model(config.run))


def classifier_default(run: Path | None, resume: Path | None, dataset_path: str | None) -> ClassifierRunConfig:
    """Return the config that flags start from: that of the resumed training, or what the run was trained on.

    Raises:
        InputError: no such run, or one of other people's weights, which have no record of their data, without a
            data set.
    """
    if resume is not None:
        return replace(read_classifier_config(resume), resume=resume)
    if run is None:
        return ClassifierRunConfig()
    file = checkpoint.locate(run)
    _, metadata = checkpoint.read(file, ("none",))
    if metadata.get("kind") == native.KIND:
        if dataset_path is None:
            raise InputError(f"{file}: no record of what it was trained on; give --dataset-path")
        model = load_model(run)
        draw = "log_normal" if metadata["denoiser"]["process"]["name"] == "edm" else "uniform"
        data, objective = DataConfig(data_range=model.config.data.data_range), ClassifierObjectiveConfig(draw)
        return ClassifierRunConfig(data=data, objective=objective)
    theirs = from_json(metadata.get("config"), str(file))
    times = {name: getattr(theirs.objective, name) for name in vars(ClassifierObjectiveConfig())}
    data = replace(theirs.data, augment=None)
    return ClassifierRunConfig(data=data, objective=ClassifierObjectiveConfig(**times))
