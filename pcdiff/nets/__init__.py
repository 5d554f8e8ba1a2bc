"""Denoising networks: `net(x, t, cond) -> tensor like x`, with x `(B, *dims)` and t `(B,)`."""

from pcdiff.nets.pointwise import PointwiseNet

__all__ = ["PointwiseNet"]
