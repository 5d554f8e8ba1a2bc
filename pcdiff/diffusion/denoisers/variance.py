"""The variance of one reverse step p(x_s | x_t): fixed or learned. A new kind is a function and a line below."""

from collections.abc import Callable

import torch
from torch import Tensor

from pcdiff.diffusion.processes.base import Process, append_dims
from pcdiff.registry import Registry


def small(process: Process, values: Tensor | None, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return the log of the posterior's variance (Ho et al., 2020, section 3.2), `(B, 1, ..., 1)`."""
    return append_dims(process.positive_posterior_variance(t, s).log(), x)


def large(process: Process, values: Tensor | None, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return the log of the forward kernel's variance; at the data that of `small`, for the decoder's sake."""
    _, _, posterior_variance, forward_variance = process.kernel(t, s)
    positive = process.positive_posterior_variance(t, s)
    return append_dims(torch.where(posterior_variance > 0, forward_variance, positive).log(), x)


def learned(process: Process, values: Tensor | None, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return the net's own log-variance, like `x`."""
    assert values is not None
    return values


def learned_range(process: Process, values: Tensor | None, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return the net's mix of both extremes' logs, -1 the posterior's and 1 beta's, like `x`.

    Nichol & Dhariwal (2021), eq. 15; the values are not cut to [-1, 1].
    """
    low = append_dims(process.positive_posterior_variance(t, s).log(), x)
    high = append_dims(process.kernel(t, s)[3].log(), x)
    assert values is not None
    share = (values + 1) / 2
    return share * high + (1 - share) * low


VARIANCES: Registry[Callable[..., Tensor]] = Registry(
    "variance",
    {
        "small": small,
        "large": large,
        "learned": learned,
        "learned_range": learned_range,
    },
    given=("process", "values", "x", "t", "s"),
)
LEARNED = ("learned", "learned_range")


def log_variance(kind: str, process: Process, values: Tensor | None, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return the log-variance of the kind, `(B, 1, ..., 1)` or like `x`; `values` are the net's output for it."""
    return VARIANCES[kind](process, values, x, t, s)


def check_variance(kind: str) -> None:
    """Refuse an unknown kind.

    Raises:
        InputError: the message lists the known ones.
    """
    VARIANCES.lookup(kind)
