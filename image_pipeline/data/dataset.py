"""Images of one split, resident or decoded when asked for, and what data set they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from pcdiff.errors import InputError
from pcdiff.runtime.identity import Identity

SPLITS = ("train", "test", "all")
TEST_SHARE = 6  # one image in six is held out of a data set without a split of its own, as in CIFAR-10 and MNIST
_SPLIT_SEED = 0


@dataclass(frozen=True)
class ImageIdentity(Identity):
    """What a data set is, for the record in checkpoints and results.

    Attributes:
        name: layout and file name, e.g. `"CIFAR-10 binary: cifar-10-batches-bin"`.
        shape: `(C, H, W)` of every image as loaded.
        preprocessing: what was done to the source's images, in words.
        splits: where the train and the test split come from, in words.
        fingerprint: short SHA-256 over all splits and the preprocessing, the same whichever split is loaded. Of
            resident sets over every pixel and label; of a zip over every member's name and CRC-32; of folders and
            lmdb over every name (in folders size too) and the bytes of 16 images spread evenly.
    """

    name: str
    shape: tuple[int, int, int]
    preprocessing: str
    splits: str
    fingerprint: str

    kind: ClassVar[str] = "image data set identity"


class Images(Protocol):
    """Images `(n, C, H, W)` by index: a uint8 tensor, or `LazyImages`, which decodes when indexed.

    Attributes:
        shape: `(n, C, H, W)`.
    """

    shape: Sequence[int]

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images of int64 indices `(k,)`, uint8 `(k, C, H, W)`."""
        ...


@dataclass(eq=False)
class ImageDataset:
    """The images of one split.

    Attributes:
        images: uint8 `(n, C, H, W)`, resident (a tensor) or lazy; `images[indices]` is a uint8 tensor either way.
        labels: `(n,)` int64 in `0..num_classes-1`, or None.
        class_names: name per class; empty without labels.
        split: train, test or all.
        identity: what the data set is.
        found: (H, W) of the images before they were brought to a size; None where they differed.
    """

    images: Images | Tensor = field(repr=False)
    labels: Tensor | None = field(repr=False)
    class_names: tuple[str, ...]
    split: str
    identity: ImageIdentity
    found: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int | None:
        """How many classes there are, or None without labels."""
        return None if self.labels is None else len(self.class_names)

    @property
    def enlarged(self) -> str | None:
        """Return a note on images that were enlarged; None of others."""
        size = self.identity.shape[1:]
        if self.found is None or (self.found[0] >= size[0] and self.found[1] >= size[1]):
            return None
        was, now = (f"{height}x{width}" for height, width in (self.found, size))
        return f"{self.identity.name}: images of {was} are brought to {now} ({self.identity.preprocessing})"

    @property
    def resident(self) -> bool:
        """Whether all images lie in memory."""
        return isinstance(self.images, Tensor)


def seeded_split(count: int, split: str) -> Tensor:
    """Return the indices of one split of a data set that has none of its own, rising, `(k,)` int64.

    One image in six, drawn once and for all with a fixed seed, is test; the rest is train. So the two never meet,
    whoever loads them, as long as the data set stays the same.

    Raises:
        InputError: fewer than six images, which leave nothing to hold out.
    """
    if split == "all":
        return torch.arange(count)
    held_out = count // TEST_SHARE
    if not held_out:
        raise InputError(
            f"split {split}: one image in {TEST_SHARE} is held out for the test split, which {count} images are "
            f"too few for; give {TEST_SHARE} or more, put them into a folder named train, or take --split all"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_SPLIT_SEED))
    return (order[:held_out] if split == "test" else order[held_out:]).sort().values


def split_story(count: int) -> str:
    """Describe `seeded_split` in words."""
    held_out = count // TEST_SHARE
    return f"no split of its own: {held_out} of {count} drawn with a fixed seed are test, the others train"


def digest(*parts: bytes | str) -> str:
    """Return the short SHA-256 of some parts, each delimited from its neighbors."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        sha.update(f"{len(data)}:".encode() + data)
    return sha.hexdigest()[:16]
