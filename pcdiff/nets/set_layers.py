"""The layers of set transformers: attention through inducers, or of every point to every other."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcdiff.errors import InputError
from pcdiff.nets.activations import activation_layer
from pcdiff.nets.set_config import SetTransformerConfig


def mlp(width: int, ratio: int, activation: str) -> nn.Sequential:
    """Build two layers with an activation between them, `width` to `width` by way of `ratio * width` channels."""
    return nn.Sequential(
        nn.Linear(width, ratio * width), activation_layer(activation), nn.Linear(ratio * width, width)
    )


def scaled_group_norm(x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """Normalize sets `(B, N, C)` by group, over its channels **and** all points, then scale and shift `(B, C)`.

    As `F.group_norm` of the transposed tensor (Wu & He, 2018), but points stay where they are. Moments of each
    channel over the points, merged by group, take a fifth of the time that `torch.var_mean` takes over both
    dimensions on a CPU. All in float32 at least.
    """
    h = x.to(torch.promote_types(x.dtype, torch.float32))
    scale, shift = (v.to(h.dtype).unflatten(1, (groups, -1))[:, None] for v in (scale, shift))  # (B, 1, groups, C')
    mean = h.mean(dim=1, keepdim=True)
    h = h - mean
    squares = h.square().mean(dim=1, keepdim=True).unflatten(2, (groups, -1))
    apart = mean.unflatten(2, (groups, -1))
    apart = apart - apart.mean(dim=3, keepdim=True)
    variance = (squares + apart.square()).mean(dim=3, keepdim=True)
    factor = (variance + eps).rsqrt() * scale
    return torch.addcmul((shift + apart * factor).flatten(2), h, factor.flatten(2)).to(x.dtype)


def heads_of(x: Tensor, num_heads: int) -> Tensor:
    """Return features `(B, N, C)` by head, `(B, num_heads, N, C / num_heads)`."""
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return what queries `(B, H, N, c)` find at `(B, H, M, c)`, heads side by side: `(B, N, H c)`."""
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class InducerLayer(nn.Module):
    """Points and a few inducers that read one another (Lee et al., 2019, ISAB; Tyszkiewicz et al., GECCO, 2023).

    The inducers are learned queries. They read the points, pass an MLP, and the points read what they have become;
    an MLP for each point follows. Cost grows with the number of points, not with its square. Every normalization is
    scaled and shifted by a linear function of the context, which starts at 1 and 0; both branches start small.

    Args:
        config: sizes.
        context_dim: size E of the context: the time, and the condition if there is one.
    """

    NORMS = 4
    """Before the attention, of the inducers before and after their MLP, and before the points' MLP."""

    def __init__(self, config: SetTransformerConfig, context_dim: int):
        super().__init__()
        width, self.num_heads = config.width, config.num_heads
        self.groups = min(config.norm_groups, width)
        # rows: norm by norm, its scales and then its shifts
        self.modulation = nn.Linear(context_dim, 2 * self.NORMS * width)
        self.inducers = nn.Parameter(torch.randn(config.num_heads, config.num_inducers, width // config.num_heads))
        self.pool_key_value = nn.Linear(width, 2 * width, bias=False)
        self.pool_out = nn.Linear(width, width, bias=False)
        self.inducer_mlp = mlp(width, config.mlp_ratio, config.activation)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp = mlp(width, config.mlp_ratio, config.activation)
        self._start(width)

    @torch.no_grad()
    def _start(self, width: int) -> None:
        nn.init.zeros_(self.modulation.weight)
        bias = self.modulation.bias.view(self.NORMS, 2, width)
        bias[:, 0], bias[:, 1] = 1, 0
        bound = (6 / (4 * width)) ** 0.5  # Xavier's, of query, key and value as one matrix
        for layer in (self.query, self.key_value):
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.bias)
        for last in (self.out, self.mlp[2]):
            last.weight.mul_(0.1)

    def forward(self, x: Tensor, context: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the points' features, like `x (B, N, C)`, and the inducers' state `(B, m, C)`.

        Args:
            x: features.
            context: `(B, E)`.
            state: the inducers' state of other points of the same set, in place of these points' own.
        """
        before, first, second, last = self.modulation(context).unflatten(1, (self.NORMS, 2, -1)).unbind(1)
        h = scaled_group_norm(x, before[:, 0], before[:, 1], self.groups)
        if state is None:
            key, value = self.pool_key_value(h).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            inducers = self.inducers.to(key.dtype).expand(len(x), -1, -1, -1)
            state = self.pool_out(attend(inducers, key, value))
            state = self.inducer_mlp(scaled_group_norm(state, first[:, 0], first[:, 1], self.groups))
            state = scaled_group_norm(state, second[:, 0], second[:, 1], self.groups)
        key, value = self.key_value(state).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(attend(heads_of(self.query(h), self.num_heads), key, value))
        return x + self.mlp(scaled_group_norm(x, last[:, 0], last[:, 1], self.groups)), state


class AttentionLayer(nn.Module):
    """A pre-norm transformer block, every token to every other (Vaswani et al., 2017; as in point-e).

    Args:
        config: sizes.
    """

    def __init__(self, config: SetTransformerConfig):
        super().__init__()
        width, self.num_heads = config.width, config.num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        # rows: all queries, all keys, all values; within each, head by head
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.mlp = mlp(width, config.mlp_ratio, config.activation)
        for layer in (self.qkv, self.proj, self.mlp[0], self.mlp[2]):
            init_normal(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return features like `x (B, N, C)`."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(attend(q, k, v))
        return x + self.mlp(self.norm2(x))


def init_normal(layer: nn.Module) -> None:
    """Start a linear layer as point-e starts those of its transformer: normal, 0.25 / sqrt(width), and no bias."""
    assert isinstance(layer, nn.Linear)
    width = min(layer.in_features, layer.out_features)
    nn.init.normal_(layer.weight, std=0.25 * width**-0.5)
    nn.init.zeros_(layer.bias)


def check_vector(value: Tensor | None, name: str, shape: tuple[int, ...]) -> None:
    """Refuse a condition of another shape.

    Raises:
        InputError: it is None, or its shape differs; -1 stands for any size.
    """
    fits = value is not None and value.dim() == len(shape)
    if not fits or any(want not in (-1, got) for want, got in zip(shape, value.shape, strict=True)):
        got = None if value is None else tuple(value.shape)
        raise InputError(f"{name} must be {shape}, got {got}".replace("-1", "M"))
