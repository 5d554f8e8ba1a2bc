"""Load clouds by category: `shapenet.hdf5`, the PC15k folders, or the built-in stand-in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from pcdiff.data import procedural
from pcdiff.data.categories import NAME_TO_SYNSET, SYNSET_TO_NAME, category_tokens, closest
from pcdiff.data.clouds import CloudDataset, DatasetIdentity, StreamingMoments
from pcdiff.data.sources import SPLITS, FolderSource, Hdf5Source, Source, find_root, fingerprint
from pcdiff.errors import InputError, UnknownName
from pcdiff.ops.normalization import GLOBAL_MODES, check_mode, normalize, warn_of_side_effects
from pcdiff.runtime.paths import exists, is_folder

__all__ = ["DEFAULT_PLACES", "SPLITS", "announce", "count_clouds", "load_clouds", "load_raw"]

# Where a data set is looked for when no path is given, in this order: the checkout's data/, and the working
# directory's for an installed package.
DEFAULT_PLACES = tuple(
    folder / name
    for folder in (Path(__file__).parent, Path("data"))
    for name in ("shapenet.hdf5", "ShapeNetCore.v2.PC15k")
)


def load_clouds(
    dataset_path: Path | str | None,
    categories: str | Iterable[str],
    split: str,
    normalization: str = "shape_unit",
) -> CloudDataset:
    """Load one split of some categories into memory.

    Layouts: an HDF5 file with `f[synset][split]` of `(n, P, 3)`; a folder `<root>/<synset>/<split>/*.npy` of
    `(P, 3)` files, or the folder above it. A category may also carry a name of its own (`<root>/human/...`).
    Clouds come by synset id, then in the file's order (sorted file names); nothing is shuffled.

    Args:
        dataset_path: file or folder; None looks for `shapenet.hdf5` and `ShapeNetCore.v2.PC15k` in this
            package's folder, then in `data/` of the working directory, and, where there is none, makes the
            built-in shapes (`identity.stand_in` is true).
        categories: `"airplane,chair"`, `"all"` (all that the data set holds), or a list of names or ids.
        split: train, val or test.
        normalization: see `pcdiff.ops.normalization.normalize`.

    Raises:
        InputError: unknown or absent category, empty split, unreadable file, clouds of the wrong shape or
            with NaN; one line that names the file.

    Example:
        >>> dataset = load_clouds(None, "airplane", "val")
        >>> dataset.points.shape
        torch.Size([64, 2048, 3])
    """
    check_mode(normalization)
    source, keys = _source(dataset_path, categories)
    points, names, ids = _read(source, keys, split)
    labels = [f"{source.where}: {name} {split} {cloud}" for name, cloud in zip(names, ids, strict=True)]
    stats: float | torch.Tensor | None = None
    mean = None
    if normalization in GLOBAL_MODES:
        running = StreamingMoments()
        for part in SPLITS if normalization == "global_unit_legacy_dpm" else ("train",):
            for each in [points] if part == split else (source.read(key, part)[0] for key in keys.values()):
                running.add(each)
        mean = running.mean
        per_axis = normalization == "global_per_axis"
        stats = running.std_per_axis() if per_axis else running.std(ddof=0 if normalization == "global" else 1)
    cloud, shift, scale = normalize(points, normalization, stats, labels, mean)
    warn_of_side_effects(normalization, points, cloud, f"{source.where}: {split}")
    identity = DatasetIdentity(source.name, source.stand_in, tuple(keys), fingerprint(source, keys))
    return CloudDataset(cloud, shift, scale, names, ids, split, normalization, identity)


def load_raw(dataset_path: Path | str | None, categories: str | Iterable[str], split: str) -> torch.Tensor:
    """Return the clouds that `load_clouds` returns, `(n, P, 3)`, as they are stored.

    In float64 where they are stored so, which float32 could blur far from the origin; else in float32.

    Raises:
        InputError: as for `load_clouds`.
    """
    return _read(*_source(dataset_path, categories), split)[0]


def count_clouds(dataset_path: Path | str | None, categories: str | Iterable[str]) -> dict[str, dict[str, int]]:
    """Return how many clouds each split holds of each category, `[split][category]`; 0 of what is not there.

    Raises:
        InputError: unknown or absent category, or a data set that cannot be read.
    """
    source, keys = _source(dataset_path, categories)

    def count(key: str, split: str) -> int:
        try:
            return len(source.read(key, split)[1])
        except InputError:  # a split may be missing
            return 0

    return {split: {name: count(key, split) for name, key in keys.items()} for split in SPLITS}


def _source(dataset_path: Path | str | None, categories: str | Iterable[str]) -> tuple[Source, dict[str, str]]:
    """Return where the clouds come from, and the source's own key by category."""
    if dataset_path is None:
        dataset_path = next((place for place in DEFAULT_PLACES if exists(place)), None)
    if dataset_path is None:
        source: Source = ProceduralSource()
    else:
        path = Path(dataset_path)
        if not exists(path):
            raise InputError(f"dataset_path {path} does not exist; leave it out to use the built-in shapes")
        source = FolderSource(find_root(path)) if is_folder(path) else Hdf5Source(path)
    return source, _resolve(categories, source)


