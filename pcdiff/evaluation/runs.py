"""Score a trained run: generate, or reconstruct, and compare with a split of its data."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pcdiff import metrics
from pcdiff.config import EvaluateConfig, RunConfig
from pcdiff.errors import InputError
from pcdiff.evaluation.classes import add_classes
from pcdiff.evaluation.completions import Partial, keep_completions, scored_completions
from pcdiff.evaluation.files import asked, compared, limit, reconstructed, settings_of
from pcdiff.evaluation.job import Places, finish, generated_enough
from pcdiff.evaluation.report import picture, report
from pcdiff.metrics import fingerprint, get_protocol
from pcdiff.models import Completion, Generator, PointCloudModel
from pcdiff.models.classes import spread
from pcdiff.models.completing import check_completion, complete_chunk
from pcdiff.models.sampling import CHUNK, decoding, draw_chunk, reconstruct_chunk
from pcdiff.runtime import distributed
from pcdiff.runtime.chunks import Chunks
from pcdiff.runtime.devices import prepare, resolve_device
from pcdiff.runtime.progress import Progress, bar
from pcdiff.runtime.resumable import ResumableMap
from pcdiff.runtime.stopping import Stop, Stopped
from pcdiff.training.checkpoint import check_facts, load, locate
from pcdiff.training.job import keep_clouds


class Split(Protocol):
    """A split of a data set, as `data.load_clouds` returns it."""

    points: Tensor

    def labels(self, names: Sequence[str]) -> Tensor:
        """Return the label of each cloud's category among the names of classes."""

    def denormalize(self, points: Tensor, indices: Iterable[int]) -> Tensor:
        """Return clouds of the data set in its own unit."""

    def denormalize_generated(self, points: Tensor) -> Tensor:
        """Return generated clouds in the data set's own unit."""


