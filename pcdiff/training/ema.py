"""The moving average of a model's weights."""

import copy

import torch
from torch import nn

from pcdiff.errors import OutOfRange


class ExponentialMovingAverage:
    """Moving average of a model's weights and buffers, with a warm-up: early on it follows quickly.

    Args:
        model: the model to follow; the average is a copy of it.
        decay: share of the old average kept at a step, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise OutOfRange("ema_decay", "in (0, 1)", decay)
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move toward `model` after step `step` (from 0)."""
        decay = min(self.decay, (step + 1) / (step + 10))
        average, current = self.model.state_dict(), model.state_dict()
        floating = [k for k, v in average.items() if v.is_floating_point()]
        torch._foreach_lerp_([average[k] for k in floating], [current[k] for k in floating], 1 - decay)
        for name, value in average.items():
            if not value.is_floating_point():
                value.copy_(current[name])
