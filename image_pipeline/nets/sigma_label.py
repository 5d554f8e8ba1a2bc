"""Nets conditioned on the noise level that take its logarithm, and answer in units of it."""

from torch import Tensor, nn


class SigmaLabel(nn.Module):
    """The score from a net of log sigma: `net(x, log(scale sigma)) / sigma` (Song et al., 2021, NCSN++).

    Args:
        net: `net(x, label, cond)`.
        scale: 1 in NCSN++ of Song et al.; 1/2 in that of Karras et al. (2022), table 1.
    """

    label = "positive"

    def __init__(self, net: nn.Module, scale: float = 1.0):
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return the score, like `x (B, C, H, W)`, at noise levels `sigma (B,)`."""
        out = self.net(x, (self.scale * sigma).log(), cond)
        return out / sigma.to(out.dtype).view(-1, *[1] * (out.dim() - 1))
