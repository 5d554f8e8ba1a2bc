"""Batch normalization over the batch of all processes, on any device."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SyncedBatchNorm1d(nn.BatchNorm1d):
    """`BatchNorm1d` of rows `(M, C)` whose mean and variance are those of all processes' rows together.

    `torch.nn.SyncBatchNorm` is for GPUs only. Every process must hold as many rows.
    """

    @torch.compiler.disable  # what travels between processes stays out of compiled code
    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x (M, C)`; in evaluation by the running statistics."""
        if not self.training:
            return super().forward(x)
        rows = x.to(torch.promote_types(x.dtype, torch.float32))
        count = len(rows) * dist.get_world_size()
        mean = _Sum.apply(rows.sum(dim=0)) / count
        centered = rows - mean
        variance = _Sum.apply(centered.square().sum(dim=0)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias, centered, scale).to(x.dtype)


def synchronize(module: nn.Module, device: torch.device) -> nn.Module:
    """Return the module with every batch normalization made one over all processes; weights and names stay.

    Args:
        module: changed in place.
        device: where it runs.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d):
            synced = SyncedBatchNorm1d(child.num_features, child.eps, child.momentum).to(child.weight)
            synced.load_state_dict(child.state_dict())
            setattr(module, name, synced.train(child.training))
        else:
            synchronize(child, device)
    return module
