"""Score a completion model's clouds beside the nearest training clouds."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcdiff.config import EvaluateConfig
from pcdiff.evaluation.files import with_emd
from pcdiff.evaluation.job import Places
from pcdiff.interop.files import write_clouds
from pcdiff.metrics import completion_scores, fingerprint, nearest_by_given
from pcdiff.metrics.evaluation import EMD_LIMIT_SECONDS
from pcdiff.ops import estimated_emd_seconds
from pcdiff.runtime import distributed
from pcdiff.runtime.progress import bar
from pcdiff.runtime.resumable import ResumableMap
from pcdiff.runtime.run_folder import log
from pcdiff.viz import save_completions

BASELINE = "nearest training cloud, by the points given"
_TRAIN_POINTS = 512  # of a training cloud, by which the nearest is found
_SHOWN = 20


class Partial(NamedTuple):
    """The clouds of a split for a completion model.

    Attributes:
        points: `(n, P, 3)`, their given points first, in the model's normalization.
        denormalize: brings clouds of the split, by index, to the unit that they are scored in.
        unit: that unit, in words.
    """

    points: Tensor
    denormalize: Callable[[Tensor, Iterable[int]], Tensor]
    unit: str

    def restored(self, clouds: Tensor) -> Tensor:
        """Return several clouds of each of the first n, `(n, K, P, 3)`, in that unit."""
        indices = range(len(clouds))
        return torch.stack([self.denormalize(clouds[:, k], indices) for k in range(clouds.shape[1])], dim=1)


def scored_completions(
    config: EvaluateConfig,
    work: ResumableMap,
    *,
    completions: Tensor,
    given: Tensor,
    reference: Tensor,
    train: Tensor,
) -> tuple[dict[str, Any], Tensor]:
    """Return the result of completions, with the baseline, and the baseline's clouds.

    Args:
        config: what was asked.
        work: shares the work, and keeps what is finished.
        completions: `(n, K, P, 3)`.
        given: the points given, `(n, G, 3)`.
        reference: the whole clouds, `(n, P, 3)`.
        train: `(m, Q, 3)`.
    """
    count, each, points = completions.shape[:3]
    emd = with_emd(config)
    if emd is None:
        emd = estimated_emd_seconds(count * each, points, 2) < EMD_LIMIT_SECONDS
    with bar("comparing", "cloud") as progress:
        options = {"emd": emd, "map_blocks": work.map}
        result = completion_scores(
            completions=completions, reference=reference, given=given, progress=progress, **options
        )
    with bar("looking for the nearest training clouds", "cloud") as progress:
        nearest = nearest_by_given(given, train[:, :_TRAIN_POINTS], progress=progress, map_blocks=work.map)
    fitting = train[nearest.index, :points]
    baseline = completion_scores(
        completions=fitting,
        reference=reference,
        emd=emd and fitting.shape[1] == points,
        map_blocks=work.map,
        name="baseline",
    )
    result["baseline"] = {"what": BASELINE, "scores": baseline["scores"], "train_index": nearest.index.tolist()}
    sets = {"reference": reference, "given": given, "train": train}
    result["dataset"] = {name: {"sha256": fingerprint(part)} for name, part in sets.items()}
    return result, fitting


def keep_completions(places: Places, title: str, completions: Tensor, **shown: Tensor) -> None:
    """Write completions `(n, K, P, 3)` one after the other, and a picture of some, on the process that writes.

    Args:
        places: where they go.
        title: above the picture.
        completions: in any unit.
        **shown: `given`, `truth` and `nearest_train`, as `save_completions` takes them.
    """
    if distributed.rank() > 0 or places.folder is None:
        return
    write_clouds(places.folder / "samples.npy", completions.flatten(0, 1))
    path = places.folder / "samples.png"
    some = {name: clouds[:_SHOWN] for name, clouds in shown.items()}
    given = some.pop("given")
    save_completions(path, given, completions[:_SHOWN], title=title, **some)
    log.info("clouds: %s", path)
