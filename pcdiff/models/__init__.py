"""What is trained: models of clouds by name, how they are sampled, and what else they can do with clouds."""

from pcdiff.models.autoencoder import AutoEncoder
from pcdiff.models.base import PointCloudModel
from pcdiff.models.build import MODELS, build_model
from pcdiff.models.completion import Completion
from pcdiff.models.direct import Direct
from pcdiff.models.generator import Generator
from pcdiff.models.latent import Latent, gaussian_entropy
from pcdiff.models.recipes import ddpm_denoiser, edm_denoiser, flow_matching_denoiser

__all__ = [
    "MODELS",
    "AutoEncoder",
    "Completion",
    "Direct",
    "Generator",
    "Latent",
    "PointCloudModel",
    "build_model",
    "ddpm_denoiser",
    "edm_denoiser",
    "flow_matching_denoiser",
    "gaussian_entropy",
]
