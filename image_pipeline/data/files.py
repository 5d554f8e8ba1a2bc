"""Image files in a folder or a zip: both list names and give the bytes of one."""

from __future__ import annotations

import os
import weakref
import zipfile
from pathlib import Path
from typing import Protocol

from image_pipeline.data.dataset import digest
from pcdiff.errors import InputError
from pcdiff.runtime.paths import is_file, look

IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"})
_PROBES = 16
_LARGEST = 1 << 30  # bytes of a member: a few kilobytes of zip may promise more than there is memory


class Files(Protocol):
    """A place that holds encoded images by name.

    Attributes:
        where: the path, for messages.
        kind: for the data set's identity.
        names: of the images, sorted, with `/` between folders.
    """

    where: str
    kind: str
    names: list[str]

    def read(self, name: str) -> bytes:
        """Return the bytes of an image or of a side file."""
        ...

    def has(self, name: str) -> bool:
        """Return whether there is a side file of that name."""
        ...

    def digest(self) -> str:
        """Return a short hash of what lies there."""
        ...


def is_image(name: str) -> bool:
    """Return whether a file is an image by its ending; hidden files and macOS's shadows are none."""
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def spread(count: int, most: int = _PROBES) -> list[int]:
    """Return up to `most` indices spread evenly over 0..count-1, both ends included."""
    if count <= most:
        return list(range(count))
    return sorted({i * (count - 1) // (most - 1) for i in range(most)})


class FolderFiles:
    """Image files anywhere under a folder."""

    kind = "image folder"

    def __init__(self, root: Path) -> None:
        self.root, self.where = root, str(root)
        found, seen = [], set()
        for folder, subfolders, files in os.walk(root, onerror=self._refuse, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link back to a folder above it
                subfolders.clear()
                continue
            seen.add(real)
            inside = Path(folder).relative_to(root).as_posix()
            found += [name if inside == "." else f"{inside}/{name}" for name in files]
        self.names = sorted(filter(is_image, found))

    @staticmethod
    def _refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot list it ({error.strerror})") from None

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise InputError(f"{self.root / name}: cannot be read ({error.strerror})") from None

    def has(self, name: str) -> bool:
        """Return whether a file is there."""
        return is_file(self.root / name)

    def digest(self) -> str:
        """Hash every name and size, and the bytes of 16 images."""
        listing = "\n".join(f"{name} {self._size(name)}" for name in self.names)
        return digest(listing, *(self.read(self.names[i]) for i in spread(len(self.names))))

    def _size(self, name: str) -> int:
        found = look(self.root / name)
        if found is None:
            raise InputError(f"{self.root / name}: leads nowhere; remove it")
        return found.st_size


class ZipFiles:
    """Image files in a zip, read from several threads at once and opened anew in every process.

    Raises:
        InputError: it is no zip, or truncated.
    """

    kind = "image zip"

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        self._process = -1
        self._archive: zipfile.ZipFile | None = None
        # by the name, not `is_dir`, which stumbles over a member without one
        self._members = {
            info.filename: info for info in self._open().infolist() if info.filename[-1:] not in ("", "/")
        }
        self.names = sorted(filter(is_image, self._members))

    def _open(self) -> zipfile.ZipFile:
        archive = self._archive
        if archive is None or self._process != os.getpid():  # a forked worker shares its parent's file position
            try:
                archive = self._archive = zipfile.ZipFile(self.path)
            except Exception as error:  # damaged bytes raise anything: struct.error, NotImplementedError, ...
                raise InputError(f"{self.path}: truncated or no zip ({error}); fetch it again") from None
            weakref.finalize(self, archive.close)
            self._process = os.getpid()
        return archive

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_process": -1, "_archive": None}

    def read(self, name: str) -> bytes:
        """Return a member's bytes, checked by its CRC."""
        size = self._members[name].file_size if name in self._members else 0
        if size > _LARGEST:
            raise InputError(f"{self.path}: {name}: unpacks to {size} bytes, more than an image has")
        try:
            return self._open().read(name)
        except Exception as error:  # as above
            raise InputError(f"{self.path}: {name}: truncated or damaged ({error}); fetch it again") from None

    def has(self, name: str) -> bool:
        """Return whether a member is there."""
        return name in self._members

    def digest(self) -> str:
        """Hash every image's name, size and CRC-32, as the zip's directory has them."""
        infos = (self._members[name] for name in self.names)
        return digest("\n".join(f"{info.filename} {info.file_size} {info.CRC}" for info in infos))
