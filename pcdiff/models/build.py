"""Models by name."""

from pcdiff.config import ModelConfig, ObjectiveConfig
from pcdiff.errors import InputError
from pcdiff.models.autoencoder import AutoEncoder
from pcdiff.models.base import PointCloudModel
from pcdiff.models.latent import FlowVAE, GaussianVAE

MODELS: dict[str, type[PointCloudModel]] = {
    "flow": FlowVAE,
    "gaussian": GaussianVAE,
    "autoencoder": AutoEncoder,
}


def build_model(config: ModelConfig, objective_config: ObjectiveConfig | None = None) -> PointCloudModel:
    """Build the model that `config.kind` names.

    Raises:
        InputError: the kind is unknown.
    """
    if config.kind not in MODELS:
        raise InputError(f"model kind must be one of {sorted(MODELS)}, got {config.kind!r}")
    return MODELS[config.kind](config, objective_config)
