"""The checkpoints of a run's folder: the last ones, the best one, and which of them can still be read."""

import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pcdiff.errors import InputError
from pcdiff.runtime.atomic_write import replacing
from pcdiff.runtime.memory_limit import Budget
from pcdiff.runtime.paths import exists, look
from pcdiff.training import checkpoint
from pcdiff.training.resume_checks import progress_of

log = logging.getLogger("pcdiff")

_MOST_TENSORS = 10_000  # of any net here
_STEP = re.compile(r"step-(\d+)\.safetensors")


class CheckpointManager:
    """Keeps `last.safetensors`, the `keep - 1` before it as `step-<N>.safetensors`, and `best.safetensors`.

    Args:
        folder: the folder of the checkpoints; made with the first of them.
        keep: how many of the last checkpoints stay.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep
        self._last_step: int | None = None  # of the file `last`, where it is whole

    def path(self, name: str) -> Path:
        """Return the path of checkpoint `last` or `best`."""
        return self.folder / f"{name}.safetensors"

    def exists(self) -> bool:
        """Return whether there is a checkpoint to continue from."""
        return bool(self._candidates())

    def budget(self) -> Budget:
        """Return what a net that continues from here may ask for: by the largest checkpoint, else by the machine.

        Raises:
            InputError: the folder may not be entered.
        """
        sizes = [found.st_size for path in self._candidates() if (found := look(path)) is not None]
        return Budget.of_tensors(max(sizes) // 2, _MOST_TENSORS) if sizes else Budget.of_machine()

    def save(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Write `last`; what was `last` moves to `step-<N>`, and the oldest goes.

        Raises:
            InputError: it cannot be written; what was there is untouched.
        """
        last, step = self.path("last"), metadata["step"]
        try:
            self._remove(self.folder.glob(".*.safetensors"))  # drafts of processes that were killed
            if self.keep > 1 and self._last_step not in (None, step) and exists(last):
                older = self.folder / f"step-{self._last_step:08d}.safetensors"
                older.unlink(missing_ok=True)
                try:
                    os.link(last, older)  # a second name: there is a `last` at every moment
                except OSError:  # a file system without links
                    with replacing(older) as draft:
                        shutil.copyfile(last, draft)
            checkpoint.save(last, tensors, metadata)
            self._last_step = step
            before = [path for path in self._steps() if _step_of(path) < step]
            self._remove(set(self._steps()) - set(before[: self.keep - 1]))
        except OSError as error:
            raise InputError(f"{error.filename}: cannot change ({error.strerror})") from None

    def save_best(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Write `best`.

        Raises:
            InputError: it cannot be written; what was there is untouched.
        """
        checkpoint.save(self.path("best"), tensors, metadata)

    def newest(self) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
        """Read the newest intact checkpoint; log it where a damaged one is skipped.

        Raises:
            InputError: there is none, or all are damaged.
        """
        candidates = self._candidates()
        if not candidates:
            raise InputError(f"{self.path('last')}: no such checkpoint")
        refused: InputError | None = None
        for path in candidates:
            try:
                tensors, metadata = checkpoint.read(path)
                progress_of(metadata, path)
            except InputError as error:
                refused = refused or error
                continue
            if refused is not None:
                log.warning("%s; going back to %s (step %d)", refused, path, metadata["step"])
            if path == self.path("last"):
                self._last_step = metadata["step"]
            return path, tensors, metadata
        assert refused is not None  # a candidate that was not returned was refused
        raise refused

    def _candidates(self) -> list[Path]:
        last = self.path("last")
        return [*([last] if exists(last) else []), *self._steps()]

    def _steps(self) -> list[Path]:
        """Return the older checkpoints, the newest first."""
        paths = [path for path in self.folder.glob("step-*.safetensors") if _STEP.fullmatch(path.name)]
        return sorted(paths, key=_step_of, reverse=True)

    @staticmethod
    def _remove(paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)


def _step_of(path: Path) -> int:
    return int(_STEP.fullmatch(path.name)[1])
