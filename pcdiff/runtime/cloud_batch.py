"""What a training step gets of clouds that carry more than points."""

from typing import NamedTuple

from torch import Tensor


class CloudBatch(NamedTuple):
    """Clouds of a training step, with their classes; clouds alone are a plain tensor.

    Attributes:
        points: `(B, N, 3)`.
        labels: of their classes `(B,)` int64, or None.
    """

    points: Tensor
    labels: Tensor | None = None
