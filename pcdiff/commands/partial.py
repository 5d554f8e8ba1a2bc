"""How the clouds of a run are cut: from flags to `PartialClouds`."""

from collections.abc import Callable, Iterable

from torch import Tensor

from pcdiff.config import RunConfig
from pcdiff.data import CloudDataset, CutClouds, PartialClouds, partial_of_run
from pcdiff.ops.normalization import PART_MODES


def partial_clouds(config: RunConfig) -> PartialClouds | None:
    """Return how a run's clouds are cut for a completion model; None of other models."""
    if config.model.kind != "completion":
        return None
    return partial_of_run(config.model.num_given, config.data.partial, config.data.normalization)


def back(cut: CutClouds, split: CloudDataset) -> Callable[[Tensor, Iterable[int]], Tensor]:
    """Return what brings clouds of a cut split, by index, back to the unit that they are scored in; see `unit`."""
    if split.normalization in PART_MODES:
        return cut.restore
    return lambda clouds, indices: split.denormalize(cut.restore(clouds, indices), list(indices))


def unit(normalization: str) -> str:
    """Return the unit that a completion run is scored in, in words.

    The data set's own, where its clouds share one; where each is normalized by itself, they need not have one, and
    the means of their scores would be those of the largest.
    """
    if normalization in PART_MODES:
        return f"each whole cloud normalized ({normalization})"
    return "the data set's own unit (denormalized)"
