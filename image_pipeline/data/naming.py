"""Split and class of images by the names of their files."""

from __future__ import annotations

import re
from collections.abc import Sequence

from image_pipeline.data.arrays import MOST_CLASSES
from image_pipeline.data.files import Files
from pcdiff.errors import InputError, short
from pcdiff.runtime.json_files import parse_json

LABEL_RULES = ("auto", "json", "folders", "names", "none")
_SPLIT_FOLDERS = {"train": "train", "training": "train", "test": "test", "val": "test", "valid": "test"}
_SPLIT_FOLDERS["validation"] = "test"
_BUCKET = re.compile(r"\d{5}")  # FFHQ and the StyleGAN zips number their folders, a thousand images in each


def own_splits(names: Sequence[str]) -> dict[str, list[str]] | None:
    """Return split -> names where all images lie under `train` and `test` (or `val`) folders, else None.

    Args:
        names: sorted.
    """
    found: dict[str, list[str]] = {}
    shared = _shared_folders(names)
    for name in names:
        folders = name.split("/")[shared:-1]
        split = _SPLIT_FOLDERS.get(folders[0].lower()) if folders else None
        if split is None:
            return None
        found.setdefault(split, []).append(name)
    return found


def _shared_folders(names: Sequence[str]) -> int:
    """Count the folders above all images, down to one that names a split."""
    # of sorted names the first and the last share only what all share
    first, last = (name.split("/")[:-1] for name in (names[0], names[-1]))
    count = 0
    for a, b in zip(first, last, strict=False):
        if a != b or a.lower() in _SPLIT_FOLDERS:
            break
        count += 1
    return count


def labels_of(files: Files, names: Sequence[str], rule: str) -> tuple[list[int] | None, tuple[str, ...]]:
    """Return the class of each image and the classes' names; None and no names where there are none.

    Args:
        files: where the images lie.
        names: all image names, of every split.
        rule: `json` reads StyleGAN's `dataset.json`; `folders` takes the folder that holds the image, `names` what
            stands before the first `_` of the file name, both sorted; `none` takes none. `auto`: `dataset.json` if
            there is one, else the folders, unless images lie at the top, or the folders are numbered with five
            digits, or all images lie in one.

    Raises:
        InputError: unknown rule, or the labels asked for are absent or damaged.
    """
    if rule not in LABEL_RULES:
        raise InputError(f"unknown labels rule {rule!r}; known are {', '.join(LABEL_RULES)}")
    if rule == "json" or (rule == "auto" and files.has("dataset.json")):
        return _from_json(files, names)
    if rule == "names":
        stems = [name.rpartition("/")[2].rpartition(".")[0] for name in names]
        bare = next((name for name, stem in zip(names, stems, strict=True) if "_" not in stem), None)
        if bare is not None:
            raise InputError(f"{files.where}: {bare}: labels by names need class_index.png")
        return _numbered([stem.partition("_")[0] for stem in stems])
    if rule == "none":
        return None, ()
    shared = _shared_folders(names)
    folders = [_class_folder(name.split("/")[shared:-1]) for name in names]
    if not all(folders) or (rule == "auto" and all(_BUCKET.fullmatch(folder) for folder in folders)):
        if rule == "folders":
            raise InputError(f"{files.where}: labels by folders need every image in the folder of its class")
        return None, ()
    return _numbered(folders)


def _class_folder(folders: Sequence[str]) -> str:
    inner = folders[1:] if folders and folders[0].lower() in _SPLIT_FOLDERS else folders
    return "/".join(inner)


def _numbered(classes: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    names = sorted(set(classes), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    numbers = {name: number for number, name in enumerate(names)}
    return [numbers[name] for name in classes], tuple(names)


def _from_json(files: Files, names: Sequence[str]) -> tuple[list[int] | None, tuple[str, ...]]:
    where = f"{files.where}: dataset.json"
    if not files.has("dataset.json"):
        raise InputError(f"{where} is absent; labels can also come from folders or names")
    content = parse_json(files.read("dataset.json"), where)
    try:
        entries = content.get("labels")
        table = None if entries is None else {str(name): label for name, label in entries}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f'{where}: must be {{"labels": [[name, class], ...]}} or null ({error})') from None
    if table is None:
        return None, ()
    labels: list[int] = []
    for name in names:
        label = table.get(name)
        if type(label) is not int or not 0 <= label < MOST_CLASSES:
            raise InputError(f"{where}: must give {name} a class number below {MOST_CLASSES:,}, got {short(label)}")
        labels.append(label)
    class_names = content.get("class_names") or [str(i) for i in range(max(labels) + 1)]
    if not isinstance(class_names, list) or len(class_names) <= max(labels):
        raise InputError(f"{where}: class_names must name all {max(labels) + 1} classes")
    return labels, tuple(map(str, class_names))
