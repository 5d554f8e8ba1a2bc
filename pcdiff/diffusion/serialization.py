"""Processes and denoisers as plain values for JSON, and back, to the bit."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pcdiff.diffusion.denoisers.base import NetDenoiser
from pcdiff.diffusion.denoisers.parametrization import EDM, PARAMETRIZATIONS, parametrization
from pcdiff.diffusion.processes.base import Process
from pcdiff.diffusion.processes.ddpm import DiscreteProcess, RespacedProcess
from pcdiff.diffusion.processes.edm import EDMProcess
from pcdiff.diffusion.processes.ncsn import NoiseLevels
from pcdiff.diffusion.processes.rectified_flow import RectifiedFlow
from pcdiff.diffusion.processes.registry import PROCESSES
from pcdiff.diffusion.processes.subvp import SubVP
from pcdiff.diffusion.processes.ve import VE
from pcdiff.diffusion.processes.vp import VP
from pcdiff.errors import InputError
from pcdiff.registry import Registry


def _chain(betas: list[float]) -> DiscreteProcess:
    return DiscreteProcess(torch.tensor(betas, dtype=torch.float64))


def _levels(sigmas: list[float]) -> NoiseLevels:
    return NoiseLevels(torch.tensor(sigmas, dtype=torch.float64))


def _respaced(parent: Mapping[str, Any], times: list[int]) -> RespacedProcess:
    return RespacedProcess(build_plain_process(parent), torch.tensor(times))


# tables in place of the schedules that `PROCESSES` makes them of: a file's own need not follow any
_BUILT: Registry[Callable[..., Process]] = Registry(
    "process",
    {
        **{name: PROCESSES[name] for name in ("vp", "subvp", "ve", "rectified_flow", "edm")},
        "betas": _chain,
        "sigmas": _levels,
        "respaced": _respaced,
    },
    aliases={"straight": "rectified_flow"},
)
_TOLD: dict[type[Process], Callable[[Any], dict[str, Any]]] = {
    VP: lambda p: {"name": "vp", "beta_min": p.beta_min, "beta_max": p.beta_max, "num_scales": p.num_scales},
    SubVP: lambda p: {"name": "subvp", "beta_min": p.beta_min, "beta_max": p.beta_max, "num_scales": p.num_scales},
    VE: lambda p: {"name": "ve", "sigma_min": p.sigma_min, "sigma_max": p.sigma_max, "num_scales": p.num_scales},
    RectifiedFlow: lambda p: {"name": "rectified_flow", "num_scales": p.num_scales},
    EDMProcess: lambda p: {"name": "edm", "sigma_min": p.sample_eps, "sigma_max": p.T, "num_scales": p.num_scales},
    # the tables' first entries stand for the data
    DiscreteProcess: lambda p: {"name": "betas", "betas": p.betas[1:].tolist()},
    NoiseLevels: lambda p: {"name": "sigmas", "sigmas": p.sigmas[1:].tolist()},
    RespacedProcess: lambda p: {
        "name": "respaced",
        "parent": plain_process(p.parent),
        "times": p.times[1:].tolist(),
    },
}


def plain_process(process: Process) -> dict[str, Any]:
    """Return a process as plain values, with the key `name`; `build_plain_process` reads them back.

    Raises:
        InputError: it is of a kind that has no plain form.

    Example:
        >>> plain_process(VE(0.01, 50.0))
        {'name': 've', 'sigma_min': 0.01, 'sigma_max': 50.0, 'num_scales': 1000}
    """
    if type(process) not in _TOLD:
        known = sorted(kind.__name__ for kind in _TOLD)
        raise InputError(f"process must be one of {known} to be saved, got a {type(process).__name__}")
    return _TOLD[type(process)](process)


def build_plain_process(plain: Mapping[str, Any]) -> Process:
    """Build a process from what `plain_process` gave.

    Raises:
        InputError: the name or an option is unknown (the message lists the known ones), or a value is out of range.
    """
    if not isinstance(plain, Mapping):
        raise InputError(f"process must be its options by name, got {plain!r}")
    options = dict(plain)
    return _BUILT.build(options.pop("name", None), **options)


def plain_denoiser(denoiser: NetDenoiser) -> dict[str, Any]:
    """Return what a denoiser is beside its net, as plain values; `build_plain_denoiser` reads them back.

    Raises:
        InputError: it is no `NetDenoiser`, or of a process or parametrisation that has no plain form.
    """
    if not isinstance(denoiser, NetDenoiser):
        raise InputError(f"denoiser must be a NetDenoiser to be saved, got a {type(denoiser).__name__}")
    says = denoiser.parametrization
    names = [name for name, kind in PARAMETRIZATIONS.items() if kind is type(says)]
    if not names:
        raise InputError(f"predicts must be one of {sorted(PARAMETRIZATIONS)} to be saved, got {says!r}")
    return {
        "process": plain_process(denoiser.process),
        "predicts": {"name": names[0], **({"sigma_data": says.sigma_data} if type(says) is EDM else {})},
        "time_input": denoiser.time_input,
        "variance": denoiser.variance,
    }


def build_plain_denoiser(net: nn.Module, plain: Mapping[str, Any]) -> NetDenoiser:
    """Build a denoiser of a net from what `plain_denoiser` gave.

    Raises:
        InputError: something is missing, unknown, or out of range.
    """
    keys = {"process", "predicts", "time_input", "variance"}
    if not isinstance(plain, Mapping) or set(plain) != keys or not isinstance(plain["predicts"], Mapping):
        raise InputError(f"denoiser must be a dict of {sorted(keys)}, got {plain!r}")
    predicts = dict(plain["predicts"])
    says = parametrization(predicts.pop("name", None), **predicts)
    return NetDenoiser(net, build_plain_process(plain["process"]), says, plain["time_input"], plain["variance"])
