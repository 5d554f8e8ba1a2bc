"""The levels of DDPM++ and NCSN++: residual resampling by filters, and side branches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image_pipeline.nets.song_config import SQRT2, SongUNetConfig
from pcdiff.errors import InputError
from pcdiff.nets.attention import SelfAttention
from pcdiff.nets.resampling import Downsample, Upsample, filtered
from pcdiff.nets.unet_blocks import ResBlock, conv, group_norm


def _norm(config: SongUNetConfig, channels: int, groups: int = 32) -> nn.Module:
    return group_norm(channels, groups, min_channels=4, eps=config.norm_eps)


def residual_block(
    config: SongUNetConfig,
    in_channels: int,
    out_channels: int,
    resample: nn.Module | None = None,
    divisor: float = SQRT2,
    norm: nn.Module | None = None,
) -> ResBlock:
    """Build a residual block; `norm` is the first one, the net's own by default."""
    return ResBlock(
        (norm or _norm(config, in_channels), _norm(config, out_channels)),
        in_channels,
        out_channels,
        config.embed_dim,
        scale_shift=False,
        dropout=config.dropout,
        resample=resample,
        project=resample is not None,
        divisor=divisor,
    )


def self_attention(
    config: SongUNetConfig, channels: int, groups: int | None = None, divisor: float = SQRT2
) -> SelfAttention:
    """Build an attention; `groups` are its norm's, the net's own by default.

    Raises:
        InputError: heads do not divide the channels.
    """
    width = config.num_head_channels or channels
    if channels % width:
        raise InputError(f"{channels} channels cannot be split into heads of {width}; change num_head_channels")
    norm = group_norm(channels, groups, eps=config.norm_eps) if groups else _norm(config, channels)
    return SelfAttention(channels, channels // width, norm, divisor)


class DownLevel(nn.Module):
    """A level on the way down: what leads into it from the one above, then its blocks."""

    def __init__(self, config: SongUNetConfig, level: int, in_channels: int):
        super().__init__()
        self.encoder = config.encoder
        channels, taps = config.channels[level], config.resample_filter
        self.resample: nn.Module | None = None
        self.side: nn.Conv2d | None = None
        self.filter: Downsample | None = None
        if level > 0:
            self.resample = residual_block(config, in_channels, in_channels, Downsample(in_channels, fir=taps))
            self.filter = Downsample(in_channels, fir=taps)
            if config.encoder == "skip":
                self.side = conv(2, config.in_channels, in_channels, kernel=1)
            if config.encoder == "residual":
                branch = config.channels[level - 2] if level > 1 else config.in_channels
                # the convolution sees what the filter will: its border is padded for both, and the filter's is not
                self.side = nn.Conv2d(branch, in_channels, 3, padding=1 + (len(taps) - 1) // 2)
        self.blocks = nn.ModuleList(
            residual_block(config, channels if i else in_channels, channels) for i in range(config.num_blocks)
        )
        with_attention = 2**level in config.attention_factors
        self.attentions = nn.ModuleList(
            self_attention(config, channels, config.attention_norm_groups) for _ in self.blocks if with_attention
        )

    def forward(self, h: Tensor, branch: Tensor, embedding: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the outputs `(B, C, H, W)` that the way up is fed, and the side branch."""
        outputs = []
        if self.resample is not None:
            h = self.resample(h, embedding)
            if self.encoder == "skip" and self.filter is not None and self.side is not None:
                branch = self.filter(branch)
                h = h + self.side(branch)
            elif self.filter is not None and self.side is not None:
                side = filtered(self.side(branch), self.filter.kernel, 0, 0, stride=2)
                h = branch = (h + side) / SQRT2
            outputs.append(h)
        for i, block in enumerate(self.blocks):
            h = block(h, embedding)
            if len(self.attentions):
                h = self.attentions[i](h)
            outputs.append(h)
        return outputs, branch


class UpLevel(nn.Module):
    """A level on the way up: what leads into it from the one below, its blocks, one attention, and its image."""

    def __init__(self, config: SongUNetConfig, level: int, in_channels: int, skip_channels: list[int]):
        super().__init__()
        channels, last = config.channels[level], level == len(config.channels) - 1
        self.resample = None
        if not last:
            self.resample = residual_block(config, in_channels, in_channels, _upsample(config, in_channels))
        attends = 2**level in config.attention_factors
        groups = config.attention_norm_groups
        self.blocks = nn.ModuleList()
        for skip in skip_channels:
            width = in_channels + skip
            # diffusers' levels with attention fix the groups of these norms too
            norm = group_norm(width, groups, eps=config.norm_eps) if attends and groups else None
            self.blocks.append(residual_block(config, width, channels, norm=norm))
            in_channels = channels
        self.attention = self_attention(config, channels, groups) if attends else None
        self.image_norm: nn.Module | None = None
        self.image_conv: nn.Module | None = None
        self.image_upsample: nn.Module | None = None
        if config.decoder == "skip" or level == 0:
            self.image_norm = _norm(config, channels)
            self.image_conv = conv(2, channels, config.out_channels)
            if not last:
                self.image_upsample = _upsample(config, config.out_channels)

    def forward(
        self, h: Tensor, skips: list[Tensor], image: Tensor | None, embedding: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the level's output `(B, C, H, W)`, and the image so far, if there is any."""
        if self.resample is not None:
            h = self.resample(h, embedding)
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        if self.attention is not None:
            h = self.attention(h)
        if self.image_conv is not None and self.image_norm is not None:
            own = self.image_conv(F.silu(self.image_norm(h)))
            image = own if image is None or self.image_upsample is None else self.image_upsample(image) + own
        return h, image


def _upsample(config: SongUNetConfig, channels: int) -> Upsample:
    return Upsample(channels, fir=config.resample_filter)
