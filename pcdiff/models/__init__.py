"""What is trained: models of clouds by name, how they are sampled, and what else they can do with clouds."""

from pcdiff.models.autoencoder import AutoEncoder
from pcdiff.models.base import PointCloudModel
from pcdiff.models.build import MODELS, build_model
from pcdiff.models.latent import FlowVAE, GaussianVAE, LatentPriorModel, build_flow, gaussian_entropy

__all__ = [
    "MODELS",
    "AutoEncoder",
    "FlowVAE",
    "GaussianVAE",
    "LatentPriorModel",
    "PointCloudModel",
    "build_flow",
    "build_model",
    "gaussian_entropy",
]
