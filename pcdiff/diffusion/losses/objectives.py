"""Objectives by name: one number a sample, so that callers weight and log them. Any rank `(B, *dims)`.

Each is `objective(denoiser, x0, t, noise, cond=None, **options) -> (B,)`; times come from
`pcdiff.diffusion.losses.time_draws`.
A new objective is one function and one line in `OBJECTIVES`; what it needs of a denoiser is stated with
`pcdiff.diffusion.samplers.requirements.needs`.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pcdiff.diffusion.denoisers.base import Denoiser
from pcdiff.diffusion.losses.regression import edm, flow, regression, simple
from pcdiff.diffusion.losses.score_matching import dsm, likelihood, sliced
from pcdiff.diffusion.losses.variational_bound import elbo, hybrid, vlb
from pcdiff.diffusion.samplers.requirements import check_needs
from pcdiff.registry import Registry

OBJECTIVES: Registry[Callable[..., Tensor]] = Registry(
    "objective",
    {
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
    },
    given=("denoiser", "x0", "t", "noise", "cond"),
)


def objective(name: str, **options: Any) -> Callable[..., Tensor]:
    """Return an objective by name, its options bound.

    Raises:
        InputError: the name or an option is unknown; the message lists the known ones.

    Example:
        >>> objective("simple", norm="l1")(denoiser, x0, t, noise)  # (B,)
    """
    return OBJECTIVES.bind(name, **options)


def check_objective(name: str, denoiser: Denoiser) -> None:
    """Refuse an objective that the denoiser does not fit, before anything is computed.

    Raises:
        InputError: the name is unknown, or the denoiser lacks what the objective needs.
    """
    check_needs(name, objective(name), denoiser)
