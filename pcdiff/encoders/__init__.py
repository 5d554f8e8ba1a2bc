"""Encoders: a cloud `(B, N, 3)` to a shape latent `(B, F)`. A new encoder is one file and one line here."""

from torch import nn

from pcdiff.encoders.pointnet import PointNetConfig, PointNetEncoder, reparameterize
from pcdiff.registry import Registry

ENCODERS: Registry[type[nn.Module]] = Registry("encoder", {"pointnet": PointNetEncoder})

__all__ = ["ENCODERS", "PointNetConfig", "PointNetEncoder", "reparameterize"]
