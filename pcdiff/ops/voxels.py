"""Between points and a grid of voxels: the points' positions in it, means per voxel, and trilinear values at
points.

A voxel's center has integer coordinates: voxel (i, j, k) of a grid of resolution r, each in 0..r-1, reaches half a
unit around it, and a point's coordinates in voxels are in [0, r - 1].
"""

import torch

from pcdiff.ops import _check, _native, reference
from pcdiff.ops._points import in_one_row, root, squared_distances, tracked, without_padding
from pcdiff.ops.reference import past


def voxel_coordinates(
    x: torch.Tensor,
    resolution: int,
    lengths: torch.Tensor | None = None,
    normalize: bool = True,
    eps: float = 0.0,
    legacy: bool = False,
) -> torch.Tensor:
    """Return each point's position in its cloud's grid, in voxels.

    As in the point-voxel nets (Liu et al., NeurIPS 2019; PVD, Zhou et al., ICCV 2021): about the cloud's mean,
    divided by twice the greatest distance from it, moved by 1/2, times the resolution r, kept within [0, r - 1].

    Args:
        x: clouds `(B, N, 3)`, float32 or float64 (half and bfloat16 are computed in float32).
        resolution: voxels along a side, 1 to 1024.
        lengths: how many rows of each cloud are points, int64 `(B,)` in 1..N; None: all. The values in the rows
            past a length does not matter; they get coordinates 0.
        normalize: False: do not divide, but take clouds for lying within [-1, 1] about their mean.
        eps: added to what is divided by, at least 0. A cloud of no extent gets the middle, whatever eps is.
        legacy: no derivative in x, as in the originals. By default the result has its true derivative.

    Returns:
        `(B, N, 3)`, for `voxelize` and `devoxelize`.

    Raises:
        InputError: a shape, dtype or device does not fit, a cloud is empty, a coordinate is NaN or infinite, or
            resolution, eps or a length is out of range.

    Example:
        >>> voxel_coordinates(torch.tensor([[[-1.0, 0, 0], [1, 0, 0]]]), resolution=4)
        tensor([[[0., 2., 2.],
                 [3., 2., 2.]]])
    """
    x = _check.clouds("x", x, "(B, N, 3)")
    _check.three_coordinates("x", x)
    _check.resolution(resolution)
    _check.lengths("lengths", lengths, "x", x)
    _check.flag("normalize", normalize)
    _check.flag("legacy", legacy)
    _check.not_negative("eps", eps)
    padding = past(lengths, x.shape[1])
    x = without_padding(x.detach() if legacy else x, padding)
    if not _check.out_of_reach(x.device):
        _native.check_finite(x=x)
    mean = x.mean(dim=1, keepdim=True) if lengths is None else x.sum(dim=1, keepdim=True) / lengths[:, None, None]
    about = without_padding(x - mean, padding)
    if normalize:
        # max(dim), not amax: in compiled bfloat16 amax has NaN for its derivative.
        squared = squared_distances(about, torch.zeros_like(mean)).max(dim=1).values
        extent = root(squared)[:, None, None] * 2 + eps
        coords = about / extent.where(extent > 0, 1) + 0.5
    else:
        coords = (about + 1) / 2
    return without_padding((coords * resolution).clamp(0, resolution - 1), padding)


