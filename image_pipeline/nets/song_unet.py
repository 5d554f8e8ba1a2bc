"""DDPM++ and NCSN++ as Karras et al. and diffusers build them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image_pipeline.nets.checks import check_images, check_sizes
from image_pipeline.nets.embeddings import FourierFeatures
from image_pipeline.nets.layers import start_attention, variance_scaling_
from image_pipeline.nets.song_config import SongUNetConfig
from image_pipeline.nets.song_levels import DownLevel, UpLevel, residual_block, self_attention
from pcdiff.errors import InputError
from pcdiff.nets.attention import SelfAttention, differentiable_attention
from pcdiff.nets.class_checks import check_classes
from pcdiff.nets.time_embedding import sinusoidal, time_mlp
from pcdiff.nets.unet_blocks import ResBlock, conv


class Augmented(NamedTuple):
    """The condition of a net on augmented images, in the place of their classes.

    Attributes:
        classes: `(B,)`, or None.
        augmentation: `(B, augment_dim)`, zeros for none.
    """

    classes: Tensor | None
    augmentation: Tensor


class SongUNet(nn.Module):
    """DDPM++ or NCSN++ (Song et al., 2021, appendix H).

    Args:
        config: what to build.

    Raises:
        InputError: channels do not divide into groups or heads.

    Example:
        >>> net = SongUNet(SongUNetConfig(model_channels=32, embedding="fourier", noise_mult=2, encoder="residual"))
        >>> net(torch.randn(4, 3, 32, 32), torch.rand(4)).shape
        torch.Size([4, 3, 32, 32])
    """

    Config = SongUNetConfig

    def __init__(self, config: SongUNetConfig):
        super().__init__()
        self.config, self.multiple = config, 2 ** (len(config.channels) - 1)
        noise_dim = config.noise_mult * config.model_channels
        if config.embedding == "fourier":
            self.features = FourierFeatures(noise_dim // 2)
        self.class_embed = nn.Linear(config.num_classes, noise_dim) if config.num_classes else None
        # without a bias: untouched images add nothing
        self.augment_embed = nn.Linear(config.augment_dim, noise_dim, bias=False) if config.augment_dim else None
        self.time_mlp = time_mlp(noise_dim, config.embed_dim)
        channels = config.channels
        self.conv_in = conv(2, config.in_channels, config.model_channels)
        width, skips, self.down = config.model_channels, [config.model_channels], nn.ModuleList()
        for level, wider in enumerate(channels):
            self.down.append(DownLevel(config, level, width))
            skips += [width] * (level > 0) + [wider] * config.num_blocks
            width = wider
        self.middle = nn.ModuleList(
            residual_block(config, width, width, divisor=config.middle_divisor) for _ in range(2)
        )
        self.middle_attention = self_attention(config, width, divisor=config.middle_divisor)
        self.up = nn.ModuleList()  # as the steps run: the deepest level first
        for level in reversed(range(len(channels))):
            taken = [skips.pop() for _ in range(config.num_blocks + 1)]
            self.up.append(UpLevel(config, level, width, taken))
            width = channels[level]
        self._initialize()

    def _initialize(self) -> None:
        """Draw weights as Song et al. do: DDPM's variance scaling, nearly none where a branch ends."""
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                variance_scaling_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for module in self.modules():
            if isinstance(module, ResBlock):
                variance_scaling_(module.conv2.weight, 0.0)
            elif isinstance(module, SelfAttention):
                start_attention(module)
            elif isinstance(module, UpLevel) and module.image_conv is not None:
                variance_scaling_(module.image_conv.weight, 0.0)

    def embedding(self, t: Tensor, cond: Tensor | Augmented | None) -> Tensor:
        """Return the embedding `(B, E)` of labels `t (B,)` and classes `cond (B,)`, or of `Augmented`.

        Raises:
            InputError: `cond` is not one class index a sample, or is given to a net without classes; or the
                augmentation labels are not `(B, augment_dim)`.
        """
        cond, augmentation = cond if isinstance(cond, Augmented) else (cond, None)
        config, dtype = self.config, self.time_mlp[0].weight.dtype
        if config.embedding == "fourier":
            waves = self.features(t).to(dtype)
        else:
            dim = config.noise_mult * config.model_channels
            waves = sinusoidal(t, dim, sin_first=True, freq_shift=1).to(dtype)
        if self.class_embed is not None:
            waves = waves + self.class_embed(self._one_hot(cond, t).to(dtype))
        elif cond is not None:
            raise InputError("cond must be None: this net has no classes")
        if augmentation is not None:
            if self.augment_embed is None or augmentation.shape != (len(t), self.config.augment_dim):
                expected = (len(t), self.config.augment_dim)
                raise InputError(f"augmentation must be {expected}, got {tuple(augmentation.shape)}")
            waves = waves + self.augment_embed(augmentation.to(dtype))
        return self.time_mlp(waves)

    def _one_hot(self, cond: Tensor | None, t: Tensor) -> Tensor:
        classes = self.config.num_classes
        if cond is None:
            return torch.zeros(len(t), classes, device=t.device)
        # of variance 1, as Karras et al. scale it
        return F.one_hot(check_classes(cond, t, classes + 1), classes + 1)[:, :classes] * math.sqrt(classes)

    def check_sizes(self, sizes: Sequence[int]) -> None:
        """Raise InputError unless the net can halve images of these sides (H, W)."""
        check_sizes(sizes, self.multiple, self.multiple)

    @differentiable_attention
    def forward(self, x: Tensor, t: Tensor, cond: Tensor | Augmented | None = None) -> Tensor:
        """Return the prediction `(B, out_channels, H, W)`.

        Args:
            x: `(B, in_channels, H, W)`, sizes divisible by 2 for each level after the first.
            t: labels `(B,)`: the logarithm of the noise level with `fourier`, the step with `positional`.
            cond: classes `(B,)`, integers; None, or the index `num_classes`, for none. `Augmented` tells of
                augmentations too; otherwise there are none.

        Raises:
            InputError: a shape or a class does not fit.
        """
        check_images(x, t, self.config.in_channels, self.multiple, self.multiple)
        embedding = self.embedding(t, cond)
        x = 2 * x - 1 if self.config.center_input else x
        outputs, branch = [self.conv_in(x)], x
        for level in self.down:
            new, branch = level(outputs[-1], branch, embedding)
            outputs += new
        h = self.middle[0](outputs[-1], embedding)
        h = self.middle[1](self.middle_attention(h), embedding)
        image: Tensor | None = None
        for level in self.up:
            h, image = level(h, outputs, image, embedding)
        assert image is not None  # the last level always says it
        return image
