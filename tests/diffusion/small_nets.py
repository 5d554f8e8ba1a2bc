"""Nets and denoisers of known answers, shared by the tests of the core."""

import torch
from torch import nn

from pcdiff.diffusion import Denoiser


class FixedAnswer(nn.Module):
    """A net that gives a fixed answer and remembers what it was called with."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, t, cond=None):
        self.given = x, t, cond
        return self.answer


class KnownData(Denoiser):
    """A denoiser that knows x_0."""

    def __init__(self, process, x0):
        super().__init__(process)
        self.x0 = x0

    def forward(self, x, t, cond=None):
        return self.x0


class Heads(nn.Module):
    """A noise estimate and a variance, one parameter each."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
        self.variance = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, x, t, cond=None):
        return torch.cat([self.mean * x, self.variance + 0 * x], dim=1)