def voxelize(
    features: torch.Tensor, coords: torch.Tensor, resolution: int, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Average, in each voxel, the features of the points in it; 0 where there are none.

    A point is in the voxel whose center is nearest: coordinates are rounded, half to even. So the result does not
    change with coordinates but by jumps, and has no derivative in them; in features it has, of any order and mode.

    Args:
        features: `(B, N, C)`, a row for each point, floating point (half and bfloat16 are added in float32).
        coords: `(B, N, 3)` in voxels, in [0, resolution - 1], as `voxel_coordinates` gives them.
        resolution: voxels along a side, 1 to 1024.
        lengths: how many rows of each cloud are points, int64 `(B,)` in 1..N; None: all. The values in the rows
            past a length does not matter.

    Returns:
        `(B, C, resolution, resolution, resolution)` as a 3D convolution takes it, axes x, y, z, of the dtype of
        features; channels come last in memory. On the CPU the same bits every time; on CUDA the terms of a sum come
        in any order.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a cloud is empty, resolution or a length is out of range,
            or a coordinate is NaN or outside of the grid.

    Example:
        >>> voxelize(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[0.2, 1, 0], [0, 0.7, 0]]]), 2)[0, 0, 0]
        tensor([[0., 0.],
                [2., 0.]])
    """
    coords = _coordinates(coords, resolution, lengths)
    _check.features("features", features, "coords", coords)
    index, count = voxels(coords, resolution, lengths)
    rows = without_padding(_check.wide(features), past(lengths, coords.shape[1]))
    return _means(rows, index, count, resolution).to(features.dtype).unflatten(1, (resolution,) * 3).movedim(-1, 1)


def devoxelize(grid: torch.Tensor, coords: torch.Tensor, legacy: bool = False) -> torch.Tensor:
    """Read a grid's values at points, trilinearly between the voxels' centers.

    Along each axis the lower voxel is the coordinate rounded down and the upper one the next, or the same where the
    coordinate is an integer.

    Args:
        grid: `(B, C, r, r, r)`, axes x, y, z, floating point (half and bfloat16 are added in float32).
        coords: `(B, N, 3)` in voxels, in [0, r - 1], as `voxel_coordinates` gives them.
        legacy: take the weights for constants, as the originals do: no derivative in coords. By default the result
            has its true derivative in grid and coords, of any order and mode.

    Returns:
        `(B, N, C)` of the dtype of grid.

    Raises:
        InputError: shapes, dtypes or devices do not fit, or a coordinate is NaN or outside of the grid.

    Example:
        >>> grid = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
        >>> devoxelize(grid, torch.tensor([[[0.5, 0.0, 1.0]]]))
        tensor([[[3.]]])
    """
    _check.flag("legacy", legacy)
    _check.grid("grid", grid)
    resolution = grid.shape[2]
    coords = _coordinates(coords, resolution, None)
    _check.same_batch("grid", grid, "coords", coords)
    index, weights = corners(coords.detach() if legacy else coords, resolution)
    rows = _check.wide(grid).movedim(1, -1).flatten(0, 3)  # (B r^3, C)
    # All corners are gathered at once: the derivative then is one sum into a grid, not eight grids to be added.
    # They are weighted one by one, so that nothing else is eight times as large as the result.
    places = in_one_row(index, resolution**3).unflatten(0, (-1, 8)).t().flatten()
    values = rows.index_select(0, places).unflatten(0, (8, *coords.shape[:2])).unbind(0)
    shares = weights.to(rows.dtype)[..., None].unbind(2)
    out = values[0] * shares[0]
    for value, share in zip(values[1:], shares[1:], strict=True):
        out = torch.addcmul(out, value, share)
    return out.to(grid.dtype)


def _means(rows: torch.Tensor, index: torch.Tensor, count: torch.Tensor, resolution: int) -> torch.Tensor:
    """Return the means of rows `(B, N, C)` in every voxel, `(B, r^3, C)`."""
    # On CUDA torch's own sums are many threads' work already.
    if rows.device.type == "cpu" and _native.has_kernels("cpu") and not tracked(rows):
        return _native.call("voxel_means", resolution, features=rows, index=index, count=count)
    # Divided first: of the points there are many times fewer than voxels.
    shares = rows / count.clamp(min=1).to(rows.dtype)[..., None]
    # One zero as large as the grid: what is added to is written once, and not copied from zeros in memory.
    empty = rows.new_zeros(()).expand(len(rows) * resolution**3, rows.shape[2])
    return empty.index_add(0, in_one_row(index, resolution**3), shares.flatten(0, 1)).unflatten(0, (len(rows), -1))


def voxels(
    coords: torch.Tensor, resolution: int, lengths: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each point's voxel, `x r^2 + y r + z`, and how many points share it: int64 `(B, N)` each."""
    coords = coords.detach()
    if _native.has_kernels(coords.device):
        return _native.call("voxels", resolution, lengths, coords=coords)
    _native.prepare_reference(coords=coords)
    return reference.voxels(coords, resolution, lengths)


def corners(coords: torch.Tensor, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the voxels around each point, int64 `(B, N, 8)`, and their weights; those upper in x come last."""
    # In a compiled graph nobody has looked at the values: whatever they are, no index is outside of the grid.
    lower = coords.detach().long().clamp(0, resolution - 1)
    fraction = coords - lower
    upper = torch.where(fraction > 0, lower + 1, lower).clamp(max=resolution - 1)
    ends, shares = torch.stack([lower, upper], dim=-1), torch.stack([1 - fraction, fraction], dim=-1)
    x, y, z = ends.unbind(2)  # (B, N, 2) each
    a, b, c = shares.unbind(2)
    index = (x[..., :, None, None] * resolution + y[..., None, :, None]) * resolution + z[..., None, None, :]
    weights = a[..., :, None, None] * b[..., None, :, None] * c[..., None, None, :]
    return index.flatten(2), weights.flatten(2)


def _coordinates(coords, resolution, lengths) -> torch.Tensor:
    """Return checked coordinates, float32 or float64, with 0 in the rows past a length."""
    coords = _check.clouds("coords", coords, "(B, N, 3)")
    _check.three_coordinates("coords", coords)
    _check.resolution(resolution)
    _check.lengths("lengths", lengths, "coords", coords)
    coords = without_padding(coords, past(lengths, coords.shape[1]))
    _check.within("coords", coords, resolution - 1)
    return coords


@_native.fake("voxels")
def _(coords, resolution, lengths):
    return tuple(coords.new_empty(coords.shape[:2], dtype=torch.int64) for _ in range(2))


@_native.fake("voxel_means")
def _(features, index, count, resolution):
    return features.new_empty((features.shape[0], resolution**3, features.shape[2]))


_native.foldable("voxels", ("coords",))
_native.foldable("voxel_means", ("features", "index", "count"))
