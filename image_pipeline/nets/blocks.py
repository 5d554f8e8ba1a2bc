"""The two blocks that DDPM's and NCSN++'s nets are made of: residual and self-attention."""

import math

from torch import Tensor, nn

from image_pipeline.nets.layers import conv, group_norm, linear, start_attention
from pcdiff.nets.activations import Activation
from pcdiff.nets.attention import SelfAttention


class ResBlock(nn.Module):
    r"""Norm, activation, convolution, twice, beside a shortcut; the embedding is added between.

    With `resample` it is BigGAN's block, which halves or doubles the images on both ways (Brock et al., 2019,
    appendix B; Song et al., 2021, appendix H); without, DDPM's (Ho et al., 2020, appendix B).

    Args:
        channels: C of the input.
        out_channels: C' of the output.
        emb_channels: width of the embedding.
        act: the activation.
        dropout: share of values dropped before the second convolution, in training.
        groups: of the norms; see `group_norm`.
        resample: halves or doubles the images; has no weights.
        rescale: divide the sum by sqrt(2), so that its variance does not grow (Song et al., 2021, appendix H).
        init_scale: of the second convolution's start.
        shortcut_scale: of the shortcut's start.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        emb_channels: int,
        act: Activation,
        dropout: float = 0.0,
        groups: int | None = None,
        resample: nn.Module | None = None,
        rescale: bool = False,
        init_scale: float = 0.0,
        shortcut_scale: float = 1.0,
    ):
        super().__init__()
        self.norm1 = group_norm(channels, groups)
        self.conv1 = conv(channels, out_channels)
        self.time = linear(emb_channels, out_channels)
        self.norm2 = group_norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(out_channels, out_channels, scale=init_scale)
        wanted = channels != out_channels or resample is not None
        self.shortcut = conv(channels, out_channels, 1, scale=shortcut_scale) if wanted else nn.Identity()
        self.resample = nn.Identity() if resample is None else resample
        self.act = act
        self.scale = math.sqrt(0.5) if rescale else 1.0

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return images `(B, C', H', W')` from `x (B, C, H, W)` and the activated embedding `(B, emb_channels)`."""
        h = self.resample(self.act(self.norm1(x)))
        h = self.conv1(h) + self.time(emb)[:, :, None, None]
        h = self.conv2(self.dropout(self.act(self.norm2(h))))
        return (self.shortcut(self.resample(x)) + h) * self.scale


def attention_block(
    channels: int, groups: int | None = None, rescale: bool = False, init_scale: float = 0.0
) -> SelfAttention:
    """Build a self-attention of one head with DDPM's start (Ho et al., 2020, appendix B).

    Second derivatives and forward mode, as sliced score matching takes them, are not known to torch's fast kernels;
    `with torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` has them.

    Args:
        channels: C of the images `(B, C, H, W)`.
        groups: of the norm; see `group_norm`.
        rescale: divide the sum by sqrt(2).
        init_scale: of the last layer's start.
    """
    block = SelfAttention(channels, 1, group_norm(channels, groups), math.sqrt(2) if rescale else 1.0)
    start_attention(block, init_scale)
    return block
