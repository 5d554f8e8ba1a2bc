"""LSUN's lmdb: encoded images by key."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from image_pipeline.data.dataset import digest
from image_pipeline.data.files import spread
from pcdiff.errors import InputError


class _Environment:
    def __init__(self, path: str) -> None:
        try:
            import lmdb
        except ImportError:
            raise InputError(f"{path}: reading it needs lmdb: pip install 'pcdiff[lmdb]'") from None
        try:
            self.handle = lmdb.open(path, readonly=True, lock=False, readahead=False, max_readers=256)
        except lmdb.Error as error:
            raise InputError(f"{path}: truncated or no lmdb ({error}); fetch it again") from None
        weakref.finalize(self, self.handle.close)


# lmdb refuses to open one environment twice in a process: train and test share it.
_environments: weakref.WeakValueDictionary[tuple[int, str], _Environment] = weakref.WeakValueDictionary()


class LmdbFiles:
    """LSUN's lmdb: encoded images by key, no labels.

    Raises:
        InputError: lmdb is not installed, or the environment is truncated or damaged.
    """

    kind = "LSUN lmdb"

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = folder, str(folder)
        self._environment: _Environment | None = None
        self._process = -1
        with self._open().handle.begin() as transaction:
            # Latin-1 maps bytes to characters one by one, so that any key comes back as it was.
            self.names = [key.decode("latin1") for key in transaction.cursor().iternext(keys=True, values=False)]

    def _open(self) -> _Environment:
        if self._process != os.getpid():
            key = (os.getpid(), str(self.folder.resolve()))
            found = _environments.get(key)
            if found is None:
                found = _environments[key] = _Environment(str(self.folder))
            self._environment, self._process = found, os.getpid()
        return self._environment

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_process": -1, "_environment": None}

    def read(self, name: str) -> bytes:
        """Return a value."""
        with self._open().handle.begin() as transaction:
            value = transaction.get(name.encode("latin1"))
        if value is None:
            raise InputError(f"{self.folder}: has no key {name!r} any more")
        return value

    def has(self, name: str) -> bool:
        """Return False: an lmdb has images only."""
        return False

    def digest(self) -> str:
        """Hash every key and the bytes of 16 images."""
        return digest("\n".join(self.names), *(self.read(self.names[i]) for i in spread(len(self.names))))
