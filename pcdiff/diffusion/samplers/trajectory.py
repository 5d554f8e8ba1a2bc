"""A sampler callback that keeps every state."""

import torch
from torch import Tensor


class Trajectory:
    """A sampler callback that keeps every state.

    Example:
        >>> trajectory = Trajectory()
        >>> x = sample(denoiser, (2, 2048, 3), cond=z, callback=trajectory)
        >>> trajectory.states.shape, trajectory.times  # (T + 1, 2, 2048, 3), [100.0, 99.0, ...]
    """

    def __init__(self):
        self.times: list[float] = []
        self._states: list[Tensor] = []

    def __call__(self, k: int, t: float, x: Tensor) -> None:
        """Keep the state `x` at time `t`."""
        self.times.append(t)
        self._states.append(x)

    @property
    def states(self) -> Tensor:
        """Return all states, `(num_steps + 1, B, *dims)`, from noise to data."""
        return torch.stack(self._states)
