"""Write a data set: as a resized zip with a manifest, or as loose files."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from image_pipeline.data.dataset import ImageDataset
from image_pipeline.data.load import load_images
from image_pipeline.data.transforms import to_image
from pcdiff.errors import InputError
from pcdiff.runtime.atomic_write import replacing
from pcdiff.runtime.paths import exists, is_folder

_CHUNK = 256  # images decoded at a time
_FOLDER = 1000  # images in each numbered folder, as in FFHQ and the StyleGAN zips
_PLAIN = re.compile(r"[A-Za-z0-9-]+")


def prepare(
    source: Path | str,
    destination: Path | str,
    size: int | None,
    split: str = "all",
    crop: int | None = None,
    filter: str = "lanczos",
    channels: int | None = None,
    labels: str = "auto",
    progress: Callable[[int], object] = lambda count: None,
) -> dict:
    """Write any data set that `load_images` opens as a zip of PNG files of one size.

    The zip holds `00000/img00000000.png` and so on, `dataset.json` with the labels (StyleGAN's and EDM's form) and
    `manifest.json`, which records what was done to what. Nothing in it depends on the time, the machine's user or
    the order of a folder's listing: the same source gives the same bytes, as long as Pillow packs PNG alike.

    Args:
        source: a path or `digits`, as for `load_images`.
        destination: the zip to write, whole or not at all.
        size: side in pixels; None keeps the images' own.
        split: train, test or all. A zip of one split serves as that split only.
        crop: as for `load_images`.
        filter: as for `load_images`.
        channels: as for `load_images`.
        labels: as for `load_images`.
        progress: called with how many images were written, after each.

    Returns:
        The manifest.

    Raises:
        InputError: as for `load_images`; or the destination is no `.zip`, or cannot be written.
    """
    destination = Path(destination)
    if destination.suffix.lower() != ".zip":
        raise InputError(f"{destination}: the destination must end in .zip")
    dataset = load_images(source, split, size, crop, filter, channels, labels)
    names = [f"{i // _FOLDER:05d}/img{i:08d}.png" for i in range(len(dataset))]
    manifest = {
        "format": "pcdiff images 1",
        "source": dataset.identity.to_dict(),
        "split": split,
        "count": len(dataset),
        "shape": list(dataset.identity.shape),
        "class_names": list(dataset.class_names),
    }
    table = None if dataset.labels is None else [list(p) for p in zip(names, dataset.labels.tolist(), strict=True)]
    with replacing(destination) as draft, zipfile.ZipFile(draft, "w") as archive:
        for index, (name, image) in enumerate(zip(names, _images(dataset), strict=True)):
            _add(archive, name, encode_png(image))
            progress(index + 1)
        _add(archive, "dataset.json", _json({"labels": table, "class_names": list(dataset.class_names)}))
        _add(archive, "manifest.json", _json(manifest))
    return manifest


def dump(dataset: ImageDataset, folder: Path | str) -> list[Path]:
    """Write a data set as `class_index.png` files, e.g. `frog_00042.png`, which `labels="names"` reads again.

    Classes whose names are more than letters, digits and hyphens go by number; without labels the class is `image`.

    Returns:
        The files, in the data set's order.

    Raises:
        InputError: the folder holds something already, or cannot be written to.
    """
    folder = Path(folder)
    if exists(folder) and (not is_folder(folder) or any(folder.iterdir())):
        raise InputError(f"{folder}: must be a new or empty folder")
    if dataset.labels is None:
        prefixes = ["image"] * len(dataset)
    else:
        plain = all(_PLAIN.fullmatch(name) for name in dataset.class_names)
        prefixes = [dataset.class_names[i] if plain else str(i) for i in dataset.labels.tolist()]
    width = max(5, len(str(len(dataset) - 1)))
    paths = [folder / f"{prefix}_{i:0{width}d}.png" for i, prefix in enumerate(prefixes)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, image in zip(paths, _images(dataset), strict=True):
            path.write_bytes(encode_png(image))
    except OSError as error:
        raise InputError(f"{folder}: cannot write ({error.strerror or error})") from None
    return paths


def encode_png(image: np.ndarray) -> bytes:
    """Return uint8 `(C, H, W)` as PNG, C being 1 or 3."""
    buffer = io.BytesIO()
    to_image(image).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _images(dataset: ImageDataset) -> Iterator[np.ndarray]:
    for first in range(0, len(dataset), _CHUNK):
        yield from dataset.images[first : first + _CHUNK].numpy()


def _json(content: dict) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # the zip format's earliest
    info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every system
    archive.writestr(info, data, zipfile.ZIP_STORED)  # PNG is packed already
