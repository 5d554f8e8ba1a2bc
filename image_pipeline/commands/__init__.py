"""The commands of `python -m image_pipeline`: their flags, and what they do."""

from image_pipeline.commands.parsing import parse
from image_pipeline.commands.perform import perform

__all__ = ["parse", "perform"]
