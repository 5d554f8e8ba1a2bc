"""What `evaluate.py` does: score a run against a split, or one file of clouds against another."""

import json
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import pcdiff
from pcdiff.atomic import replacing
from pcdiff.checkpoint import load, locate
from pcdiff.config import EvaluateConfig, RunConfig
from pcdiff.errors import InputError
from pcdiff.interop import read_cloud_set, stack_clouds
from pcdiff.metrics import emd_seconds, evaluate, get_protocol, reconstruction_scores, table
from pcdiff.models import LatentPriorModel, PointCloudModel
from pcdiff.runs import log, write_json
from pcdiff.sampling import CHUNK, generate, reconstruct
from pcdiff.sessions import keep_clouds
from pcdiff.training import interruptible, resolve_device

_QUICK_CLOUDS = 64
_EMD_SECONDS = 600.0


class Split(Protocol):
    """A split of a data set, as `data.load_clouds` returns it."""

    points: Tensor

    def denormalise(self, points: Tensor, indices: Iterable[int]) -> Tensor:
        """Return clouds in the data set's own unit."""


def score_files(config: EvaluateConfig) -> dict[str, Any]:
    """Score `config.samples` against `config.reference`; print the table, write `config.output` if given.

    Raises:
        InputError: one of the two is missing or unreadable, or they do not fit.
    """
    if config.samples is None or config.reference is None:
        raise InputError("give --run RUN, or both --samples A.npy and --reference B.npy")
    output = config.output or (config.out / "results.json" if config.out else None)
    sets = [read_cloud_set(path) for path in (config.samples, config.reference)]
    clouds = [stack_clouds(each, config.num_points, None)[: _limit(config)] for each in sets]
    result = _evaluate(config, *clouds, config.num_points)
    result["dataset"] = {"samples": str(config.samples), "reference": str(config.reference)}
    _report(result, output)
    return result


def score_run(
    config: EvaluateConfig, folder: Path, run: RunConfig, split: Split, dataset: dict[str, Any]
) -> dict[str, Any] | None:
    """Generate (or reconstruct) with the model in `folder` and score against a split.

    Args:
        config: what was asked.
        folder: the run's folder.
        run: the run's own config.
        split: its points `(n, P, 3)` are in the run's normalisation.
        dataset: the data set's identity.

    Returns:
        The result, or None when a limit or a signal stopped the generation before the end.

    Raises:
        InputError: no, a damaged or another model's checkpoint, another data set, fewer points than asked.
    """
    get_protocol(config.protocol)  # an unknown name is told before the work, not after
    file = locate(folder, config.checkpoint)
    model = load(file).to(resolve_device(config.device))
    if model.config != run.model:
        raise InputError(f"{file}: holds another model than {folder / 'config.json'}; put the run's own back")
    trained_on = model.metadata["dataset"]
    if trained_on["fingerprint"] != dataset["fingerprint"] and not config.allow_other_dataset:
        raise InputError(
            f"{folder} was trained on {_named(trained_on)}, not on {_named(dataset)}; "
            "give its own data, or --allow-other-dataset to compare all the same"
        )
    num_points = config.num_points or min(run.sample_points, split.points.shape[1])
    if num_points > split.points.shape[1]:
        raise InputError(
            f"--num-points {num_points}: the {config.split} clouds have only {split.points.shape[1]} points"
        )
    reference = split.points[: _limit(config), :num_points]
    out = config.out or folder
    title = f"{folder.name}, {dataset['name']}, step {model.metadata['step']}"
    if isinstance(model, LatentPriorModel):
        made = _generate(config, run, model, len(reference), num_points, folder, out)
        if made is None:
            return None
        keep_clouds(out, "samples", made, f"samples: {title}")
        result = _evaluate(config, made, reference, None)
    else:
        made, result = _reconstruct(config, run, model, split, reference)
        pairs = torch.stack([reference, made], dim=1).flatten(0, 1)
        keep_clouds(out, "samples", made, f"input and reconstruction in turn: {title}", pictured=pairs)
    result |= {"dataset": dataset, "trained_on": trained_on, "split": config.split, "seed": config.seed}
    result |= {"checkpoint": file.stem, "step": model.metadata["step"]}
    _report(result, config.output or out / "results.json")
    return result


def _limit(config: EvaluateConfig) -> int | None:
    limits = [config.num_samples, _QUICK_CLOUDS if config.preset == "quick" else None]
    return min((n for n in limits if n is not None), default=None)


def _flexibility(config: EvaluateConfig, run: RunConfig) -> float:
    return run.flexibility if config.flexibility is None else config.flexibility


def _named(dataset: dict[str, Any]) -> str:
    return f"{dataset['name']} ({', '.join(dataset['categories'])}, {dataset['fingerprint']})"


