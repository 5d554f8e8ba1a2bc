"""Where clouds come from: `shapenet.hdf5`, PC15k folders, or the built-in procedural stand-in."""

from data.batches import Batches
from data.categories import NAME_TO_SYNSET, SYNSET_TO_NAME, parse_categories
from data.clouds import CloudDataset, DatasetIdentity
from data.shapenet import SPLITS, announce, count_clouds, load_clouds, load_raw
from pcdiff.normalisation import NORMALISATIONS, normalise

__all__ = [
    "NAME_TO_SYNSET",
    "NORMALISATIONS",
    "SPLITS",
    "SYNSET_TO_NAME",
    "Batches",
    "CloudDataset",
    "DatasetIdentity",
    "announce",
    "count_clouds",
    "load_clouds",
    "load_raw",
    "normalise",
    "parse_categories",
]
