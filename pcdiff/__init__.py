"""pcdiff: train, sample and score diffusion models of 3D point clouds.

>>> import pcdiff
>>> model = pcdiff.load("runs/airplane")
>>> clouds = model.sample(4, 2048)
>>> distance = pcdiff.chamfer(clouds[:2], clouds[2:])
"""

import importlib
from typing import TYPE_CHECKING, Any

from pcdiff.errors import InputError
from pcdiff.version import __version__

if TYPE_CHECKING:
    from pcdiff import data, interop, models
    from pcdiff.config.presets import generator_preset
    from pcdiff.models import AutoEncoder, Direct, Latent, build_model
    from pcdiff.notebook import Trainer, evaluate
    from pcdiff.ops.chamfer import chamfer
    from pcdiff.ops.emd import emd
    from pcdiff.training.checkpoint import load

# Imported at their first use: a command's --help, or a wrong flag, need not wait for torch.
_LAZY = {
    "AutoEncoder": "pcdiff.models",
    "Direct": "pcdiff.models",
    "Latent": "pcdiff.models",
    "Trainer": "pcdiff.notebook",
    "build_model": "pcdiff.models",
    "evaluate": "pcdiff.notebook",
    "chamfer": "pcdiff.ops",
    "emd": "pcdiff.ops",
    "load": "pcdiff.training.checkpoint",
    "generator_preset": "pcdiff.config.presets",
}
_ROOMS = {
    *("config", "data", "diffusion", "encoders", "evaluation", "flows", "interop", "metrics", "models", "nets"),
    *("ops", "runtime", "training", "viz"),
}

__all__ = [
    "AutoEncoder",
    "Direct",
    "InputError",
    "Latent",
    "Trainer",
    "__version__",
    "build_model",
    "chamfer",
    "data",
    "emd",
    "evaluate",
    "generator_preset",
    "interop",
    "load",
    "models",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        found = getattr(importlib.import_module(_LAZY[name]), name)
    elif name in _ROOMS:
        found = importlib.import_module(f"pcdiff.{name}")
    else:
        raise AttributeError(f"module 'pcdiff' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_ROOMS})
