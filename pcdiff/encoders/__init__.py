"""Encoders: a cloud `(B, N, 3)` to a shape latent `(B, F)`. A new encoder is one file and one line here."""

from pcdiff.encoders.pointnet import PointNetEncoder, reparameterize

__all__ = ["PointNetEncoder", "reparameterize"]
