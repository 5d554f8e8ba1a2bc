"""What a training script does in the end: sample or reconstruct, picture, score on the validation split.

The processes of a job share the work, and the first one writes.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcdiff import distributed
from pcdiff.config import RunConfig
from pcdiff.errors import Lines
from pcdiff.metrics import evaluate, reconstruction_scores, table
from pcdiff.models import LatentPriorModel, PointCloudModel
from pcdiff.progress import bar
from pcdiff.runs import log
from pcdiff.sampling import reconstruct_all, sample_all
from pcdiff.sessions import keep_clouds, keep_results
from pcdiff.training import Outcome


def score_generator(
    config: RunConfig,
    folder: Path,
    model: LatentPriorModel,
    outcome: Outcome,
    dataset: dict[str, Any],
    reference: Tensor,
    num_points: int,
    made: Tensor | None = None,
    beside: Tensor | None = None,
) -> None:
    """Draw the clouds asked for, and as many as there are in `reference (n, P, 3)` to score against it.

    Args:
        config: the run's.
        folder: the run's.
        model: trained.
        outcome: of the training.
        dataset: its identity.
        reference: clouds to compare with, `(n, P, 3)`.
        num_points: points compared.
        made: the clouds `(n, num_points, 3)` to score, where a validation has drawn them from these weights.
        beside: training clouds `(m, P, 3)` for a row of the picture above the samples, to compare with.
    """
    model.eval()
    with bar("sampling", "step") as progress:
        chain = {"flexibility": config.flexibility, "progress": progress}
        shown = sample_all(model, config.num_samples, config.sample_points, config.seed, **chain)
        scored = made
        if scored is None:
            scored = sample_all(model, len(reference), num_points, config.seed, **chain)
    results = evaluate(samples=scored, reference=reference, num_points=num_points, emd=False)
    if distributed.rank() > 0:
        return
    title = f"samples: {dataset['name']}, step {outcome.step}"
    keep_clouds(
        folder, "samples", shown, title, beside=None if beside is None else beside[:, : config.sample_points]
    )
    keep_results(folder, results, dataset, config, outcome)
    log.info("%s\nscore the test split with: python evaluate.py --run %s", Lines(table(results)), folder)


def score_autoencoder(
    config: RunConfig,
    folder: Path,
    model: PointCloudModel,
    outcome: Outcome,
    dataset: dict[str, Any],
    given: Tensor,
    denormalise: Callable[[Tensor, Iterable[int]], Tensor],
    made: Tensor | None = None,
) -> None:
    """Reconstruct the clouds `given (n, P, 3)`, and score that in the data set's own unit; `made` as above."""
    model.eval()
    with bar("reconstructing", "step") as progress:
        chain = {"flexibility": config.flexibility, "progress": progress}
        if made is None:
            made = reconstruct_all(model, given, given.shape[1], config.seed, **chain)
    there, indices = {"reconstructions": made, "reference": given}, range(len(given))
    results = reconstruction_scores(**{k: denormalise(v, indices) for k, v in there.items()}, emd=False)
    if distributed.rank() > 0:
        return
    pairs = torch.stack([given, made], dim=1).flatten(0, 1)[: 2 * config.num_samples]
    title = f"input and reconstruction in turn: {dataset['name']}, step {outcome.step}"
    keep_clouds(folder, "samples", made, title, pictured=pairs)
    keep_results(folder, results, dataset, config, outcome)
    scores = results["scores"]
    log.info("scores on val: %s\nscore the test split with: python evaluate.py --run %s", scores, folder)