def _read(source: Source, keys: dict[str, str], split: str) -> tuple[torch.Tensor, list[str], list[str]]:
    """Return the clouds of one split, and the category and the id of each."""
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    points: list[torch.Tensor] = []
    names: list[str] = []
    ids: list[str] = []
    for name, key in keys.items():
        clouds, cloud_ids = source.read(key, split)
        if points and clouds.shape[1] != points[0].shape[1]:
            raise InputError(
                f"{source.where}: {next(iter(keys))} has {points[0].shape[1]} points a cloud and {name}"
                f" {clouds.shape[1]}; load them one at a time"
            )
        points.append(clouds)
        names += [name] * len(clouds)
        ids += cloud_ids
    return torch.cat(points), names, ids


def announce(identity: DatasetIdentity) -> str:
    """Return the line that a script prints about its data: a warning in capitals for the stand-in.

    Example:
        >>> print(announce(DatasetIdentity("ShapeNetCore.v2.PC15k", False, ("chair",), "ab12")))
        data: ShapeNetCore.v2.PC15k, categories chair, fingerprint ab12
    """
    what = f"{identity.name}, categories {', '.join(identity.categories)}, fingerprint {identity.fingerprint}"
    if not identity.stand_in:
        return f"data: {what}"
    return (
        f"data: NO DATA SET FOUND, using built-in shapes ({what}). They only show that everything runs: "
        "scores on them are NOT comparable with published ones. Give --dataset-path to use your own."
    )


class ProceduralSource:
    """The built-in shapes, behind the interface of `data.sources.Source`."""

    name = "procedural stand-in"
    where = "the built-in stand-in"
    stand_in = True

    def __init__(self) -> None:
        self.held = {name: name for name in procedural.FAMILIES}

    def read(self, key: str, split: str) -> tuple[torch.Tensor, list[str]]:
        """Return `(n, P, 3)` and the ids."""
        clouds = torch.from_numpy(procedural.shape_clouds(key, split))
        return clouds, [str(i) for i in range(len(clouds))]

    def digest(self, key: str) -> bytes:
        """Return what the fingerprint takes from one category."""
        return procedural.stand_in_fingerprint([key]).encode()


def _resolve(categories: str | Iterable[str], source: Source) -> dict[str, str]:
    """Return name -> the source's own key, in the order of the synset ids (other names last)."""
    chosen: set[str] = set()
    spelled = {name.lower(): name for name in source.held}
    for token in category_tokens(categories):
        name = SYNSET_TO_NAME.get(token, token)
        if token == "all":
            chosen.update(source.held)
        elif name in spelled:
            chosen.add(spelled[name])
        else:
            held = ", ".join(sorted(source.held))
            if name in NAME_TO_SYNSET:
                raise InputError(
                    f"category {name} ({NAME_TO_SYNSET[name]}) is a ShapeNet category but {source.where} has"
                    f" no such clouds (it has: {held})"
                )
            raise InputError(
                f"unknown category {token!r}{closest(token, [*spelled, *NAME_TO_SYNSET])}"
                f" ({source.where} has: {held}; it is not a ShapeNet name either)"
            )
    ordered = sorted(chosen, key=lambda name: (name not in NAME_TO_SYNSET, NAME_TO_SYNSET.get(name, name)))
    return {name: source.held[name] for name in ordered}
