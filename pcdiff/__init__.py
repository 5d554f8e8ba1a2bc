"""pcdiff: train, sample and score diffusion models of 3D point clouds.

>>> import pcdiff
>>> model = pcdiff.load("runs/airplane")
>>> clouds = model.sample(4, 2048)
>>> distance = pcdiff.chamfer(clouds[:2], clouds[2:])
"""

from pcdiff import interop
from pcdiff.checkpoint import load
from pcdiff.errors import InputError
from pcdiff.models import AutoEncoder, FlowVAE, GaussianVAE
from pcdiff.ops import chamfer, emd

__version__ = "0.1.0"

__all__ = [
    "AutoEncoder",
    "FlowVAE",
    "GaussianVAE",
    "InputError",
    "__version__",
    "chamfer",
    "emd",
    "interop",
    "load",
]
