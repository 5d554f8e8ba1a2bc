"""Scalars on their way to TensorBoard: a GPU is not waited for, and a full disk does not end a training."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("pcdiff")

_SECONDS_BETWEEN_FLUSHES = 10


class TensorBoardScalars:
    """Writes scalars by name and step; those of a GPU one call later, when they have long arrived.

    Args:
        folder: of the event files; None writes nothing.
        first_step: steps finished before; what a stopped run had logged of later ones is hidden.
    """

    def __init__(self, folder: Path | None, first_step: int = 0):
        self._waiting: tuple[int, list[str], Tensor, torch.cuda.Event | None] | None = None
        self._writer: SummaryWriter | None = None
        self._excepthook = threading.excepthook
        if folder is None:
            return
        threading.excepthook = self._thread_failed
        try:
            self._writer = SummaryWriter(
                str(folder), purge_step=first_step + 1, flush_secs=_SECONDS_BETWEEN_FLUSHES
            )
        except OSError as error:
            self._give_up(error)

    def add(self, step: int, prefix: str, terms: dict[str, Tensor | float]) -> None:
        """Log scalars as `prefix/name`."""
        values = [torch.as_tensor(value, dtype=torch.float32).detach() for value in terms.values()]
        device = next((value.device for value in values if value.is_cuda), torch.device("cpu"))
        stacked, arrived = torch.stack([value.to(device, non_blocking=True) for value in values]), None
        if device.type == "cuda":
            stacked = torch.empty(stacked.shape, pin_memory=True).copy_(stacked, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._write_waiting()
        self._waiting = step, [f"{prefix}/{name}" for name in terms], stacked, arrived
        if arrived is None:
            self._write_waiting()

    def show(self, show: Callable[[SummaryWriter, int], None], step: int) -> None:
        """Call `show(writer, step)`, to log what is no scalar."""
        self._guarded(lambda writer: show(writer, step))

    def flush(self) -> None:
        """Bring all that was logged to the disk."""
        self._write_waiting()
        self._guarded(lambda writer: writer.flush())

    def close(self) -> None:
        """Write what is waiting and close the file."""
        self._write_waiting()
        self._guarded(lambda writer: writer.close())
        self._writer = None
        threading.excepthook = self._excepthook

    def _write_waiting(self) -> None:
        if self._waiting is None:
            return
        (step, names, values, arrived), self._waiting = self._waiting, None
        if arrived is not None:
            arrived.synchronize()

        def write(writer: SummaryWriter) -> None:
            for name, value in zip(names, values.tolist(), strict=True):
                writer.add_scalar(name, value, step)

        self._guarded(write)

    def _guarded(self, work: Callable[[SummaryWriter], None]) -> None:
        if self._writer is None:
            return
        try:
            work(self._writer)
        except OSError as error:
            self._give_up(error)

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Suppress the traceback of the writing thread: the next call raises its error."""
        writes = type(failure.thread).__module__.startswith("tensorboard.")
        if not (writes and isinstance(failure.exc_value, OSError)):
            self._excepthook(failure)

    def _give_up(self, error: OSError) -> None:
        log.error("TensorBoard: cannot write (%s); the training continues without it", error.strerror or error)
        self._writer = None