def _reconstruct(
    config: EvaluateConfig, run: RunConfig, model: PointCloudModel, split: Split, reference: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """Encode and decode `reference`; score the pairs in the data set's own unit, as DPM's tables do."""
    chunks = reconstruct(model, reference, reference.shape[1], config.seed, flexibility=_flexibility(config, run))
    made = torch.cat(list(_bar(chunks, len(reference), "reconstructing")))
    pairs = len(reference)
    # emd_seconds counts the pairs of a whole comparison, `pairs * (2 * pairs - 1)`; here there is one a cloud.
    seconds = emd_seconds(pairs, reference.shape[1]) / max(1, 2 * pairs - 1)
    exact = {"yes": True, "no": False, "auto": config.preset == "paper" and seconds < _EMD_SECONDS}[config.emd]
    with tqdm(total=pairs, unit="pair", desc="comparing", leave=False) as bar:
        result = reconstruction_scores(
            reconstructions=split.denormalise(made, range(pairs)),
            reference=split.denormalise(reference, range(pairs)),
            emd=exact,
            progress=lambda done, total: bar.update(done - bar.n),
        )
    result["unit"] = "the data set's own (denormalised)"
    return made, result


def _generate(
    config: EvaluateConfig,
    run: RunConfig,
    model: LatentPriorModel,
    count: int,
    num_points: int,
    folder: Path,
    out: Path,
) -> Tensor | None:
    """Draw `count` clouds, saving now and then; None when a limit of this call or a signal stops it first."""
    partial, options = out / "samples.partial.npz", {"flexibility": _flexibility(config, run)}
    options["truncate_std"] = config.truncate_std
    key = json.dumps([config.seed, num_points, options, model.metadata["step"], model.metadata["dataset"]])
    done = torch.empty(0, num_points, 3)
    if config.resume is not None and partial.is_file():
        done = _read_partial(partial, key)
        done = done[:count] if len(done) >= count else done[: len(done) - len(done) % CHUNK]
        log.info("goes on after %d clouds", len(done))
    start, before, saved = time.monotonic(), len(done), len(done)
    with interruptible() as signals:
        remaining = (
            generate(model, count, num_points, config.seed, start=before, **options) if before < count else []
        )
        for chunk in _bar(remaining, count, "generating", before):
            done = torch.cat([done, chunk])
            if len(done) == count:
                break
            stop = (
                bool(signals)
                or (config.max_iters is not None and len(done) - before >= config.max_iters)
                or (config.max_minutes is not None and time.monotonic() - start >= 60 * config.max_minutes)
            )
            if stop or len(done) - saved >= config.save_every:
                with replacing(partial) as draft:
                    np.savez(draft, key=key, clouds=done.numpy())
                saved = len(done)
            if stop:
                where = f" --out {config.out}" if config.out else ""
                log.info(
                    "stopped after %d of %d clouds; go on with: --resume %s%s", len(done), count, folder, where
                )
                return None
    partial.unlink(missing_ok=True)
    return done


def _read_partial(partial: Path, key: str) -> Tensor:
    try:
        with np.load(partial, allow_pickle=False) as saved:
            fits, clouds = str(saved["key"]) == key, torch.from_numpy(saved["clouds"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{partial}: damaged ({type(error).__name__}); delete it to start the drawing anew"
        ) from None
    if not fits:
        raise InputError(
            f"{partial}: was drawn with another model, seed, point count or noise; give its flags, or delete it"
        )
    return clouds


def _evaluate(config: EvaluateConfig, samples: Any, reference: Any, num_points: int | None) -> dict[str, Any]:
    emd = {"yes": True, "no": False, "auto": None if config.preset == "paper" else False}[config.emd]
    with tqdm(unit="pair", unit_scale=True, desc="comparing", leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return evaluate(
            samples=samples,
            reference=reference,
            protocol=config.protocol,
            num_points=num_points,
            emd=emd,
            progress=progress,
        )


def _bar(chunks: Iterable[Tensor], total: int, what: str, initial: int = 0) -> Iterator[Tensor]:
    with tqdm(total=total, initial=initial, unit="cloud", desc=what, leave=False) as bar:
        for chunk in chunks:
            bar.update(len(chunk))
            yield chunk


def _report(result: dict[str, Any], output: Path | None) -> None:
    result["version"] = pcdiff.__version__
    if "protocol" in result:
        log.info("%s", table(result))
    else:
        log.info("%s", json.dumps(result["scores"], indent=2))
    if result["dataset"].get("stand_in"):
        log.warning("These are scores on built-in STAND-IN shapes; they compare with nothing published.")
    if output is None:
        return
    if output.is_file():  # what a training script said of the training stays
        try:
            earlier = json.loads(output.read_text(encoding="utf-8"))
            result |= {"training": earlier["training"]}
        except (ValueError, KeyError, TypeError):
            log.info("%s: replaced", output)
    write_json(output, result)
    log.info("results: %s", output)
