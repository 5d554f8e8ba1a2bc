"""LSUN's lmdb: encoded images by key."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from image_pipeline.data.dataset import digest
from image_pipeline.data.files import spread
from pcdiff.errors import InputError
from pcdiff.interop.child_process import look_at_lmdb


class _Environment:
    """One open environment.

    Raises:
        InputError: lmdb is not installed, or the environment is truncated or damaged.
    """

    def __init__(self, path: str) -> None:
        try:
            import lmdb
        except ImportError:
            raise InputError(f"{path}: reading it needs lmdb: pip install 'pcdiff[lmdb]'") from None
        self.path, self._error = path, lmdb.Error
        try:
            look_at_lmdb(Path(path))
        except OSError as error:
            raise InputError(f"{path}: truncated or no lmdb ({error}); fetch it again") from None
        with self._reporting_damage():
            self._handle = lmdb.open(path, readonly=True, lock=False, readahead=False, max_readers=256)
        weakref.finalize(self, self._handle.close)
        # A page that the file lacks would be met as a bus error, which nobody can catch.
        promised = (self._handle.info()["last_pgno"] + 1) * self._handle.stat()["psize"]
        held = (Path(path) / "data.mdb").stat().st_size
        if held < promised:
            raise InputError(f"{path}: truncated: data.mdb has {held} bytes of {promised}; fetch it again")

    @contextmanager
    def _reporting_damage(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise InputError(f"{self.path}: truncated or no lmdb ({error}); fetch it again") from None

    def all_keys(self) -> list[bytes]:
        """Return all keys in order."""
        with self._reporting_damage(), self._handle.begin() as transaction:
            return list(transaction.cursor().iternext(keys=True, values=False))

    def get(self, key: bytes) -> bytes | None:
        """Return a value, or None without one."""
        with self._reporting_damage(), self._handle.begin() as transaction:
            return transaction.get(key)


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
        # Latin-1 maps bytes to characters one by one, so that any key comes back as it was.
        self.names = [key.decode("latin1") for key in self._open().all_keys()]

    def _open(self) -> _Environment:
        found = self._environment
        if found is None or self._process != os.getpid():
            key = (os.getpid(), str(self.folder.resolve()))
            found = _environments.get(key)
            if found is None:
                found = _environments[key] = _Environment(str(self.folder))
            self._environment, self._process = found, os.getpid()
        return found

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_process": -1, "_environment": None}

    def read(self, name: str) -> bytes:
        """Return a value."""
        value = self._open().get(name.encode("latin1"))
        if value is None:
            raise InputError(f"{self.folder}: has no key {name!r} any more")
        return value

    def has(self, name: str) -> bool:
        """Return False: an lmdb has images only."""
        return False

    def digest(self) -> str:
        """Hash every key and the bytes of 16 images."""
        return digest("\n".join(self.names), *(self.read(self.names[i]) for i in spread(len(self.names))))
