"""Where clouds come from: `shapenet.hdf5`, PC15k folders, or the built-in procedural stand-in."""

from pcdiff.data.batches import Batches
from pcdiff.data.categories import NAME_TO_SYNSET, SYNSET_TO_NAME, parse_categories
from pcdiff.data.clouds import CloudDataset, DatasetIdentity
from pcdiff.data.partial import CutClouds, PartialClouds, partial_of_run, partial_set
from pcdiff.data.shapenet import SPLITS, announce, count_clouds, load_clouds, load_raw
from pcdiff.ops.normalization import NORMALIZATIONS, normalize

__all__ = [
    "NAME_TO_SYNSET",
    "NORMALIZATIONS",
    "SPLITS",
    "SYNSET_TO_NAME",
    "Batches",
    "CloudDataset",
    "CutClouds",
    "DatasetIdentity",
    "PartialClouds",
    "announce",
    "count_clouds",
    "load_clouds",
    "load_raw",
    "normalize",
    "parse_categories",
    "partial_of_run",
    "partial_set",
]
