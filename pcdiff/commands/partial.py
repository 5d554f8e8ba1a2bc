"""How the clouds of a run are cut: from flags to `PartialClouds`."""

from pcdiff.config import RunConfig
from pcdiff.data import PartialClouds


def partial_clouds(config: RunConfig) -> PartialClouds | None:
    """Return how a run's clouds are cut for a completion model; None of other models."""
    if config.model.kind != "completion":
        return None
    return PartialClouds(config.model.num_given, **vars(config.data.partial))
