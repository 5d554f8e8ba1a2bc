"""Load any data set of images by its place on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from image_pipeline.data.array_files import ENDINGS, read_array_file
from image_pipeline.data.arrays import Arrays, read_cifar, read_digits, read_idx_folder
from image_pipeline.data.dataset import SPLITS, ImageDataset, ImageIdentity, digest, seeded_split, split_story
from image_pipeline.data.files import Files, FolderFiles, ZipFiles
from image_pipeline.data.lazy import LazyImages
from image_pipeline.data.lmdb_files import LmdbFiles
from image_pipeline.data.naming import labels_of, own_splits
from image_pipeline.data.transforms import Preprocessing, preprocess_resident
from pcdiff.errors import InputError, UnknownName
from pcdiff.runtime.json_files import parse_json
from pcdiff.runtime.paths import exists, is_file, is_folder

EMBEDDED: dict[str, Callable[[], Arrays]] = {"digits": read_digits}
_OWN = "the data set's own"


def load_images(
    place: Path | str = "digits",
    split: str = "train",
    size: int | None = None,
    crop: int | None = None,
    filter: str = "lanczos",
    channels: int | None = None,
    labels: str = "auto",
    workers: int | None = None,
) -> ImageDataset:
    """Load one split of a data set of images; which layout it has is found out.

    Layouts: the embedded `digits`; folders of CIFAR-10 or CIFAR-100 (binary or Python batches) and of MNIST's idx
    files, and arrays in a `.npz` or `.npy` file (see `read_array_file`), which are kept in memory; folders and zips
    of image files (by class as in ImageNet, FFHQ, CelebA, LSUN's exports, StyleGAN's zips with `dataset.json`, what
    `prepare` and `dump` write), and LSUN's lmdb (one environment, or a folder with a `*_train_lmdb` and a
    `*_val_lmdb`), which are decoded when asked for.

    `train` and `test` are the data set's own where it has them (folders `train` and `test` or `val`; CIFAR's and
    MNIST's files); otherwise one image in six, drawn with a fixed seed, is test. `all` is both.
    `identity.splits` has which.

    Args:
        place: a path, or `digits`.
        split: train, test or all.
        size: side in pixels to bring every image to; None keeps them as they are.
        crop: side of the central square cut out first; with `size`, the shorter side is the default.
        filter: of the resize, a name in `transforms.FILTERS`, all antialiased.
        channels: 1 or 3, to which images are brought; None takes 1 where they are gray.
        labels: where classes come from in image files, see `naming.labels_of`; `none` leaves them out everywhere.
        workers: threads that decode; None takes up to eight.

    Raises:
        InputError: an unknown place, layout, split or rule; an absent split; truncated or unreadable files; images
            of mixed size without a `size`. One line that names the file.

    Example:
        >>> dataset = load_images("digits", "test")
        >>> dataset.images.shape, dataset.num_classes
        (torch.Size([299, 1, 8, 8]), 10)
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    if channels not in (None, 1, 3):
        raise InputError(f"channels must be 1 or 3, got {channels}")
    preprocessing = Preprocessing(size, crop, filter)
    if place in EMBEDDED:
        return _from_arrays(EMBEDDED[str(place)](), str(place), split, preprocessing, channels, labels)
    path = Path(place)
    if not exists(path):
        raise InputError(f"{path} does not exist; give a folder, a zip, or one of: {', '.join(EMBEDDED)}")
    if is_folder(path):
        arrays = read_cifar(path) or read_idx_folder(path)
        if arrays is not None:
            return _from_arrays(arrays, str(path), split, preprocessing, channels, labels)
    elif path.suffix in ENDINGS:
        return _from_arrays(read_array_file(path), str(path), split, preprocessing, channels, labels)
    parts = _files(path)
    return _from_files(parts, path, split, preprocessing, channels, labels, workers)


def _files(path: Path) -> dict[str, Files]:
    """Return the places that hold the image files, by split; `all` alone where one holds everything."""
    if is_file(path):
        if path.suffix.lower() != ".zip":
            raise InputError(f"{path}: unknown layout; expected a folder or a .zip of images, or a .npz or .npy")
        return {"all": ZipFiles(path)}
    if is_file(path / "data.mdb"):
        return {"all": LmdbFiles(path)}
    environments: dict[str, Files] = {}
    for split, ending in (("train", "train"), ("test", "val")):
        found = sorted(path.glob(f"*_{ending}_lmdb"))
        if len(found) > 1:
            raise InputError(
                f"{path}: holds several data sets ({found[0].name}, {found[1].name}); name one of them"
            )
        if found:
            environments[split] = LmdbFiles(found[0])
    return environments or {"all": FolderFiles(path)}


