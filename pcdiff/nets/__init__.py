"""Denoising networks: `net(x, t, cond) -> tensor like x`, with x `(B, *dims)` and t `(B,)`."""

import pcdiff.runtime.square_roots  # noqa: F401 - for what it does
from pcdiff.nets.encoder_classifier import ClassifierConfig, EncoderClassifier
from pcdiff.nets.pointwise import PointwiseNet
from pcdiff.nets.unet import UNet
from pcdiff.nets.unet_config import UNetConfig

__all__ = ["ClassifierConfig", "EncoderClassifier", "PointwiseNet", "UNet", "UNetConfig"]
