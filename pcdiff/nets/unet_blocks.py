"""The parts of a UNet over 1, 2 or 3 dimensions: norms, convolutions, residual blocks."""

import torch
from torch import Tensor, nn

from pcdiff.errors import InputError
from pcdiff.nets.activations import activation as activation_of
from pcdiff.nets.resampling import CONVS


class GroupNorm(nn.GroupNorm):
    """Group normalization in its weights' precision, whatever the input's (a half-precision torso overflows)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x` `(B, C, *dims)`."""
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def group_norm(channels: int, groups: int = 32, min_channels: int = 1, eps: float = 1e-5) -> GroupNorm:
    """Build a normalization of at most `groups` groups, each of at least `min_channels` channels.

    Raises:
        InputError: the channels cannot be split so.
    """
    groups = min(groups, channels // min_channels)
    if groups < 1 or channels % groups:
        raise InputError(f"{channels} channels cannot be normalized in {groups} equal groups; change norm_groups")
    return GroupNorm(groups, channels, eps)


def conv(rank: int, in_channels: int, out_channels: int, kernel: int = 3, zero: bool = False) -> nn.Module:
    """Build a convolution that keeps the size; `zero` starts it at 0 (Ho et al., 2020, appendix B)."""
    layer = CONVS[rank](in_channels, out_channels, kernel, padding=kernel // 2)
    if zero:
        nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return layer


class ResBlock(nn.Module):
    """Residual block conditioned on the time (Dhariwal & Nichol, 2021, section 3; Ho et al., 2020, appendix B).

    Args:
        norms: normalizations of `in_channels` and of `out_channels`.
        in_channels: channels of the input.
        out_channels: channels of the output.
        embed_dim: size E of the embedding.
        rank: number of dimensions.
        scale_shift: the embedding scales and shifts after the second norm (adaptive group norm); else it is added
            before it.
        dropout: share of the activations dropped.
        resample: halves or doubles both branches after the first norm.
        project: put a 1x1 convolution on the skip even where the channels stay.
        divisor: the sum of both branches is divided by it.
        activation: a key of `pcdiff.nets.activations.ACTIVATIONS`.
        num_classes: classes of an embedding of its own, added beside the time's; None for no such embedding.
    """

    def __init__(
        self,
        norms: tuple[nn.Module, nn.Module],
        in_channels: int,
        out_channels: int,
        embed_dim: int,
        rank: int = 2,
        scale_shift: bool = True,
        dropout: float = 0.0,
        resample: nn.Module | None = None,
        project: bool = False,
        divisor: float = 1.0,
        activation: str = "silu",
        num_classes: int | None = None,
    ):
        super().__init__()
        self.scale_shift, self.divisor, self.act = scale_shift, divisor, activation_of(activation)
        self.norm1, self.norm2 = norms
        self.conv1 = conv(rank, in_channels, out_channels)
        self.embed = nn.Linear(embed_dim, out_channels * (2 if scale_shift else 1))
        self.class_embed = None if num_classes is None else nn.Embedding(num_classes, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(rank, out_channels, out_channels, zero=True)
        self.resample = resample
        same = in_channels == out_channels and not project
        self.skip = nn.Identity() if same else conv(rank, in_channels, out_channels, kernel=1)

    def forward(self, x: Tensor, embedding: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return `(B, out_channels, *dims)`.

        Args:
            x: `(B, in_channels, *dims)`.
            embedding: of time and class, `(B, E)`.
            cond: classes `(B,)`, where the block has an embedding of its own.
        """
        h = self.act(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        bias_or_scale = self.embed(self.act(embedding)).to(h.dtype)
        bias_or_scale = bias_or_scale.view(*bias_or_scale.shape, *[1] * (h.dim() - 2))
        if not self.scale_shift:
            h = h + bias_or_scale
        if self.class_embed is not None:
            bias = self.class_embed(cond).to(h.dtype)
            h = h + bias.view(*bias.shape, *[1] * (h.dim() - 2))
        h = self.norm2(h)
        if self.scale_shift:
            scale, shift = bias_or_scale.chunk(2, dim=1)
            h = torch.addcmul(shift, h, 1 + scale)
        h = self.skip(x) + self.conv2(self.dropout(self.act(h)))
        return h if self.divisor == 1 else h / self.divisor
