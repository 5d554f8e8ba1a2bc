"""How the clouds of a run are cut: from flags to `PartialClouds`."""

from collections.abc import Callable, Iterable

from torch import Tensor

from pcdiff.config import RunConfig
from pcdiff.data import CloudDataset, CutClouds, PartialClouds, partial_of_run


def partial_clouds(config: RunConfig) -> PartialClouds | None:
    """Return how a run's clouds are cut for a completion model; None of other models."""
    if config.model.kind != "completion":
        return None
    return partial_of_run(config.model.num_given, config.data.partial, config.data.normalization)


def back(cut: CutClouds, split: CloudDataset) -> Callable[[Tensor, Iterable[int]], Tensor]:
    """Return what brings clouds of a cut split, by index, back to the data set's own unit."""
    return lambda clouds, indices: split.denormalize(cut.restore(clouds, indices), list(indices))
