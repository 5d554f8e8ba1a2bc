"""How a batch is cut up among processes, and within one, such that its loss and gradient stay the same."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pcdiff.errors import InputError
from pcdiff.runtime import distributed

# Buffers are alike on all processes already. torch 2.13 renamed the option for that.
_NAMES = inspect.signature(DistributedDataParallel).parameters
_LEAVE_BUFFERS = {"forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers": False}


class _Loss(nn.Module):
    """A model's loss terms as a forward pass, which is what DistributedDataParallel watches."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: Any, draws: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the loss terms."""
        return self.model.loss_terms(batch, **draws)


class MicroBatches:
    """The rows of a batch that this process computes, one part after the other.

    Gradients are averaged over all processes behind the last part (torch's DistributedDataParallel), and batch
    normalization takes the rows of all processes; with several parts, the rows of one part each.

    Args:
        model: changed in place where there are several processes.
        batch_size: rows of the whole batch.
        accumulate: parts of each process.
        device: where the model runs.

    Attributes:
        rows: a slice of the batch for each part.

    Raises:
        InputError: the batch cannot be cut into equal parts, or their rows are too few.
    """

    def __init__(self, model: nn.Module, batch_size: int, accumulate: int, device: torch.device):
        size, rank = distributed.world_size(), distributed.rank()
        count = size * accumulate
        if batch_size % count or batch_size < 2 * count:
            raise InputError(
                f"batch_size must be a multiple of processes x accumulate = {size} x {accumulate}, and at least "
                f"twice that, got {batch_size}"
            )
        each = batch_size // count
        first = [(rank * accumulate + k) * each for k in range(accumulate)]
        self.rows = [slice(start, start + each) for start in first]
        self._batch_size = batch_size
        self._loss: nn.Module = _Loss(model)
        if size > 1:
            # here, since it brings torch's compiler along, which takes more than a second of a program's start
            from pcdiff.runtime.sync_batchnorm import synchronize

            synchronize(model, device)
            devices = [device.index] if device.type == "cuda" else None
            self._loss = DistributedDataParallel(
                self._loss, device_ids=devices, gradient_as_bucket_view=True, **_LEAVE_BUFFERS
            )

    def terms(self, batch: Any, draws: dict[str, Tensor], part: int) -> dict[str, Tensor]:
        """Return the loss terms of a part.

        Args:
            batch: the part's rows.
            draws: of the whole batch; each draw's first dimension is a multiple of the batch's.
            part: which one.
        """
        return self._loss(batch, {name: self._of(value, self.rows[part]) for name, value in draws.items()})

    def exchanging(self, part: int) -> AbstractContextManager:
        """Return the context of a part's forward and backward pass: gradients travel behind the last one only."""
        last = part == len(self.rows) - 1
        return nullcontext() if last or not hasattr(self._loss, "no_sync") else self._loss.no_sync()

    def _of(self, draw: Tensor, rows: slice) -> Tensor:
        times = len(draw) // self._batch_size
        return draw[rows.start * times : rows.stop * times]
