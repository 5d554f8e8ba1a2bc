"""Images: what data sets hold them, and how they come in batches."""

from image_pipeline.data.batches import RANGES, ImageBatch, ImageBatches, to_bytes, to_range
from image_pipeline.data.dataset import SPLITS, ImageDataset, ImageIdentity
from image_pipeline.data.export import dump, prepare
from image_pipeline.data.load import EMBEDDED, load_images
from image_pipeline.data.techniques import NoiseScales, noise_scales

__all__ = [
    "EMBEDDED",
    "RANGES",
    "SPLITS",
    "ImageBatch",
    "ImageBatches",
    "ImageDataset",
    "ImageIdentity",
    "NoiseScales",
    "dump",
    "load_images",
    "noise_scales",
    "prepare",
    "to_bytes",
    "to_range",
]
