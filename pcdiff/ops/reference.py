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

    def squares(d: int) -> torch.Tensor:
        difference = x[:, :, None, d] - y[:, None, :, d]
        return difference.mul_(difference)  # square_() has no rule for vmap

    total = squares(0)
    for d in range(1, x.shape[-1]):
        total += squares(d)
    return total


def past(lengths: torch.Tensor | None, rows: int) -> torch.Tensor | None:
    """Return which of `rows` rows are at or past each length, `(B, rows)`; None where there are no lengths."""
    if lengths is None:
        return None
    return torch.arange(rows, device=lengths.device) >= lengths[:, None]


def nearest(
    x: torch.Tensor,
    y: torch.Tensor,
    x_lengths: torch.Tensor | None = None,
    y_lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return squared distance `(B, N)` and int64 index `(B, N)` of each x's nearest y; ties take the first.

    Args:
        x: queries, `(B, N, D)`, finite.
        y: points, `(B, M, D)`, finite, same dtype and device.
        x_lengths: how many rows of each x are points, int64 `(B,)`; the others get distance 0 and index 0.
        y_lengths: likewise of y; no others are found.
    """
    distances, indices = _in_chunks(x, y, 1, y_lengths, _first)
    return _without_padding(distances[..., 0], indices[..., 0], past(x_lengths, x.shape[1]))


def knn(
    x: torch.Tensor,
    y: torch.Tensor,
    k: int,
    x_lengths: torch.Tensor | None = None,
    y_lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return squared distances `(B, N, k)`, ascending, and int64 indices `(B, N, k)` of each x's k nearest y.

    Args:
        x: queries, `(B, N, D)`, finite.
        y: points, `(B, M, D)`, finite, same dtype and device; of equally near ones the first come first.
        k: at most M. Where a cloud has fewer points by length, the rest is distance infinity and index -1.
        x_lengths: how many rows of each x are points, int64 `(B,)`; the others get distance 0 and index 0.
        y_lengths: likewise of y; no others are found.
    """
    distances, indices = _in_chunks(x, y, k, y_lengths, _sorted)
    if y_lengths is not None:
        indices = indices.masked_fill(past(y_lengths, k)[:, None], -1)
    return _without_padding(distances, indices, past(x_lengths, x.shape[1]))


def ball_query(
    x: torch.Tensor,
    y: torch.Tensor,
    radius: float,
    k: int,
    x_lengths: torch.Tensor | None = None,
    y_lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return int64 indices `(B, N, k)` of each x's first k of y within a radius, filled up with the first or 0.

    Args:
        x: centers, `(B, N, D)`, finite.
        y: points, `(B, M, D)`, finite, same dtype and device.
        radius: positive; a point at the radius is outside.
        k: at least 1.
        x_lengths: how many rows of each x are points, int64 `(B,)`; the others get index 0.
        y_lengths: likewise of y; no others are found.
    """
    square = x.new_tensor(radius).square()  # in the clouds' dtype, as in the kernels
    none = y.shape[1]

    def within(d: torch.Tensor, k: int) -> tuple[torch.Tensor]:
        place = torch.arange(none, device=d.device).expand(d.shape)
        found = place.where(d < square, none).sort(dim=2).values[..., :k]
        found = torch.cat([found, found.new_full((*d.shape[:2], k - found.shape[2]), none)], dim=2)
        first = found[..., :1].where(found[..., :1] < none, 0)
        return (found.where(found < none, first),)

    (index,) = _in_chunks(x, y, k, y_lengths, within)
    padding = past(x_lengths, x.shape[1])
    return index if padding is None else index.masked_fill(padding[..., None], 0)


def voxels(
    coords: torch.Tensor, resolution: int, lengths: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each point's voxel, `x r^2 + y r + z`, and how many points share it, int64 `(B, N)` each.

    Args:
        coords: `(B, N, 3)` in [0, resolution - 1]; they are rounded, half to even.
        resolution: voxels along a side.
        lengths: how many rows of each cloud are points, int64 `(B,)`; the others get index 0 and count 0.
    """
    x, y, z = coords.round().long().clamp(0, resolution - 1).unbind(-1)
    index = (x * resolution + y) * resolution + z
    real = torch.ones_like(index)
    padding = past(lengths, coords.shape[1])
    if padding is not None:
        index, real = index.masked_fill(padding, 0), real.masked_fill(padding, 0)
    counts = index.new_zeros((len(coords), resolution**3)).scatter_add(1, index, real)
    return index, counts.gather(1, index) * real


def _first(d: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    # argmin, not min: only argmin promises the first of equal values.
    index = d.argmin(dim=2, keepdim=True)
    return d.gather(2, index), index


def _sorted(d: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    # A stable sort, not topk: only the sort promises the order of equal values.
    values, index = d.sort(dim=2, stable=True)
    return values[..., :k].clone(), index[..., :k].clone()  # views would keep every chunk alive


def _in_chunks(x, y, k, y_lengths, choose) -> tuple[torch.Tensor, ...]:
    """Return what `choose(squared distances, k)` finds, `(B, N, k)`, a part of the clouds and rows at a time."""
    batch, n, _ = x.shape
    padding = past(y_lengths, y.shape[1])
    rows = max(1, _CHUNK // max(1, y.shape[1]))  # query points at a time
    clouds = max(1, rows // max(1, n))
    found = []
    for b in range(0, max(1, batch), clouds):
        parts = []
        for i in range(0, n, rows):
            d = squared_distances(x[b : b + clouds, i : i + rows], y[b : b + clouds])
            if padding is not None:
                d = d.masked_fill(padding[b : b + clouds, None], torch.inf)
            parts.append(choose(d, k))
        found.append([torch.cat(part, dim=1) for part in zip(*parts, strict=True)])
    return tuple(torch.cat(part) for part in zip(*found, strict=True))


def _without_padding(distances, indices, padding) -> tuple[torch.Tensor, torch.Tensor]:
    if padding is None:
        return distances, indices
    padding = padding.view(*padding.shape, *[1] * (distances.ndim - 2))
    return distances.masked_fill(padding, 0), indices.masked_fill(padding, 0)


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
