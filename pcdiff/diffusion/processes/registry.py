"""Processes by name."""

import logging
from collections.abc import Callable
from typing import Any

import torch

from pcdiff.diffusion.processes.base import Process
from pcdiff.diffusion.processes.ddpm import discrete_process
from pcdiff.diffusion.processes.edm import EDMProcess
from pcdiff.diffusion.processes.ncsn import NoiseLevels, geometric_sigmas
from pcdiff.diffusion.processes.rectified_flow import RectifiedFlow
from pcdiff.diffusion.processes.subvp import SubVP
from pcdiff.diffusion.processes.ve import VE
from pcdiff.diffusion.processes.vp import VP
from pcdiff.registry import Registry

log = logging.getLogger("pcdiff")
_MOST_SIGNAL = 0.1  # alpha at the end: a hundredth of the variance
_WARNED: set[tuple[str, float]] = set()


def noise_levels(sigma_min: float = 0.01, sigma_max: float = 50.0, num_scales: int = 232) -> NoiseLevels:
    """Build NCSN's geometric chain of levels (Song & Ermon, 2020)."""
    return NoiseLevels(geometric_sigmas(sigma_min, sigma_max, num_scales))


def ddpm(
    schedule: str = "linear", num_steps: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02, warm: float = 0.1
) -> Process:
    """Build a DDPM chain; see `discrete_process`."""
    return discrete_process(schedule, num_steps, beta_1, beta_T, warm)


PROCESSES: Registry[Callable[..., Process]] = Registry(
    "process",
    {
        "vp": VP,
        "subvp": SubVP,
        "ve": VE,
        "ncsn": noise_levels,
        "ddpm": ddpm,
        "rectified_flow": RectifiedFlow,
        "edm": EDMProcess,
    },
    aliases={"straight": "rectified_flow"},  # as configs and checkpoints have it from before
)


def build_process(name: str, **options: Any) -> Process:
    """Build a process by name.

    Args:
        name: a key of `PROCESSES`.
        **options: what that process takes.

    Raises:
        InputError: the name or an option is unknown (the message lists the known ones), or a value is out of range.

    Example:
        >>> build_process("ve", sigma_min=0.01, sigma_max=50.0)
    """
    process = PROCESSES.build(name, **options)
    _warn_of_signal_left(name, process)
    return process


def _warn_of_signal_left(name: str, process: Process) -> None:
    """Warn once of each process that leaves signal at its end: the prior, pure noise, is not its last marginal."""
    if process.T is None or process.exploding:
        return
    left = float(process.alpha(torch.tensor([process.T], dtype=torch.float64)))
    if left > _MOST_SIGNAL and (left_of := (name, round(left, 2))) not in _WARNED:
        _WARNED.add(left_of)
        log.warning(
            "process %r ends with alpha(T) = %.2f of the signal left, not in noise, from which samples start; "
            "give it more steps or larger rates",
            *left_of,
        )
