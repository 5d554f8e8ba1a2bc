"""The points within a radius: the neighborhoods that set abstraction pools over."""

import torch

from pcdiff.ops import _check, _native, reference
from pcdiff.ops.chamfer import prepare


def ball_query(
    x: torch.Tensor,
    y: torch.Tensor,
    radius: float,
    k: int,
    x_lengths: torch.Tensor | None = None,
    y_lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Find, for each point of x, the first k points of y that are nearer than a radius.

    The grouping of PointNet++ (Qi et al., NeurIPS 2017, section 3.2) as its published kernels and those of PVD,
    LION and TIGER do it: points come in the order of their index, not of their distance; a point exactly at the
    radius is outside; where fewer than k are inside, the first of them fills the rest; where none is, all k are
    index 0.

    Whether a point is inside is decided by the squared differences, added in the order of the coordinates without
    fused multiply-add, and the square of the radius, each operation rounded in the clouds' dtype: the same on every
    processor. Time is O(N M D) at the most, less where k points are soon found; memory is that of the result.

    Args:
        x: centers `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        y: clouds `(B, M, D)` of the same dtype, device and batch size.
        radius: positive, in the unit of the clouds.
        k: how many indices a center gets, at least 1; may exceed M.
        x_lengths: how many rows of each cloud of x are points, int64 `(B,)` in 1..N; None: all. The values in the
            rows past a length does not matter; they get index 0.
        y_lengths: likewise of y, in 1..M; no others are found.

    Returns:
        int64 `(B, N, k)`, indices into the rows of y, for `gather_points`.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a cloud is empty, radius, k or a length is out of range,
            or a coordinate is NaN or infinite.

    Example:
        >>> ball_query(torch.zeros(1, 1, 1), torch.tensor([[[3.0], [0.5], [-1.0], [0.0]]]), radius=1, k=3)
        tensor([[[1, 3, 1]]])
    """
    x, y, _, _ = prepare(x, y, x_lengths, y_lengths)
    _check.positive("radius", radius)
    _check.positive_integer("k", k)
    x, y, radius, k = x.detach(), y.detach(), float(radius), int(k)
    if _native.has_kernels(x.device):
        return _native.call("ball_query", radius, k, x_lengths, y_lengths, x=x, y=y)
    _native.prepare_reference(x=x, y=y)
    return reference.ball_query(x, y, radius, k, x_lengths, y_lengths)


@_native.fake("ball_query")
def _(x, y, radius, k, x_lengths, y_lengths):
    return x.new_empty((*x.shape[:2], k), dtype=torch.int64)


_native.foldable("ball_query")
