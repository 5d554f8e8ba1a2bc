"""Self-attention over the positions of an image, a signal or a volume."""

import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Residual self-attention, every position to every other (Vaswani et al., 2017; Ho et al., 2020, appendix B).

    Args:
        channels: C.
        num_heads: heads, each of C / num_heads channels.
        norm: what normalises the input, `(B, C, *dims)` to the same.
        divisor: the sum of input and attention is divided by it (Song et al., 2021, appendix H: sqrt 2).
    """

    def __init__(self, channels: int, num_heads: int, norm: nn.Module, divisor: float = 1.0):
        super().__init__()
        self.num_heads, self.divisor = num_heads, divisor
        self.norm = norm
        # rows: all queries, all keys, all values; within each, head by head
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x` `(B, C, *dims)`."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, P, C)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, P, c)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = x + self.proj(h).transpose(1, 2).unflatten(2, x.shape[2:])
        return h if self.divisor == 1 else h / self.divisor
