"""Brownian motion that remembers what was drawn ahead of it, for steps that are refused and made shorter."""

import torch
from torch import Tensor

from pcdiff.diffusion.processes.base import append_dims

REMEMBERED = 8


class BrownianPath:
    """A Brownian motion of every sample, followed from late times to early ones.

    A value asked for is drawn given what is known of the path: between two known ones by the Brownian bridge. So a
    step that is tried again, shorter, sees the path that refused it; a fresh draw would favor calm paths. At most
    `REMEMBERED` values ahead are kept, so that memory stays bounded.

    Args:
        like: a batch `(B, *dims)`.
        t: where every sample starts, `(B,)` float64.
    """

    def __init__(self, like: Tensor, t: Tensor):
        self.now, self.value = t, torch.zeros_like(like)
        # known points ahead, times and values; those behind `now` are free places
        self.times = t.new_empty(0, len(t))
        self.values = like.new_empty(0, *like.shape)
        self.asked = self.now, self.value

    def increment(self, after: Tensor, z: Tensor) -> Tensor:
        """Return the path's increment from now to the earlier times `after (B,)`, like `z`, a standard normal."""
        near, far = self.now, torch.full_like(self.now, -torch.inf)
        near_value, far_value = self.value, self.value
        for time, value in zip(self.times, self.values, strict=True):
            ahead = time < self.now
            nearer = ahead & (time >= after) & (time < near)
            near, near_value = torch.where(nearer, time, near), _choose(nearer, value, near_value)
            farther = ahead & (time < after) & (time > far)
            far, far_value = torch.where(farther, time, far), _choose(farther, value, far_value)
        way, known = near - after, far.isfinite()
        share = torch.where(known, way / torch.where(known, near - far, 1), 0)
        reached = near_value + append_dims(share, z) * (far_value - near_value)
        reached = reached + append_dims((way * (1 - share)).sqrt(), z) * z
        self.asked = after, reached
        return reached - self.value

    def go_on(self, taken: Tensor) -> None:
        """Move the samples `taken (B,)` to where they were asked for last, and remember that of the others."""
        after, reached = self.asked
        self.now, self.value = torch.where(taken, after, self.now), _choose(taken, reached, self.value)
        open_ = ~taken & (after < self.now)
        for k in range(len(self.times)):
            free = open_ & (self.times[k] >= self.now)
            self.times[k] = torch.where(free, after, self.times[k])
            self.values[k] = _choose(free, reached, self.values[k])
            open_ = open_ & ~free
        if len(self.times) < REMEMBERED and open_.any():
            self.times = torch.cat([self.times, torch.where(open_, after, self.now)[None]])
            self.values = torch.cat([self.values, reached[None]])


def _choose(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(append_dims(condition, a) > 0, a, b)
