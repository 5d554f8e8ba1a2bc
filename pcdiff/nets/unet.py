"""The UNet of the diffusion papers, over signals, images or volumes."""

from torch import Tensor, nn

from pcdiff.nets.activations import activation
from pcdiff.nets.attention import differentiable_attention
from pcdiff.nets.unet_blocks import conv
from pcdiff.nets.unet_config import UNetConfig
from pcdiff.nets.unet_encoder import UNetEncoder
from pcdiff.nets.unet_levels import UpLevel, norm


class UNet(UNetEncoder):
    """Denoising UNet (Ho et al., 2020, appendix B; Nichol & Dhariwal, 2021; Dhariwal & Nichol, 2021, section 3).

    A fresh net answers 0: the last convolution, and the last one of every residual branch, start at 0.

    Args:
        config: what to build.

    Raises:
        InputError: channels do not divide into groups or heads.

    Example:
        >>> net = UNet(UNetConfig(model_channels=32, channel_mult=(1, 2), num_classes=10))
        >>> net(torch.randn(4, 3, 32, 32), torch.rand(4) * 1000, torch.tensor([0, 1, 2, 3])).shape
        torch.Size([4, 3, 32, 32])
    """

    Config = UNetConfig

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        skips, channels = list(self.skip_channels), config.channels[-1]
        # as the steps run: the deepest level first
        self.up = nn.ModuleList()
        for level in reversed(range(len(config.channels))):
            taken = [skips.pop() for _ in range(config.num_res_blocks + 1)]
            self.up.append(UpLevel(config, level, channels, taken))
            channels = config.channels[level]
        self.norm_out = norm(config, channels)
        self.conv_out = conv(config.rank, channels, config.out_channels, zero=True)

    def torso(self) -> list[nn.Module]:
        """Return the parts that may run in half precision."""
        return [*super().torso(), self.up]

    @differentiable_attention
    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return the prediction `(B, out_channels, *dims)`.

        Args:
            x: `(B, in_channels, *dims)`, every size divisible by 2 for each level after the first.
            t: time labels `(B,)`, fractional ones too.
            cond: classes `(B,)`, integers; None where the net has none, or for no class.

        Raises:
            InputError: a shape or a class does not fit.
        """
        skips, h, conditioning = self.encode(x, t, cond)
        for level in self.up:
            h = level(h, skips, *conditioning)[-1]
        return self._out(h, x)

    def _out(self, h: Tensor, x: Tensor) -> Tensor:
        out = self.conv_out(activation(self.config.activation)(self.norm_out(h.to(x.dtype))))
        for dim in range(2, x.dim()) if self.config.pad else ():
            out = out.narrow(dim, self.config.pad, x.shape[dim])
        return out

    def features(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> dict[str, list[Tensor]]:
        """Return what the net thinks on its way, each `(B, C, *dims)`: lists `down`, `middle` and `up`.

        `up` lists a level's last block by what goes on, after the size is changed; `down` lists both.
        """
        skips, h, conditioning = self.encode(x, t, cond)
        found = {"down": list(skips), "middle": [h], "up": []}
        for level in self.up:
            found["up"] += level(h, skips, *conditioning)
            h = found["up"][-1]
        return found
