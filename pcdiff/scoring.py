"""What `evaluate.py` does: score a run against a split, or one file of clouds against another."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import pcdiff
from pcdiff.atomic import replacing
from pcdiff.checkpoint import load, locate
from pcdiff.config import EvaluateConfig, RunConfig
from pcdiff.errors import InputError
from pcdiff.interop.files import read_clouds
from pcdiff.metrics import evaluate, get_protocol, reconstruction_scores, table
from pcdiff.models import LatentPriorModel
from pcdiff.runs import log, write_json
from pcdiff.sampling import CHUNK, generate, reconstruct
from pcdiff.sessions import keep_clouds
from pcdiff.training import resolve_device

_QUICK_CLOUDS = 64


def score_files(config: EvaluateConfig) -> dict[str, Any]:
    """Score `config.samples` against `config.reference`; print the table, write `config.output` if given.

    Raises:
        InputError: one of the two is missing or unreadable, or they do not fit.
    """
    if config.samples is None or config.reference is None:
        raise InputError("give --run RUN, or both --samples A.npy and --reference B.npy")
    output = config.output or (config.out / "results.json" if config.out else None)
    result = _evaluate(config, read_clouds(config.samples), read_clouds(config.reference), config.num_points)
    result["dataset"] = {"samples": str(config.samples), "reference": str(config.reference)}
    _report(result, output)
    return result


def score_run(
    config: EvaluateConfig, folder: Path, run: RunConfig, clouds: Tensor, dataset: dict[str, Any]
) -> dict[str, Any] | None:
    """Generate (or reconstruct) with the model in `folder` and score against `clouds`.

    Args:
        config: what was asked.
        folder: the run's folder.
        run: the run's own config.
        clouds: the split `(n, P, 3)`, in the run's normalisation.
        dataset: the data set's identity.

    Returns:
        The result, or None when a limit stopped the generation before the end.

    Raises:
        InputError: no or a damaged checkpoint, another data set, fewer points than asked.
    """
    get_protocol(config.protocol)  # an unknown name is told before the work, not after
    file = locate(folder, config.checkpoint)
    model = load(file).to(resolve_device(config.device))
    trained_on = model.metadata["dataset"]
    if trained_on != dataset and not config.allow_other_dataset:
        raise InputError(
            f"{folder} was trained on {_named(trained_on)}, not on {_named(dataset)}; "
            "give its own data, or --allow-other-dataset to compare all the same"
        )
    num_points = config.num_points or min(run.sample_points, clouds.shape[1])
    if num_points > clouds.shape[1]:
        raise InputError(f"--num-points {num_points}: the {config.split} clouds have only {clouds.shape[1]} points")
    count = min(len(clouds), _QUICK_CLOUDS if config.preset == "quick" else len(clouds))
    count = min(count, config.num_samples or count)
    reference = clouds[:count, :num_points]
    out = config.out or folder
    if isinstance(model, LatentPriorModel):
        made = _generate(config, run, model, count, num_points, out / "samples.partial.npz", str(file))
        if made is None:
            return None
        keep_clouds(out, "samples", made, f"{folder.name}: samples at step {model.metadata['step']}")
        result = _evaluate(config, made, reference, None)
    else:
        chunks = reconstruct(model, reference, num_points, config.seed, flexibility=_flexibility(config, run))
        made = torch.cat(list(_bar(chunks, count, "reconstructing")))
        pairs = torch.stack([reference, made], dim=1).flatten(0, 1)
        keep_clouds(out, "samples", pairs, f"{folder.name}: input and reconstruction in turn")
        exact = config.emd == "yes" or (config.emd == "auto" and config.preset == "paper")
        result = reconstruction_scores(reconstructions=made, reference=reference, emd=exact)
    result |= {"dataset": dataset, "trained_on": trained_on, "split": config.split, "seed": config.seed}
    result |= {"checkpoint": str(file), "step": model.metadata["step"]}
    _report(result, config.output or out / "results.json")
    return result


def _flexibility(config: EvaluateConfig, run: RunConfig) -> float:
    return run.flexibility if config.flexibility is None else config.flexibility


def _named(dataset: dict[str, Any]) -> str:
    return f"{dataset['name']} ({', '.join(dataset['categories'])}, {dataset['fingerprint']})"


def _generate(
    config: EvaluateConfig,
    run: RunConfig,
    model: LatentPriorModel,
    count: int,
    num_points: int,
    partial: Path,
    checkpoint: str,
) -> Tensor | None:
    """Draw `count` clouds, saving now and then; None when a limit of this call stops it first."""
    flexibility = _flexibility(config, run)
    key = json.dumps(
        [config.seed, num_points, flexibility, config.truncate_std, checkpoint, model.metadata["step"]]
    )
    done = torch.empty(0, num_points, 3)
    if config.resume is not None and partial.is_file():
        with np.load(partial, allow_pickle=False) as saved:
            if str(saved["key"]) == key:
                done = torch.from_numpy(saved["clouds"])
                log.info("went on after %d clouds", len(done))
    start, new, saved_at = time.monotonic(), 0, len(done)
    done = done[: len(done) - len(done) % CHUNK] if len(done) < count else done[:count]
    chunks = generate(
        model,
        count,
        num_points,
        config.seed,
        start=len(done),
        flexibility=flexibility,
        truncate_std=config.truncate_std,
    )
    for chunk in _bar(chunks if len(done) < count else [], count, "generating", len(done)):
        done = torch.cat([done, chunk])
        new += len(chunk)
        spent = (time.monotonic() - start) / 60
        stop = (config.max_iters is not None and new >= config.max_iters) or (
            config.max_minutes is not None and spent >= config.max_minutes
        )
        if len(done) < count and (stop or len(done) - saved_at >= config.save_every):
            with replacing(partial) as draft:
                np.savez(draft, key=key, clouds=done.numpy())
            saved_at = len(done)
        if len(done) < count and stop:
            log.info("stopped after %d of %d clouds; go on with --resume", len(done), count)
            return None
    partial.unlink(missing_ok=True)
    return done


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


def _bar(chunks: Iterable[Tensor], total: int, what: str, initial: int = 0) -> Iterable[Tensor]:
    with tqdm(total=total, initial=initial, unit="cloud", desc=what, leave=False) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))


def _report(result: dict[str, Any], output: Path | None) -> None:
    result["version"] = pcdiff.__version__
    if "protocol" in result:
        log.info("%s", table(result))
    else:
        log.info("%s", json.dumps(result["scores"], indent=2))
    if result["dataset"].get("stand_in"):
        log.warning("These are scores on built-in STAND-IN shapes; they compare with nothing published.")
    if output is not None:
        write_json(output, result)
        log.info("results: %s", output)
