"""The ops in plain PyTorch: the oracle of the tests and the fallback where no native kernel runs.

Differences are squared and added one coordinate after the other, in the same order as in the native kernels: no
cancellation as in `|x|^2 + |y|^2 - 2 x.y`, and on the CPU the very same bits. Memory is bounded by working in
chunks. Nothing here is differentiable; gradients come from the gathered points (see `chamfer.py`).
"""

import torch

# Elements of the largest intermediate: 64 MB in float32, small enough for any machine, large enough to be busy.
_CHUNK = 1 << 24


def squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return all squared distances `(B, N, M)` between `(B, N, D)` and `(B, M, D)`."""
    total = (x[:, :, None, 0] - y[:, None, :, 0]).square_()
    for d in range(1, x.shape[-1]):
        total += (x[:, :, None, d] - y[:, None, :, d]).square_()
    return total


def nearest(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return squared distance `(B, N)` and int64 index `(B, N)` of each x's nearest y; ties take the first.

    Args:
        x: queries, `(B, N, D)`, finite.
        y: points, `(B, M, D)`, finite, same dtype and device.
    """
    batch, n, _ = x.shape
    distances = x.new_empty((batch, n))
    indices = x.new_empty((batch, n), dtype=torch.int64)
    rows = max(1, _CHUNK // max(1, y.shape[1]))  # query points at a time
    clouds = max(1, rows // max(1, n))
    for b in range(0, batch, clouds):
        for i in range(0, n, rows):
            d = squared_distances(x[b : b + clouds, i : i + rows], y[b : b + clouds])
            # argmin, not min: only argmin promises the first of equal values.
            index = d.argmin(dim=2)
            distances[b : b + clouds, i : i + rows] = d.gather(2, index[..., None])[..., 0]
            indices[b : b + clouds, i : i + rows] = index
    return distances, indices


def chamfer_matrix(xs: torch.Tensor, ys: torch.Tensor, upper: bool = False) -> torch.Tensor:
    """Return the Chamfer distances `(S, R)`, mean + mean of squared nearest distances, of every pair of clouds.

    Args:
        xs: `(S, N, D)`.
        ys: `(R, M, D)`.
        upper: compute only the entries with column > row; the others are 0.
    """
    out = xs.new_zeros((len(xs), len(ys)))
    for i in range(len(xs)):
        first = i + 1 if upper else 0
        others = ys[first:]
        if len(others) == 0:
            continue
        cloud = xs[i : i + 1].expand(len(others), -1, -1)
        # float64 sums, as in the native kernel.
        there = nearest(cloud, others)[0].double().mean(dim=1)
        back = nearest(others, cloud)[0].double().mean(dim=1)
        out[i, first:] = (there + back).to(out.dtype)
    return out
