"""One level of a UNet, on the way down, in the middle and on the way up."""

import torch
from torch import Tensor, nn

from pcdiff.nets.attention import SelfAttention, computed_again
from pcdiff.nets.resampling import Downsample, Upsample
from pcdiff.nets.unet_blocks import ResBlock, group_norm
from pcdiff.nets.unet_config import UNetConfig


def norm(config: UNetConfig, channels: int) -> nn.Module:
    """Build a normalization of `channels`."""
    return group_norm(channels, config.norm_groups, config.norm_min_channels, config.norm_eps)


def block(config: UNetConfig, in_channels: int, out_channels: int, resample: nn.Module | None = None) -> ResBlock:
    """Build a residual block."""
    return ResBlock(
        (norm(config, in_channels), norm(config, out_channels)),
        in_channels,
        out_channels,
        config.embed_dim,
        config.rank,
        config.scale_shift_norm,
        config.dropout,
        resample,
        activation=config.activation,
        num_classes=config.num_classes + config.null_class if config.class_bias else None,
    )


class Level(nn.Module):
    """Residual blocks, each with its attention if there is any, then what changes the size, if anything does."""

    def __init__(
        self, config: UNetConfig, blocks: list[ResBlock], attentions: list[nn.Module], resample: nn.Module | None
    ):
        super().__init__()
        self.checkpoint = config.checkpoint
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample = resample

    def _run(self, layer: nn.Module, *inputs: Tensor) -> Tensor:
        if self.checkpoint and self.training and torch.is_grad_enabled():
            return computed_again(layer, *inputs)
        return layer(*inputs)

    def step(self, i: int, h: Tensor, *conditioning: Tensor) -> Tensor:
        """Run block i and its attention; see `UNetEncoder.conditioning` for what conditions a block."""
        h = self._run(self.blocks[i], h, *conditioning)
        return self._run(self.attentions[i], h) if len(self.attentions) else h

    def change_size(self, h: Tensor, *conditioning: Tensor) -> Tensor:
        """Run what halves or doubles every dimension."""
        return self._run(self.resample, *((h, *conditioning) if isinstance(self.resample, ResBlock) else (h,)))


class DownLevel(Level):
    """A level on the way down.

    Args:
        config: of the whole net.
        level: 0 is the full size.
        in_channels: channels that come in.
    """

    def __init__(self, config: UNetConfig, level: int, in_channels: int):
        channels, count = config.channels[level], config.num_res_blocks
        blocks = [block(config, channels if i else in_channels, channels) for i in range(count)]
        attentions = []
        if config.attention_at(level):
            heads = config.heads(channels)
            attentions = [SelfAttention(channels, heads, norm(config, channels)) for _ in range(count)]
        resample = None
        if level < len(config.channels) - 1:
            resample = {
                "conv": lambda: Downsample(channels, channels, None, config.rank, config.asymmetric_padding),
                "pool": lambda: Downsample(channels, rank=config.rank),
                "resblock": lambda: block(config, channels, channels, Downsample(channels, rank=config.rank)),
            }[config.downsample_at(level)]()
        super().__init__(config, blocks, attentions, resample)

    def forward(self, h: Tensor, *conditioning: Tensor) -> list[Tensor]:
        """Return every block's output `(B, C, *dims)`, and the smaller one for the next level, if there is one."""
        outputs = []
        for i in range(len(self.blocks)):
            h = self.step(i, h, *conditioning)
            outputs.append(h)
        if self.resample is not None:
            outputs.append(self.change_size(h, *conditioning))
        return outputs


class UpLevel(Level):
    """A level on the way up; every block is fed one output of the way down beside its input.

    Args:
        config: of the whole net.
        level: 0 is the full size.
        in_channels: channels that come in.
        skip_channels: channels of the outputs it is fed, in its own order.
    """

    def __init__(self, config: UNetConfig, level: int, in_channels: int, skip_channels: list[int]):
        channels = config.channels[level]
        blocks = [
            block(config, (channels if i else in_channels) + skip, channels) for i, skip in enumerate(skip_channels)
        ]
        attentions = []
        if config.attention_at(level, up=True):
            heads = config.heads(channels, up=True)
            attentions = [SelfAttention(channels, heads, norm(config, channels)) for _ in blocks]
        resample = None
        if level > 0:
            resample = {
                "conv": lambda: Upsample(channels, channels, rank=config.rank),
                "nearest": lambda: Upsample(channels, rank=config.rank),
                "resblock": lambda: block(config, channels, channels, Upsample(channels, rank=config.rank)),
            }[config.upsample_at(level)]()
        super().__init__(config, blocks, attentions, resample)

    def forward(self, h: Tensor, skips: list[Tensor], *conditioning: Tensor) -> list[Tensor]:
        """Return every block's output; the last one is the larger one that goes on, if there is a next level.

        Args:
            h: `(B, C, *dims)`.
            skips: outputs of the way down; those used are taken off its end.
            conditioning: the embedding `(B, E)`, and classes `(B,)` for the blocks' own biases.
        """
        outputs = []
        for i in range(len(self.blocks)):
            h = self.step(i, torch.cat([h, skips.pop()], dim=1), *conditioning)
            outputs.append(h)
        if self.resample is not None:
            outputs[-1] = self.change_size(h, *conditioning)
        return outputs


class Middle(Level):
    """The smallest size: block, attention, block."""

    def __init__(self, config: UNetConfig):
        channels, groups = config.channels[-1], config.middle_norm_groups
        if groups is None:
            normalize = norm(config, channels)
        else:
            normalize = group_norm(channels, groups, eps=config.norm_eps) if groups else nn.Identity()
        attention = SelfAttention(channels, config.heads(channels), normalize)
        super().__init__(config, [block(config, channels, channels) for _ in range(2)], [attention], None)

    def forward(self, h: Tensor, *conditioning: Tensor) -> Tensor:
        """Return a tensor like `h` `(B, C, *dims)`."""
        h = self._run(self.blocks[0], h, *conditioning)
        h = self._run(self.attentions[0], h)
        return self._run(self.blocks[1], h, *conditioning)
