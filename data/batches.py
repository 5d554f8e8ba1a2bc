"""Training batches as a pure function of (seed, step), so that a resumed run sees what it would have seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pcdiff.data.partial import PartialClouds
from pcdiff.errors import InputError
from pcdiff.runtime.cloud_batch import CloudBatch
from pcdiff.runtime.epoch_sampler import POINTS, ShuffledEpochs, stream


class Batches:
    """Endless shuffled batches of subsampled clouds; `batches(step)` depends on (seed, step) only.

    Clouds are taken in a fresh permutation per epoch, without a gap: a batch may span two epochs, and no
    cloud is dropped or seen twice within one epoch. From each cloud `num_points` points are drawn without
    replacement. The draws are made on the CPU, so every device sees the same batches. Of several processes each
    asks for its own rows of a step's batch, `batches(step, rows)`.

    Args:
        points: `(n, P, 3)`.
        batch_size: clouds per batch; may exceed n.
        num_points: points per cloud, at most P.
        seed: at least 0.
        device: where the batches appear, and the clouds are kept where they fit.
        rotate: turn every cloud about the y axis (up) by its own uniform angle.
        partial: put points that a completion model is given first, cut from all of a cloud's by the step's draws.
        labels: of the clouds' classes `(n,)`; with them a batch is a `CloudBatch`.

    Attributes:
        steps_per_epoch: n / batch_size, a float.

    Raises:
        InputError: wrong shape, a size below 1, a negative seed, more points asked than a cloud has, or not a
            label for each cloud.

    Example:
        >>> batches = Batches(torch.rand(10, 64, 3), batch_size=4, num_points=16, seed=0)
        >>> batches(7).shape
        torch.Size([4, 16, 3])
    """

    def __init__(
        self,
        points: Tensor,
        batch_size: int,
        num_points: int,
        seed: int,
        device: torch.device | str = "cpu",
        rotate: bool = False,
        partial: PartialClouds | None = None,
        labels: Tensor | None = None,
    ) -> None:
        if points.ndim != 3 or points.shape[-1] != 3 or 0 in points.shape:
            raise InputError(f"points must be (n, P, 3), got {tuple(points.shape)}")
        if batch_size < 1 or num_points < 1:
            raise InputError(f"batch_size and num_points must be at least 1, got {batch_size}, {num_points}")
        if seed < 0:
            raise InputError(f"seed must not be negative, got {seed}")
        if num_points > points.shape[1]:
            raise InputError(f"num_points must be at most {points.shape[1]}, what each cloud has, got {num_points}")
        if partial is not None:
            partial.check(points.shape[1])
            if num_points <= partial.num_given:
                raise InputError(
                    f"num_points must be above the {partial.num_given} points that are given, got {num_points}"
                )
        if labels is not None and labels.shape != points.shape[:1]:
            raise InputError(f"labels must be ({len(points)},), one for each cloud, got {tuple(labels.shape)}")
        self.device, self.partial = torch.device(device), partial
        self.points = points.to(self.device if _fits(points, self.device) else "cpu").contiguous()
        self.batch_size, self.num_points, self.seed, self.rotate = batch_size, num_points, seed, rotate
        self.labels = None if labels is None else labels.to(self.points.device)
        self.steps_per_epoch = len(points) / batch_size
        self._order = ShuffledEpochs(len(points), batch_size, seed)

    def __call__(self, step: int, rows: slice = slice(None)) -> Tensor | CloudBatch:
        """Return the batch of one step `(batch_size, num_points, 3)`, or those rows of it alone.

        Where the clouds have labels, these `(batch_size,)` come with it.
        """
        if step < 0:
            raise InputError(f"step must not be negative, got {step}")
        clouds = self._moved(self.indices(step)[rows])
        generator = stream(self.seed, POINTS, step)
        available = self.points.shape[1]
        if self.partial is not None:
            draws = self.partial.draw(self.batch_size, available, generator)
            own = type(draws)(*(self._moved(values[rows]) for values in draws))
            batch = self.partial(self.points[clouds], own, self.num_points)
        elif self.num_points == available:
            batch = self.points[clouds]
        else:
            # The positions of the largest of P independent uniforms are a uniform draw without replacement.
            keys = torch.rand(self.batch_size, available, generator=generator)[rows]
            chosen = self._moved(keys.topk(self.num_points, dim=1, sorted=False).indices)
            places = (clouds[:, None] * available + chosen).flatten()
            batch = self.points.view(-1, 3)[places].view(len(clouds), self.num_points, 3)
        if self.rotate:
            angle = torch.rand(self.batch_size, generator=generator, dtype=torch.float64)[rows] * (2 * math.pi)
            batch = batch @ self._moved(rotations_about_y(angle).to(batch.dtype))
        batch = batch.to(self.device, non_blocking=True)
        if self.labels is None:
            return batch
        return CloudBatch(batch, self.labels[clouds].to(self.device, non_blocking=True))

    def _moved(self, values: Tensor) -> Tensor:
        """Bring values made on the CPU to where the clouds are, without waiting for a GPU."""
        on_gpu = self.points.is_cuda
        return (values.pin_memory() if on_gpu else values).to(self.points.device, non_blocking=True)

    def indices(self, step: int) -> Tensor:
        """Return which clouds the batch of one step holds, `(batch_size,)` int64."""
        return self._order.indices(step)


def _fits(points: Tensor, device: torch.device) -> bool:
    """Return whether the clouds may stay on the device: in half of a GPU's free memory. One category does."""
    return device.type != "cuda" or 2 * points.nbytes <= torch.cuda.mem_get_info(device)[0]


def rotations_about_y(angle: Tensor) -> Tensor:
    """Return the matrices `(B, 3, 3)` that turn row vectors about y by `angle` radians."""
    cos, sin = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [cos, zero, -sin, zero, one, zero, sin, zero, cos]
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)