def score_run(
    config: EvaluateConfig,
    run: RunConfig,
    split: Split,
    *,
    reference: Tensor,
    train: Tensor,
    dataset: dict[str, Any],
    partial: Partial | None = None,
    stop: Stop | None = None,
) -> dict[str, Any] | None:
    """Generate (reconstruct, or complete) with the model in `config.run` and score against a split.

    Args:
        config: what was asked.
        run: the run's own config.
        split: the split to compare with, in the run's normalization.
        reference: `(n, Q, 3)`, the same clouds in the data set's own unit, whatever the run's normalization: so
            results of different runs are of one reference set.
        train: `(m, Q, 3)`, the training split likewise, to look for copies in.
        dataset: the data set's identity.
        partial: of a completion model, the split's clouds with the points that are given first.
        stop: see `pcdiff.evaluation.job.finish`.

    Returns:
        The result, or None when a limit or a signal stopped the work before the end.

    Raises:
        InputError: no, a damaged or another model's checkpoint, another data set, fewer points than asked, a
            protocol that the run's normalization does not fit.
    """
    protocol, folder = get_protocol(config.protocol), config.run
    file = locate(folder, config.checkpoint)
    model = load(file).to(prepare(resolve_device(config.device)))
    if model.config != run.model:
        raise InputError(f"{file}: holds another model than {folder / 'config.json'}; put the run's own back")
    check_facts(model.metadata, str(file), ("name", "categories", "fingerprint"))
    trained_on = model.metadata["dataset"]
    if trained_on["fingerprint"] != dataset["fingerprint"] and not config.allow_other_dataset:
        raise InputError(
            f"{folder} was trained on {_named(trained_on)}, not on {_named(dataset)}; "
            "give its own data, or --allow-other-dataset to compare all the same"
        )
    held = reference.shape[1]
    if config.num_points is not None and config.num_points > held:
        raise InputError(f"--num-points {config.num_points}: the clouds compared with have only {held} points")
    num_points = config.num_points or min(run.sample_points, protocol.points or held, held)
    config = replace(config, num_points=num_points)
    places = Places.asked_for(config, folder)
    settings = asked(config) | {
        "checkpoint": hashlib.sha256(file.read_bytes()).hexdigest(),
        "reference": fingerprint(reference),
        "train": fingerprint(train),
        "decoding": decoding(run.flexibility, config),
        "truncate_std": config.truncate_std,
    }
    title = f"{folder.name}, {dataset['name']}, step {model.metadata['step']}"
    facts = {"trained_on": trained_on, "split": config.split, "checkpoint": file.stem}
    facts |= {"step": model.metadata["step"], "seed": config.seed, "settings": settings_of(config)}
    labels = None if model.classes is None else split.labels(model.classes.names)
    if labels is None:
        reference = reference[: limit(config)]
    else:  # some of each class
        chosen = spread(labels, limit(config) or len(labels))
        reference, labels = reference[chosen], labels[chosen]
    if isinstance(model, Generator):
        if len(reference) < 2:
            raise InputError(
                f"{dataset['name']}: a generator's scores need 2 clouds or more (1-NNA leaves one out), got "
                f"{len(reference)} of the split {config.split} (--split, --num-samples)"
            )
        if protocol.data_unit:
            split.denormalize_generated(torch.zeros(1, 1, 3))  # a normalization that does not fit is refused first
            if trained_on["fingerprint"] != dataset["fingerprint"] and run.data.normalization != "none":
                raise InputError(
                    f"protocol {protocol.name} undoes the normalization of {_named(trained_on)}, which is not "
                    f"available with {_named(dataset)}; score the run on its own data"
                )

        def job(work: ResumableMap) -> dict[str, Any]:
            made = _generated(config, run, model, work, len(reference), labels)
            samples = split.denormalize_generated(made) if protocol.data_unit else made
            sets = {"samples": samples, "reference": reference, "train": train}
            result = compared(config, work, **sets)
            if labels is not None:
                add_classes(result, config, work, model.classes.names, labels, samples, reference)
            result |= facts | {"dataset": dataset | result["dataset"]}
            result["details"]["notes"] += _deviations(config, protocol, trained_on, dataset)
            if distributed.rank() == 0:
                keep_clouds(places.folder, "samples", made, f"samples: {title}", beside=train[:, :num_points])
            report(result, places)
            picture(result, places, f"nearest clouds: {title}", num_points=num_points, **sets)
            return result

    elif isinstance(model, Completion):
        assert partial is not None
        _refuse_metrics(config, folder, "a completion model's")
        cut, given = partial.points[: len(reference), :num_points], run.model.num_given
        check_completion(model, given, num_points)
        settings |= {"partial": fingerprint(partial.points), "num_completions": config.num_completions}
        facts |= {"partial": vars(run.data.partial) | {"num_given": given}}

        def job(work: ResumableMap) -> dict[str, Any]:
            made = _completed(config, run, model, work, cut[:, :given], num_points)
            own = {"completions": partial.restored(made)}
            own["given"] = partial.restored(cut[:, None, :given])[:, 0]
            truth = reference[:, :num_points]
            result, fitting = scored_completions(config, work, reference=truth, train=train, **own)
            result |= facts | {"dataset": dataset | result["dataset"], "unit": partial.unit}
            result["details"]["notes"] = _deviations(config, protocol, trained_on, dataset)
            keep_completions(places, f"completions: {title}", **own, truth=truth, nearest_train=fitting)
            report(result, places)
            return result

    else:
        _refuse_metrics(config, folder, "an autoencoder's")
        clouds = split.points[: len(reference), :num_points]

        def job(work: ResumableMap) -> dict[str, Any]:
            made = _reconstructed(config, run, model, work, clouds)
            result = _compared_with_inputs(config, work, split, made, reference)
            result |= facts | {"dataset": dataset | result["dataset"]}
            if distributed.rank() == 0:
                pairs = torch.stack([clouds, made], dim=1).flatten(0, 1)
                above = f"input and reconstruction in turn: {title}"
                keep_clouds(places.folder, "samples", made, above, pictured=pairs)
            report(result, places)
            return result

    return finish(config, places, settings, job, stop)


def _refuse_metrics(config: EvaluateConfig, folder: Path, whose: str) -> None:
    if config.metrics is not None:
        raise InputError(f"--metrics scores generated clouds, but {folder} is {whose} run")


