"""pcdiff: train, sample and score diffusion models of 3D point clouds.

>>> import pcdiff
>>> model = pcdiff.load("runs/airplane")
>>> clouds = model.sample(4, 2048)
>>> distance = pcdiff.chamfer(clouds[:2], clouds[2:])
"""

from pcdiff import interop
from pcdiff.errors import InputError
from pcdiff.models import AutoEncoder, FlowVAE, GaussianVAE
from pcdiff.ops import chamfer, emd
from pcdiff.training.checkpoint import load
from pcdiff.version import __version__

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
