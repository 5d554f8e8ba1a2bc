"""The divergence of a vector field on `(B, *dims)`: exactly, or by Hutchinson's estimate."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pcdiff.errors import InputError, OutOfRange, UnknownName

TRACES = ("exact", "gaussian", "pointwise", "rademacher")
EXACT_LIMIT = 4096  # dimensions of a sample; the exact trace costs as many backward passes
CHUNK_ELEMENTS = 2**24  # numbers in one batch of vector-Jacobian products


class Probes(NamedTuple):
    """Vectors e_k `(K, B, *dims)` and a weight: the trace of J is taken as `weight sum_k e_k . J e_k`."""

    vectors: Tensor
    weight: float


def check_trace(trace: str, dims: torch.Size, num_probes: int = 1) -> None:
    """Refuse a trace that is unknown or does not fit samples of dimensions `dims`.

    Raises:
        InputError: the trace is unknown or does not fit; the message lists those that do.
    """
    if trace not in TRACES:
        raise UnknownName("trace", trace, sorted(TRACES))
    if trace == "exact" and math.prod(dims) > EXACT_LIMIT:
        raise InputError(
            f"trace 'exact' takes at most {EXACT_LIMIT} dimensions (a backward pass each), got {tuple(dims)}; "
            "estimate it with 'rademacher'"
        )
    if trace == "pointwise" and len(dims) != 2:
        raise InputError(f"trace 'pointwise' needs clouds (B, N, D), got (B, {', '.join(map(str, dims))})")
    if num_probes < 1:
        raise OutOfRange("num_probes", "at least 1", num_probes)


def trace_probes(trace: str, like: Tensor, num_probes: int = 1, generator: torch.Generator | None = None) -> Probes:
    r"""Return the vectors that a trace is taken with.

    `"rademacher"` (signs) and `"gaussian"` draw vectors with `E[e e^T] = I`, so that the mean of `e . J e` is the
    trace (Hutchinson, 1990; Grathwohl et al., FFJORD, 2019, section 3.1). `"exact"` takes every unit vector.
    `"pointwise"` takes one vector a coordinate, 1 at that coordinate of **every** point: exact, at the price of D
    backward passes, where the field moves every point by itself.

    Args:
        trace: one of `TRACES`.
        like: a batch `(B, *dims)`.
        num_probes: vectors drawn for each sample, if they are drawn.
        generator: source of the draw.

    Raises:
        InputError: `trace` is unknown or does not fit; `num_probes` is not positive.
    """
    dims = like.shape[1:]
    check_trace(trace, dims, num_probes)
    if trace in ("gaussian", "rademacher"):
        shape = (num_probes, *like.shape)
        if trace == "gaussian":
            drawn = torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
        else:
            bits = torch.randint(2, shape, generator=generator, device=like.device)
            drawn = bits.to(like.dtype) * 2 - 1
        return Probes(drawn, 1 / num_probes)
    size = math.prod(dims) if trace == "exact" else dims[-1]
    units = torch.eye(size, device=like.device, dtype=like.dtype)
    units = units.view(size, 1, *dims) if trace == "exact" else units.view(size, 1, 1, size)
    return Probes(units.expand(size, *like.shape), 1.0)


def divergence(field: Callable[[Tensor], Tensor], x: Tensor, probes: Probes) -> tuple[Tensor, Tensor]:
    """Return a field's value, like `x (B, *dims)`, and its divergence `(B,)`.

    Both can be differentiated again where gradients are asked for, and are detached where they are not.

    Args:
        field: maps a batch to one like it, and no sample to another's value.
        x: where.
        probes: see `trace_probes`.
    """
    training = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if training and x.requires_grad else x.detach().requires_grad_()
        value = field(x)
        total = value.new_zeros(len(x))
        chunk = max(1, CHUNK_ELEMENTS // max(1, x.numel()))
        for vectors in probes.vectors.to(value.dtype).split(chunk):
            # one vector goes without vmap, which not every operator supports
            many = len(vectors) > 1
            (products,) = torch.autograd.grad(
                value,
                x,
                vectors if many else vectors[0],
                create_graph=training,
                retain_graph=True,
                is_grads_batched=many,
            )
            products = products if many else products[None]
            total = total + (products * vectors).flatten(2).sum(dim=(0, 2))
    total = total * probes.weight
    return (value, total) if training else (value.detach(), total.detach())