def _generated(
    config: EvaluateConfig,
    run: RunConfig,
    model: Generator,
    work: ResumableMap,
    count: int,
    labels: Tensor | None,
) -> Tensor:
    """Return `count` generated clouds `(count, num_points, 3)`, of these classes, in the run's normalization."""
    options = {**decoding(run.flexibility, config), "truncate_std": config.truncate_std}

    def draw(k: int, progress: Progress) -> Tensor:
        own = None if labels is None else labels[k * CHUNK : (k + 1) * CHUNK]
        told = {"labels": own, "count": None if own is None else len(own), "progress": progress}
        return draw_chunk(model, k, config.num_points, config.seed, **told, **options)

    return _in_chunks("generating", draw, config, work, count)


def _reconstructed(
    config: EvaluateConfig, run: RunConfig, model: PointCloudModel, work: ResumableMap, clouds: Tensor
) -> Tensor:
    """Return reconstructions of clouds `(n, P, 3)`, like them."""
    options = decoding(run.flexibility, config)

    def draw(k: int, progress: Progress) -> Tensor:
        return reconstruct_chunk(model, clouds, k, clouds.shape[1], config.seed, progress=progress, **options)

    return _in_chunks("reconstructing", draw, config, work, len(clouds))


def _completed(
    config: EvaluateConfig, run: RunConfig, model: Completion, work: ResumableMap, given: Tensor, num_points: int
) -> Tensor:
    """Return `num_completions` of each partial cloud `(n, G, 3)`: `(n, K, num_points, 3)`."""
    options = decoding(run.flexibility, config)
    passes = []
    for j in range(config.num_completions):

        def draw(k: int, progress: Progress, j: int = j) -> Tensor:
            return complete_chunk(model, given, k, num_points, config.seed, j, progress=progress, **options)

        name = f"completing {j + 1} of {config.num_completions}"
        passes.append(_in_chunks(name, draw, config, work, len(given)))
        if j + 1 < config.num_completions and generated_enough(config, work):
            raise Stopped
    return torch.stack(passes, dim=1)


def _in_chunks(
    what: str, draw: Callable[[int, Progress], Tensor], config: EvaluateConfig, work: ResumableMap, count: int
) -> Tensor:
    """Return the first `count` clouds of the chunks that `draw(k, progress)` gives.

    Raises:
        Stopped: this call has made as many as it should, or was stopped.
    """
    made, chunks = [], Chunks(count, CHUNK)
    with bar(what, "step") as progress:
        for drawn in chunks.drawn(draw, work, what, work.check, progress):
            made.append(drawn)
            if len(made) < len(chunks) and generated_enough(config, work):
                raise Stopped
    return torch.cat(made)[:count]


def _compared_with_inputs(
    config: EvaluateConfig, work: ResumableMap, split: Split, made: Tensor, reference: Tensor
) -> dict[str, Any]:
    """Score reconstructions of the reference's first points, in the data set's own unit, as DPM's tables do."""
    points = made.shape[1]
    sets = {"reconstructions": split.denormalize(made, range(len(made))), "reference": reference[:, :points]}
    if reference.shape[1] >= 2 * points:
        sets["second"] = reference[:, points : 2 * points]
    result = reconstructed(config, work, **sets)
    result["unit"] = "the data set's own (denormalized)"
    result["dataset"] = {name: {"sha256": fingerprint(part)} for name, part in sets.items()}
    return result


def _deviations(
    config: EvaluateConfig, protocol: metrics.Protocol, trained_on: dict[str, Any], dataset: dict[str, Any]
) -> list[str]:
    """Return notes on what is not as the protocol or the training had it."""
    notes = []
    if config.split != protocol.split:
        notes.append(f"compared with the {config.split} split, where the protocol has the {protocol.split} split")
    asked_for: dict[str, Any] = {"sampler": config.sampler, "steps": config.num_steps, "grid": config.grid}
    asked_for |= {"precision": config.precision, "guidance": config.guidance}
    if given := [f"{name} {value}" for name, value in asked_for.items() if value is not None]:
        notes.append(f"drawn with {', '.join(given)}")
    if config.truncate_std is not None:
        notes.append(f"latents cut off at {config.truncate_std:g} standard deviations")
    if trained_on["fingerprint"] != dataset["fingerprint"]:
        notes.append(f"trained on {_named(trained_on)}, compared with {_named(dataset)}")
    return notes


def _named(dataset: dict[str, Any]) -> str:
    return f"{dataset['name']} ({', '.join(dataset['categories'])}, {dataset['fingerprint']})"
