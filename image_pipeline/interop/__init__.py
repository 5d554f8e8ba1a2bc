"""Other people's image checkpoints: every module's `load(path, ...)` gives an `Imported`."""

from image_pipeline.interop import ncsn, score_sde
from image_pipeline.interop.imported import Imported

__all__ = ["Imported", "ncsn", "score_sde"]
