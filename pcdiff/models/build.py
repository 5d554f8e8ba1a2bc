"""Models by name."""

from pcdiff.config import CloudObjectiveConfig, ModelConfig, ProcessConfig, RunConfig, SamplingConfig
from pcdiff.errors import UnknownName
from pcdiff.models.autoencoder import AutoEncoder
from pcdiff.models.base import PointCloudModel
from pcdiff.models.completion import Completion
from pcdiff.models.direct import Direct
from pcdiff.models.latent import Latent

MODELS: dict[str, type[PointCloudModel]] = {
    "latent": Latent,
    "autoencoder": AutoEncoder,
    "direct": Direct,
    "completion": Completion,
}


def build_model(
    config: ModelConfig | RunConfig,
    process: ProcessConfig | None = None,
    objective: CloudObjectiveConfig | None = None,
    sampling: SamplingConfig | None = None,
) -> PointCloudModel:
    """Build the model that a config's `kind` names.

    Args:
        config: the model's, or a whole run's, which holds the others.
        process: see `PointCloudModel`.
        objective: likewise.
        sampling: likewise.

    Raises:
        InputError: the kind or a part is unknown, or parts do not go together.
    """
    if isinstance(config, RunConfig):
        return build_model(config.model, config.process, config.objective, config.sampling)
    if config.kind not in MODELS:
        raise UnknownName("model kind", config.kind, sorted(MODELS))
    return MODELS[config.kind](config, process, objective, sampling)