def _from_arrays(
    source: Arrays, where: str, split: str, preprocessing: Preprocessing, channels: int | None, wanted: str
) -> ImageDataset:
    own = "all" not in source.parts
    # in a fixed order, so that the fingerprint is the same whichever split is loaded
    stored = [source.parts[part] for part in SPLITS if part in source.parts]
    turned = channels not in (None, stored[0][0].shape[1])
    done = f"{preprocessing}, {'to grey' if channels == 1 else 'grey repeated'}" if turned else str(preprocessing)
    bytes_ = (array.tobytes() for pair in stored for array in pair if array is not None)
    fingerprint = digest(done, *bytes_)
    if own and split != "all":
        if split not in source.parts:
            raise InputError(f"{where}: has no {split} files; it has {', '.join(source.parts)}")
        images, labels = source.parts[split]
    else:
        images, labels = (
            None if arrays[0] is None else np.concatenate(arrays) for arrays in zip(*stored, strict=True)
        )
    if not own:
        chosen = seeded_split(len(images), split).numpy()
        story, images = split_story(len(images)), images[chosen]
        labels = None if labels is None else labels[chosen]
    else:
        story = f"{_OWN} files: " + ", ".join(f"{len(pair[0])} {part}" for part, pair in source.parts.items())
    found = tuple(images.shape[2:])
    images = torch.from_numpy(preprocess_resident(images, preprocessing, where, channels))
    identity = ImageIdentity(source.name, tuple(images.shape[1:]), done, story, fingerprint)
    if wanted == "none" or labels is None:
        if wanted not in ("auto", "none"):
            raise InputError(f"{where}: labels {wanted}: has no classes of its own; take auto or none")
        return ImageDataset(images, None, (), split, identity, found)
    return ImageDataset(images, torch.from_numpy(labels), source.class_names, split, identity, found)


def _from_files(
    places: dict[str, Files],
    path: Path,
    split: str,
    preprocessing: Preprocessing,
    channels: int | None,
    rule: str,
    workers: int | None,
) -> ImageDataset:
    for files in places.values():
        if not files.names:
            raise InputError(
                f"{files.where}: holds no image; expected image files, CIFAR batches, idx files or lmdb"
            )
    if "all" not in places and split == "all":
        raise InputError(f"{path}: train and test are two lmdb; load them one by one")
    if split not in places and "all" not in places:
        raise InputError(f"{path}: has no {split} lmdb; it has {', '.join(places)}")
    files = places.get(split) or places["all"]
    names = files.names
    labels, class_names = labels_of(files, names, rule)
    chosen, story = _choose(files, names, split, own="all" not in places)
    images = LazyImages(files, [names[i] for i in chosen], preprocessing, channels, workers)
    parts = [f"{part} {places[part].digest()}" for part in sorted(places)]
    fingerprint = digest(str(preprocessing), f"channels {images.shape[1]}", *parts, f"{labels}")
    identity = ImageIdentity(f"{files.kind}: {path.name}", images.shape[1:], str(preprocessing), story, fingerprint)
    numbers = None if labels is None else torch.tensor([labels[i] for i in chosen])
    return ImageDataset(images, numbers, class_names, split, identity, images.found)


def _choose(files: Files, names: list[str], split: str, own: bool) -> tuple[list[int], str]:
    """Return the indices of a split's images, and where the split comes from."""
    if own:
        return list(range(len(names))), f"{_OWN} lmdb for each"
    divided = own_splits(names)
    if divided is None:
        only = _written_split(files)
        if only is None:
            return seeded_split(len(names), split).tolist(), split_story(len(names))
        if split not in (only, "all"):
            raise InputError(f"{files.where}: by its manifest it holds the {only} split, got {split}")
        return list(range(len(names))), f"its manifest: only {only}"
    story = f"{_OWN} folders: " + ", ".join(f"{len(held)} {part}" for part, held in sorted(divided.items()))
    if split == "all":
        return list(range(len(names))), story
    if split not in divided:
        raise InputError(f"{files.where}: has no {split} folder; it has {', '.join(sorted(divided))}")
    held = set(divided[split])
    return [i for i, name in enumerate(names) if name in held], story


def _written_split(files: Files) -> str | None:
    """Return the split in the manifest of a zip of `prepare`, or None if it holds all or has no manifest."""
    if not files.has("manifest.json"):
        return None
    try:
        written = parse_json(files.read("manifest.json"), "manifest.json")["split"]
    except (ValueError, KeyError, TypeError):
        return None  # another program's manifest
    return written if written in ("train", "test") else None
