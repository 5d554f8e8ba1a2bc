"""The set transformer: a denoising net whose points see one another, in any number."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcdiff.errors import InputError
from pcdiff.nets.attention import attention_backend, computed_again, tensors_of
from pcdiff.nets.set_config import SetTransformerConfig
from pcdiff.nets.set_layers import AttentionLayer, InducerLayer, check_vector, init_normal, mlp
from pcdiff.nets.time_embedding import sinusoidal

States = list[Tensor]
"""Of each layer the inducers' state `(B, m, C)`."""


class SetTransformer(nn.Module):
    """Denoiser of sets of points (Tyszkiewicz et al., GECCO, ICCV 2023; Nichol et al., point-e, 2022).

    It has no encoding of positions: what is denoised is the positions themselves, so that permuting the points
    permutes the output, and any number of them goes in. Two kinds, by `attention`:

    - `inducers`: see `InducerLayer`. The time label and the condition, side by side, scale and shift every
      normalization, the label as it is: take one of moderate size, such as `edm` or `log_snr`.
    - `full`: see `AttentionLayer`. The label's sines and cosines pass an MLP; its output and the embedded condition
      are tokens before the points, or are added to each of them.

    Args:
        config: what to build.
        cond_dim: size F of the condition, such as the shape latent; 0 for none.
        point_dim: coordinates D of a point.

    Example:
        >>> net = SetTransformer(SetTransformerConfig(width=64, depth=2, num_inducers=8), cond_dim=0)
        >>> x, t = torch.randn(4, 256, 3), torch.rand(4)
        >>> net(x, t).shape
        torch.Size([4, 256, 3])
        >>> states = net.inducer_states(x, t)  # further points of the same four shapes, x untouched
        >>> net(torch.randn(4, 1000, 3), t, states=states).shape
        torch.Size([4, 1000, 3])
    """

    Config = SetTransformerConfig
    pointwise = False
    label = "numbers"

    def __init__(self, config: SetTransformerConfig, cond_dim: int = 0, point_dim: int = 3):
        super().__init__()
        self.config, self.cond_dim, self.point_dim = config, cond_dim, point_dim
        self.learned_variance = config.learned_variance
        width = config.width
        self.lift = nn.Linear(point_dim, width)
        self.lower = nn.Linear(width, point_dim * (2 if config.learned_variance else 1))
        self.layers: nn.ModuleList
        if config.attention == "inducers":
            self.layers = nn.ModuleList(InducerLayer(config, 1 + cond_dim) for _ in range(config.depth))
            self.norm_out: nn.Module = _last_norm(config, affine=False)
            return
        self.time_embed = mlp(width, config.mlp_ratio, config.activation)
        for layer in (self.time_embed[0], self.time_embed[2]):
            init_normal(layer)
        self.cond_embed = nn.Linear(cond_dim, width) if cond_dim else None
        self.token_embed = None
        if config.token_dim:
            self.token_embed = nn.Sequential(nn.LayerNorm(config.token_dim), nn.Linear(config.token_dim, width))
        self.point_embed = nn.Linear(point_dim, width) if config.point_tokens else None
        self.norm_in = nn.LayerNorm(width)
        self.layers = nn.ModuleList(AttentionLayer(config) for _ in range(config.depth))
        self.norm_out = _last_norm(config, affine=True)
        nn.init.zeros_(self.lower.weight)
        nn.init.zeros_(self.lower.bias)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Tensor | Mapping[str, Tensor] | None = None,
        states: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Predict what the denoiser makes of it for every point.

        Args:
            x: noisy clouds `(B, N, D)`, any N.
            t: time labels `(B,)`.
            cond: conditions `(B, F)`; None where F is 0. With further tokens a dict of `vector (B, F)`, `tokens
                (B, M, token_dim)` and `points (B, M, D)`, as many of them as the net has.
            states: what `inducer_states` gave for the same shapes at the same time: the points read these
                inducers, and change nothing for one another but through the statistics of the normalizations.

        Returns:
            A tensor like `x`; `(B, N, 2 D)` with a learned variance.

        Raises:
            InputError: a shape does not fit, or `states` come with full attention.
        """
        return self._run(x, t, cond, states)[0]

    def inducer_states(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> States:
        """Return the inducers' states that clouds `(B, N, D)` give, to draw further points of the same shapes with.

        Raises:
            InputError: a shape does not fit, or the net has no inducers.
        """
        if self.config.attention != "inducers":
            raise InputError(f"states are those of inducers, got a net with attention {self.config.attention!r}")
        return self._run(x, t, cond, None)[1]

    def _run(self, x: Tensor, t: Tensor, cond: Any, states: Sequence[Tensor] | None) -> tuple[Tensor, States]:
        if x.dim() != 3 or x.shape[2] != self.point_dim:
            raise InputError(f"x must be (B, N, {self.point_dim}), got {tuple(x.shape)}")
        if t.shape != x.shape[:1]:
            raise InputError(f"t must be (B,) = ({len(x)},), got {tuple(t.shape)}")
        with attention_backend(x, t, *tensors_of(cond), *(states or ())):
            if self.config.attention == "inducers":
                return self._through_inducers(x, t, cond, states)
            if states is not None:
                raise InputError("states are those of inducers, got some with attention 'full'")
            return self._through_all(x, t, cond), []

    def _through_inducers(
        self, x: Tensor, t: Tensor, cond: Any, states: Sequence[Tensor] | None
    ) -> tuple[Tensor, States]:
        if states is not None and len(states) != len(self.layers):
            raise InputError(f"states must be one for each of the {len(self.layers)} layers, got {len(states)}")
        context, found = self._context(x, t, cond), []
        given: Sequence[Tensor | None] = states or [None] * len(self.layers)
        h = self.lift(x)
        for layer, state in zip(self.layers, given, strict=True):
            if state is not None:
                check_vector(state, "each of the states", (len(x), -1, self.config.width))
            h, state = self._layer(layer, h, context, state)
            found.append(state)
        return self.lower(self.norm_out(h)), found

    def _context(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """Return time and condition side by side, `(B, 1 + F)`."""
        label = t.to(x.dtype)[:, None]
        if self.cond_dim == 0 and cond is None:
            return label
        check_vector(cond, "cond", (len(x), self.cond_dim))
        assert cond is not None
        return torch.cat([label, self._scaled(cond.to(x.dtype))], dim=1)

    def _scaled(self, cond: Tensor) -> Tensor:
        return cond * self.cond_dim**0.5 if self.config.cond_unit_norm else cond

    def _through_all(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        h, tokens = self.lift(x), []
        time = self.time_embed(sinusoidal(t, self.config.width).to(x.dtype))
        given: dict[str, Tensor] = dict(cond) if isinstance(cond, Mapping) else {}
        if cond is not None and not isinstance(cond, Mapping):
            given = {"vector": cond}
        vector = None
        if self.cond_embed is not None:
            check_vector(given.get("vector"), "cond", (len(x), self.cond_dim))
            vector = self.cond_embed(self._scaled(given.pop("vector").to(x.dtype)))
        for embedded, entry in ((time, self.config.time_as), (vector, self.config.cond_as)):
            if embedded is not None and entry == "token":
                tokens.append(embedded[:, None])
            elif embedded is not None:
                h = h + embedded[:, None]
        kinds = {"tokens": (self.token_embed, self.config.token_dim), "points": (self.point_embed, self.point_dim)}
        for name, (embed, size) in kinds.items():
            if embed is not None:
                check_vector(given.get(name), f"cond[{name!r}]", (len(x), -1, size))
                tokens.append(embed(given.pop(name).to(x.dtype)))
        if given:
            raise InputError(f"cond must be {self._conditions()} for this net, got {sorted(given)} beside it")
        h = self.norm_in(torch.cat([*tokens, h], dim=1) if tokens else h)
        for layer in self.layers:
            h = self._layer(layer, h)
        return self.lower(self.norm_out(h[:, h.shape[1] - x.shape[1] :]))

    def _conditions(self) -> str:
        named = {"vector": self.cond_embed, "tokens": self.token_embed, "points": self.point_embed}
        return " and ".join(name for name, embed in named.items() if embed is not None) or "None"

    def _layer(self, layer: Callable[..., Any], *inputs: Any) -> Any:
        if self.config.checkpoint and self.training and torch.is_grad_enabled():
            return computed_again(layer, *inputs)
        return layer(*inputs)


def _last_norm(config: SetTransformerConfig, affine: bool) -> nn.Module:
    return nn.LayerNorm(config.width, elementwise_affine=affine) if config.last_norm else nn.Identity()
