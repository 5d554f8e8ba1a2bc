"""The one sampling loop, for any shape, process and predictor."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pcdiff.diffusion.denoiser import Denoiser
from pcdiff.diffusion.predictors import Noise, Predictor, predictor
from pcdiff.errors import InputError

Callback = Callable[[int, float, Tensor], None]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    shape: Sequence[int] | None = None,
    *,
    cond: Any = None,
    x_init: Tensor | None = None,
    step: Predictor | None = None,
    num_steps: int | None = None,
    generator: torch.Generator | None = None,
    noise: Noise | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Run the reverse process from noise to data (Luo & Hu, 2021, eq. 3; Ho et al., 2020, algorithm 2).

    Args:
        denoiser: the model.
        shape: `(B, *dims)` of the result; the start is then drawn from N(0, I).
        cond: what the net is conditioned on.
        x_init: the start itself, in place of `shape`.
        step: a predictor (`pcdiff.diffusion.predictor`); the ancestral one by default.
        num_steps: steps from noise to data; the whole chain by default.
        generator: source of every draw; the start first, then one draw a step but the last.
        noise: overrides the draws of the steps: maps x to a standard normal like it.
        callback: called as `callback(k, t, x)` with the start (k = 0) and after every step.

    Returns:
        Samples `(B, *dims)`.

    Raises:
        InputError: neither or both of `shape` and `x_init`; `num_steps` out of range.
    """
    if (shape is None) == (x_init is None):
        raise InputError("give exactly one of shape and x_init to sample()")
    times = denoiser.process.time_grid(num_steps)
    step = predictor("ancestral") if step is None else step
    if noise is None:
        noise = _standard_normal(generator)
    if x_init is None:
        x = torch.randn(tuple(shape), generator=generator, device=times.device)
    else:
        x = x_init
    if callback is not None:
        callback(0, float(times[0]), x)
    for k in range(len(times) - 1):
        t, s = times[k].expand(len(x)), times[k + 1].expand(len(x))
        last = k == len(times) - 2
        x = step(denoiser, x, t, s, cond, None if last else noise)
        if callback is not None:
            callback(k + 1, float(times[k + 1]), x)
    return x


def _standard_normal(generator: torch.Generator | None) -> Noise:
    def draw(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    return draw


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
