"""Chains: processes whose times are the integers 0..T, and piecewise linear between them."""

import torch
from torch import Tensor

from pcdiff.diffusion.processes.base import Process
from pcdiff.errors import InputError


class Chain(Process):
    """Base of the processes with a table: the data at time 0, then T steps.

    Integer times are read from the table. Times between them, which ODE solvers and log-SNR grids ask for, are
    interpolated, as DPM-Solver does (Lu et al., 2022).

    Args:
        num_steps: T.
    """

    train_eps = sample_eps = 0.0

    def __init__(self, num_steps: int):
        super().__init__()
        self.num_steps = self.num_scales = num_steps
        self.T = float(num_steps)

    def own_steps(self, num_steps: int | None) -> None:
        """Refuse to be cut into other steps than the chain's own.

        Raises:
            InputError: `num_steps` is another number.
        """
        if num_steps not in (None, self.num_steps):
            raise InputError(f"num_steps must be the chain's own {self.num_steps} here, got {num_steps}")

    def position(self, t: Tensor) -> Tensor:
        """Return t - 1 `(B,)`: papers' code counts the steps from 0."""
        return t - 1

    def time_grid(self, num_steps: int | None = None) -> Tensor:
        """Return `num_steps + 1` evenly spaced integer times from T down to 0; all of them by default.

        Raises:
            InputError: `num_steps` is not in 1..T.
        """
        num_steps = self.num_steps if num_steps is None else num_steps
        if not 1 <= num_steps <= self.num_steps:
            raise InputError(f"num_steps must be in 1..{self.num_steps} for this chain, got {num_steps}")
        return whole_times(self.num_steps, num_steps, self.device)


def whole_times(start: int, num_steps: int, device: torch.device) -> Tensor:
    """Return `num_steps + 1` integer times, as even as they can be, from `start` down to 0; num_steps <= start.

    In float64: from a few thousand steps on, float32 rounds two neighbors to the same time.
    """
    return torch.linspace(start, 0, num_steps + 1, dtype=torch.float64).round().long().to(device)


def interpolate(table: Tensor, t: Tensor) -> Tensor:
    """Return a table's values `(B,)` at times `t (B,)` in `[0, len(table) - 1]`, linear between integers."""
    if not t.is_floating_point():
        return table[t]
    t = t.to(table.dtype)
    before = t.floor().long().clamp(max=len(table) - 2)
    return torch.lerp(table[before], table[before + 1], t - before)


def slope(table: Tensor, t: Tensor) -> Tensor:
    """Return the table's derivative `(B,)` at times `t (B,)`; at an integer that of the step that ends there."""
    after = (t.ceil().long() if t.is_floating_point() else t).clamp(min=1)
    return table[after] - table[after - 1]


def inverse(table: Tensor, value: Tensor) -> Tensor:
    """Return the times `(B,)` at which a rising table takes the values `value (B,)`, cut to the table's ends."""
    value = value.to(table.dtype).clamp(table[0], table[-1])
    after = torch.searchsorted(table, value).clamp(1, len(table) - 1)
    low, high = table[after - 1], table[after]
    return after - (high - value) / (high - low)
