"""Self-attention over the positions of an image, a signal or a volume, and which derivatives it has."""

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

Forward = TypeVar("Forward", bound=Callable[..., Any])


def attention_backend(*inputs: Tensor) -> AbstractContextManager:
    """Return the context in which a net of these inputs attends with all the derivatives it may be asked for.

    torch's fused attention has a first derivative backwards and no other: a second one (sliced score matching), and
    any in forward mode (`torch.func.jvp`), need plain matrix products. The first of two backward passes cannot know
    of the second, so every derivative in an input of the net, not in its weights alone, takes the products.
    """
    return sdpa_kernel(SDPBackend.MATH) if any(map(_differentiated, inputs)) else nullcontext()


class SameAttention:
    """The context that takes plain products wherever they were taken when it was made; entered any number of times.

    For activations that a backward pass computes anew, each of two passes for itself.
    """

    def __init__(self):
        self._plain = not torch.backends.cuda.flash_sdp_enabled()  # a switch of the CPU's kernels too
        self._entered: list[AbstractContextManager] = []

    def __enter__(self) -> None:
        self._entered.append(sdpa_kernel(SDPBackend.MATH) if self._plain else nullcontext())
        self._entered[-1].__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._entered.pop().__exit__(*raised)


def computed_again(layer: Callable[..., Any], *inputs: Any) -> Any:
    """Run a layer whose activations are not kept, but computed anew in the backward pass: less memory, more time.

    Both times with the same attention. What is compiled takes its attention with it, and knows no context.
    """
    if torch.compiler.is_compiling():
        return checkpoint(layer, *inputs, use_reentrant=False)
    again = SameAttention()
    return checkpoint(layer, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), again))


def differentiable_attention(forward: Forward) -> Forward:
    """Make a net's `forward(x, t, cond)` attend in the `attention_backend` of x and t."""

    @functools.wraps(forward)
    def attending(self: nn.Module, x: Tensor, t: Tensor, cond: Any = None) -> Any:
        with attention_backend(x, t, *tensors_of(cond)):
            return forward(self, x, t, cond)

    return cast(Forward, attending)


def tensors_of(cond: Any) -> tuple[Tensor, ...]:
    """Return the tensors of a condition: itself, those of a dict, or none."""
    values = cond.values() if isinstance(cond, Mapping) else (cond,)
    return tuple(value for value in values if isinstance(value, Tensor))


def _differentiated(value: Tensor) -> bool:
    if value.requires_grad and torch.is_grad_enabled():
        return True
    return not torch.compiler.is_compiling() and forward_ad.unpack_dual(value).tangent is not None


class SelfAttention(nn.Module):
    """Residual self-attention, every position to every other (Vaswani et al., 2017; Ho et al., 2020, appendix B).

    Args:
        channels: C.
        num_heads: heads, each of C / num_heads channels.
        norm: what normalizes the input, `(B, C, *dims)` to the same.
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
