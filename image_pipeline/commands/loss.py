"""What the command `loss` does: a run's own objective on a split, for one checkpoint or a range of them."""

import math
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from image_pipeline.commands.checkpoint_sweep import Saved, checkpoints_of
from image_pipeline.commands.flags import Loss
from image_pipeline.data import ImageBatch, to_range
from image_pipeline.model import ImageModel
from image_pipeline.models.loading import load_model, open_own_data
from pcdiff.errors import escaped
from pcdiff.evaluation.job import Places, finish
from pcdiff.runtime import distributed, rng, run_folder
from pcdiff.runtime.devices import prepare, resolve_device
from pcdiff.runtime.progress import bar
from pcdiff.runtime.resumable import ResumableMap
from pcdiff.training.checkpoint import locate


def loss(command: Loss) -> dict[str, Any] | None:
    """Return the losses by checkpoint, or None when a limit or a signal stopped the work; print and write them.

    Raises:
        InputError: a flag or the run does not fit, or the data are others.
    """
    with distributed.joined(), run_folder.logging_to(None):
        return _loss(command)


def _loss(command: Loss) -> dict[str, Any] | None:
    device = prepare(resolve_device(command.device))
    chosen: list[Saved] | None = None
    if command.checkpoints is not None:
        chosen = checkpoints_of(command.run, command.checkpoints)
    files = [command.run] if chosen is None else [saved.file for saved in chosen]
    first = load_model(files[0], command.checkpoint)
    dataset = open_own_data(first, command.split, "--run a run of ours, whose data are there")
    count = len(dataset) if command.num_images is None else min(command.num_images, len(dataset))
    blocks = list(torch.arange(count).split(command.batch_size))
    settings = {
        "checkpoints": [sha256(locate(file, command.checkpoint).read_bytes()).hexdigest() for file in files],
        "images": [dataset.identity.fingerprint, command.split, count],
        **{name: getattr(command, name) for name in ("repeats", "batch_size", "seed")},
    }

    def of_batch(model: ImageModel, rows: torch.Tensor) -> np.ndarray:
        images = to_range(dataset.images[rows], model.config.data.data_range).to(device)
        labels = None if dataset.labels is None else dataset.labels[rows].to(device)
        batch, values = ImageBatch(images, labels), []
        for repeat in range(command.repeats):
            generator = rng.generator(command.seed, "loss", int(rows[0]), repeat, device=device)
            with torch.no_grad():
                terms = model.loss_terms(batch, **model.draw(batch, len(rows), generator))
            values.append([float(value) for value in terms.values()])
        return np.mean(values, axis=0)

    def block_of(model: ImageModel, rows: torch.Tensor) -> tuple[np.ndarray]:
        return (of_batch(model, rows),)

    def job(work: ResumableMap) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with bar("loss", "batch") as progress:
            for k, file in enumerate(files):
                model = load_model(file, command.checkpoint).to(device)
                rows = []
                for index, (values,) in enumerate(work.map(f"loss {k}", blocks, partial(block_of, model))):
                    rows.append(values)
                    progress(k * len(blocks) + index + 1, len(files) * len(blocks))
                found[str(model.file)] = _summed(model, np.array(rows), blocks)
        if command.output is not None and distributed.rank() == 0:
            facts = {"dataset": dataset.identity.to_dict(), "split": command.split, "images": count}
            facts |= {"repeats": command.repeats, "seed": command.seed}
            run_folder.write_json(command.output, {"losses": found, **facts})
        return found

    found = finish(command, Places(command.output), settings, job)
    if found is None or distributed.rank() > 0:
        return found
    for file, values in found.items():
        terms = ", ".join(f"{name} {value:.5g}" for name, value in values["terms"].items())
        error = values["standard_error"]
        spread = "" if error is None else f" (standard error {error:.2g})"
        where = file if command.output is None else f"{file} -> {command.output}"
        line = f"loss: step {values['step']}, {terms}{spread} over {count} images of split {command.split}: {where}"
        print(escaped(line))
    return found


def _summed(model: ImageModel, rows: np.ndarray, blocks: list[torch.Tensor]) -> dict[str, Any]:
    """Return the mean of every term over the images, and the standard error of the loss over the batches."""
    sizes = np.array([len(block) for block in blocks], dtype=np.float64)
    means = (rows * sizes[:, None]).sum(axis=0) / sizes.sum()
    objectives = model.config.objective.objectives
    names = ["loss", *(objectives if len(objectives) > 1 else ())]
    error = None
    if len(blocks) > 1:
        # batches are weighed by their images
        variance = (sizes * (rows[:, 0] - means[0]) ** 2).sum() / sizes.sum() / (len(blocks) - 1)
        error = math.sqrt(variance)
    return {
        "step": model.metadata.get("step"),
        "terms": dict(zip(names, means.tolist(), strict=True)),
        "standard_error": error,
    }
