"""Features of a few points carried to many, by their three nearest."""

import torch
import torch.nn.functional as F

from pcdiff.ops import _check
from pcdiff.ops._points import gather_points, without_padding
from pcdiff.ops.knn import knn
from pcdiff.ops.reference import past

# The published kernels' bounds of a squared distance; a missing neighbor has the upper one.
_LEAST, _MOST = 1e-10, 1e10


def three_nn_interpolate(
    x: torch.Tensor,
    y: torch.Tensor,
    features: torch.Tensor,
    x_lengths: torch.Tensor | None = None,
    y_lengths: torch.Tensor | None = None,
    legacy: bool = False,
) -> torch.Tensor:
    """Interpolate features at the points of x from the three nearest points of y, weighted by 1 / squared distance.

    The feature propagation of PointNet++ (Qi et al., NeurIPS 2017, equation 2, with p = 2 and k = 3) as its
    published kernels and PVD's do it: squared distances are kept within 1e-10 and 1e10, the weights of a point add
    up to 1, of equally near points the first come first, and a neighbor that is missing (y has fewer than three
    points) is index 0 at 1e10.

    Args:
        x: where features are wanted, `(B, N, D)`, float32 or float64 (half and bfloat16 are computed in float32).
        y: where features are, `(B, M, D)`, of the same dtype, device and batch size.
        features: `(B, M, C)`, a row for each point of y, floating point, on the device of y.
        x_lengths: how many rows of each cloud of x are points, int64 `(B,)` in 1..N; None: all. The values in the
            rows past a length does not matter; they get features 0.
        y_lengths: likewise of y and features, in 1..M.
        legacy: take the weights for constants, as the originals do: no derivative in x and y. By default the result
            has its true derivative in x, y and features, of any order and mode.

    Returns:
        `(B, N, C)` of the dtype of features.

    Raises:
        InputError: shapes, dtypes or devices do not fit, a cloud is empty, a length is out of range, or a
            coordinate is NaN or infinite.

    Example:
        >>> y = torch.tensor([[[0.0], [1.0], [3.0]]])
        >>> three_nn_interpolate(torch.tensor([[[2.0]]]), y, y)
        tensor([[[1.7778]]])
    """
    _check.flag("legacy", legacy)
    x, y = _check.clouds("x", x, "(B, N, D)"), _check.clouds("y", y, "(B, M, D)")
    _check.features("features", features, "y", y)
    if legacy:
        x, y = x.detach(), y.detach()
    index, weights = three_nearest(x, y, x_lengths, y_lengths)
    wide = _check.wide(features)
    out = (gather_points(wide, index) * weights.to(wide.dtype)[..., None]).sum(dim=2)
    return without_padding(out, past(x_lengths, x.shape[1])).to(features.dtype)


def three_nearest(
    x: torch.Tensor,
    y: torch.Tensor,
    x_lengths: torch.Tensor | None = None,
    y_lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the three points of y and their weights for each point of x, `(B, N, 3)` each; see above."""
    found = knn(x, y, min(3, y.shape[1]), x_lengths, y_lengths)
    missing = 3 - found.index.shape[2]
    # Past a cloud's length the neighbors have distance infinity and index -1.
    index = F.pad(found.index.clamp(min=0), (0, missing))
    near = F.pad(found.squared_distance, (0, missing), value=_MOST).clamp(_LEAST, _MOST).reciprocal()
    return index, near / near.sum(dim=2, keepdim=True)
