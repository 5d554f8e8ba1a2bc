"""The encoding half of a UNet, which the UNet and the classifier share."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.errors import InputError
from pcdiff.nets.class_checks import check_classes
from pcdiff.nets.time_embedding import sinusoidal, time_mlp
from pcdiff.nets.unet_blocks import conv
from pcdiff.nets.unet_config import UNetConfig
from pcdiff.nets.unet_levels import DownLevel, Middle


class UNetEncoder(nn.Module):
    """Embedding of time and class, the way down, and the middle.

    Attributes:
        config: what it was built from.
        skip_channels: channels of every output of the way down, the first convolution's among them.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        self.time_mlp = time_mlp(config.model_channels, config.embed_dim)
        self.class_embed: nn.Embedding | None = None
        if config.num_classes is not None and not config.class_bias:
            self.class_embed = nn.Embedding(config.num_classes + config.null_class, config.embed_dim)
        channels = config.channels[0]
        self.conv_in = conv(config.rank, config.in_channels, channels)
        self.skip_channels = [channels]
        self.down = nn.ModuleList()
        for level, wider in enumerate(config.channels):
            self.down.append(DownLevel(config, level, channels))
            last = level == len(config.channels) - 1
            self.skip_channels += [wider] * (config.num_res_blocks + (not last))
            channels = wider
        self.middle = Middle(config)

    def half_torso(self, dtype: torch.dtype = torch.float16) -> "UNetEncoder":
        """Keep the torso's convolutions and attentions in half precision (Dhariwal & Nichol, 2021, appendix).

        Norms, embeddings and what follows the last level stay as they are. For sampling, or training with
        master weights elsewhere.

        Args:
            dtype: `torch.float16` or `torch.bfloat16`; `torch.float32` takes it back (not the digits).

        Returns:
            The net itself.
        """
        for part in self.torso():
            for name, layer in part.named_modules():
                embeds_time = name.endswith("embed")  # a linear layer, but no part of the torso
                if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear) and not embeds_time:
                    layer.to(dtype)
        return self

    def torso(self) -> list[nn.Module]:
        """Return the parts that may run in half precision."""
        return [self.conv_in, self.down, self.middle]

    def conditioning(self, t: Tensor, cond: Tensor | None) -> tuple[Tensor, ...]:
        """Return what conditions every block, from labels `t (B,)` and classes `cond (B,)`.

        That is the embedding `(B, E)` of both, or with `class_bias` the time's and the classes `(B,)` beside it.

        Raises:
            InputError: `cond` is not one class index a sample, or is given to a net without classes.
        """
        config = self.config
        scaled = t if config.time_scale == 1 else t * config.time_scale
        waves = sinusoidal(scaled, config.model_channels, config.sin_first, config.freq_shift)
        out = self.time_mlp(waves.to(self.time_mlp[0].weight.dtype))
        if config.num_classes is None:
            if cond is not None:
                raise InputError("cond must be None: this net has no classes")
            return (out,)
        classes = self._classes(cond, t)
        return (out, classes) if self.class_embed is None else (out + self.class_embed(classes),)

    def _classes(self, cond: Tensor | None, t: Tensor) -> Tensor:
        count = self.config.num_classes + self.config.null_class
        if cond is None:
            if not self.config.null_class:
                raise InputError(f"cond must be class indices (B,) in 0..{count - 1}, got None")
            return torch.full(t.shape, self.config.num_classes, dtype=torch.long, device=t.device)
        return check_classes(cond, t, count)

    def check_sizes(self, sizes: Sequence[int]) -> None:
        """Raise InputError unless the net can halve what has these sizes (H, W) as often as it does."""
        config = self.config
        factor, around = 2 ** (len(config.channels) - 1), 2 * config.pad
        if any((size + around) % factor for size in sizes):
            padded = f" with {config.pad} zeros on every side" if config.pad else ""
            raise InputError(f"x must have sizes divisible by {factor}{padded}, got {tuple(sizes)}")

    def encode(self, x: Tensor, t: Tensor, cond: Tensor | None) -> tuple[list[Tensor], Tensor, tuple[Tensor, ...]]:
        """Return every output of the way down, the middle's output, and the blocks' `conditioning`.

        Raises:
            InputError: a shape does not fit.
        """
        config = self.config
        if x.dim() != config.rank + 2 or x.shape[1] != config.in_channels:
            dims = ("L", "H, W", "D, H, W")[config.rank - 1]
            raise InputError(f"x must be (B, {config.in_channels}, {dims}), got {tuple(x.shape)}")
        self.check_sizes(x.shape[2:])
        if t.shape != x.shape[:1]:
            raise InputError(f"t must be (B,) = {tuple(x.shape[:1])}, got {tuple(t.shape)}")
        conditioning = self.conditioning(t, cond)
        x = 2 * x - 1 if config.center_input else x
        x = F.pad(x, (config.pad,) * 2 * config.rank) if config.pad else x
        outputs = [self.conv_in(x.to(self.conv_in.weight.dtype))]
        for level in self.down:
            outputs += level(outputs[-1], *conditioning)
        return outputs, self.middle(outputs[-1], *conditioning), conditioning
