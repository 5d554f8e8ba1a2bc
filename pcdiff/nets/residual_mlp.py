"""A denoising net for vectors: residual blocks with squeeze and excitation, as LION's global prior has them."""

import torch
from torch import Tensor, nn

from pcdiff.errors import InputError

_WAVES = 128  # sines and cosines of the time label
_FASTEST, _SLOWEST = 4.0, 0.04  # their frequencies, in radians
_SQUEEZE = 8  # a block's gate is computed in an eighth of its width


class ResidualMLP(nn.Module):
    """Denoise vectors `(B, F)` (Zeng et al., LION, NeurIPS 2022; layers as in its code, sizes free).

    `h = W_in x`, then blocks `h + SE(silu(V silu(W (h + e))))` with e of time and condition, then `W_out h`. LION's
    has width 2048 and 8 blocks. The last layer starts at zero. Two things are smoother than in LION, since a
    solver of the probability flow has to follow every wave and kink: the activation, there ReLU, and the embedding
    of time, there that of the step of a chain of 1000, here of log(alpha / sigma) / 2 at low frequencies.

    Args:
        dim: size F of the vectors.
        width: of the blocks.
        depth: blocks.
        cond_dim: size of a condition, added to the time's embedding; 0 for none.
        dropout: between the layers of a block; LION's is 0.2 to 0.4.

    Example:
        >>> net = ResidualMLP(8, width=16, depth=2)
        >>> net(torch.randn(4, 8), torch.rand(4)).shape
        torch.Size([4, 8])
    """

    def __init__(self, dim: int, width: int = 512, depth: int = 8, cond_dim: int = 0, dropout: float = 0.0):
        super().__init__()
        self.dim, self.cond_dim = dim, cond_dim
        self.first = nn.Linear(dim, width)
        # no activation between the two, as in LION's code
        self.time = nn.Sequential(nn.Linear(_WAVES, 4 * _WAVES), nn.Linear(4 * _WAVES, width))
        self.cond = nn.Linear(cond_dim, width, bias=False) if cond_dim else None
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(depth))
        self.last = nn.Linear(width, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return a tensor like `x`.

        Args:
            x: noisy vectors `(B, F)`.
            t: time labels `(B,)`, of about -2.5 to 2.5.
            cond: conditions `(B, cond_dim)`; None where that is 0.

        Raises:
            InputError: a shape does not fit.
        """
        if x.dim() != 2 or x.shape[1] != self.dim:
            raise InputError(f"x must be (B, {self.dim}), got {tuple(x.shape)}")
        expected = (len(x), self.cond_dim) if self.cond_dim else None
        if (got := None if cond is None else tuple(cond.shape)) != expected:
            raise InputError(f"cond must be {expected}, got {got}")
        steps = torch.linspace(0, 1, _WAVES // 2, device=x.device, dtype=x.dtype)
        angles = t[:, None].to(x.dtype) * _FASTEST * (_SLOWEST / _FASTEST) ** steps
        told = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        if self.cond is not None:
            told = told + self.cond(cond)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, told)
        return self.last(h)


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.SiLU()
        )
        squeezed = max(1, width // _SQUEEZE)
        self.gate = nn.Sequential(nn.Linear(width, squeezed), nn.SiLU(), nn.Linear(squeezed, width), nn.Sigmoid())

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        added = self.layers(h + told)
        return h + added * self.gate(added)
