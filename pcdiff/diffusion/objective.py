"""Objectives by name: one number a sample, so that callers weight and log them. Any rank `(B, *dims)`.

Each is `objective(denoiser, x0, t, noise, cond=None, **options) -> (B,)`; times come from `pcdiff.diffusion.times`.
A new objective is one function and one line in `OBJECTIVES`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from pcdiff.diffusion.bound import elbo, hybrid, vlb
from pcdiff.diffusion.regression import edm, flow, regression, simple
from pcdiff.diffusion.score_matching import dsm, likelihood, sliced
from pcdiff.errors import InputError

OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "simple": simple,
    "elbo": elbo,
    "regression": regression,
    "dsm": dsm,
    "likelihood": likelihood,
    "sliced": sliced,
    "edm": edm,
    "flow": flow,
    "vlb": vlb,
    "hybrid": hybrid,
}


def objective(name: str, **options: Any) -> Callable[..., Tensor]:
    """Return an objective by name, its options bound.

    Raises:
        InputError: the name or an option is unknown; the message lists the known ones.

    Example:
        >>> objective("simple", norm="l1")(denoiser, x0, t, noise)  # (B,)
    """
    if name not in OBJECTIVES:
        raise InputError(f"objective must be one of {sorted(OBJECTIVES)}, got {name!r}")
    parameters = inspect.signature(OBJECTIVES[name]).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"objective {name!r} takes {known}, got {unknown}")
    return partial(OBJECTIVES[name], **options) if options else OBJECTIVES[name]
