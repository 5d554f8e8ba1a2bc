"""Denoising networks: `net(x, t, cond) -> tensor like x`, with x `(B, *dims)` and t `(B,)`.

`NETS` are those of point clouds; a new one is one file and one line here. A net states what others must know as
class attributes: `pointwise` (points do not see one another; only then may a cloud's points stand at different
times), and `label` (which time labels it reads, see `pcdiff.diffusion.denoisers.time_inputs`).
"""

from torch import nn

import pcdiff.runtime.square_roots  # noqa: F401 - for what it does
from pcdiff.nets.encoder_classifier import ClassifierConfig, EncoderClassifier
from pcdiff.nets.pointwise import PointwiseConfig, PointwiseNet
from pcdiff.nets.pvcnn import PVCNN
from pcdiff.nets.pvcnn_config import PVCNNConfig
from pcdiff.nets.set_config import SetTransformerConfig
from pcdiff.nets.set_transformer import SetTransformer
from pcdiff.nets.unet import UNet
from pcdiff.nets.unet_config import UNetConfig
from pcdiff.registry import Registry

NETS: Registry[type[nn.Module]] = Registry(
    "net",
    {"pointwise": PointwiseNet, "pvcnn": PVCNN, "set_transformer": SetTransformer},
    aliases={"set-transformer": "set_transformer"},
)

__all__ = [
    "NETS",
    "PVCNN",
    "ClassifierConfig",
    "EncoderClassifier",
    "PVCNNConfig",
    "PointwiseConfig",
    "PointwiseNet",
    "SetTransformer",
    "SetTransformerConfig",
    "UNet",
    "UNetConfig",
]
