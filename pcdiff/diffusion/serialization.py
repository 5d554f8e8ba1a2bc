"""Processes and denoisers as plain values for JSON, and back, to the bit."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pcdiff.diffusion.denoisers.base import NetDenoiser
from pcdiff.diffusion.denoisers.parametrization import PARAMETRIZATIONS, parametrization
from pcdiff.diffusion.processes.base import Process
from pcdiff.diffusion.processes.ddpm import DiscreteProcess, RespacedProcess
from pcdiff.diffusion.processes.ncsn import NoiseLevels
from pcdiff.diffusion.processes.registry import PROCESSES
from pcdiff.errors import InputError
from pcdiff.registry import Registry


def _chain(betas: list[float]) -> DiscreteProcess:
    return DiscreteProcess(torch.tensor(betas, dtype=torch.float64))


def _levels(sigmas: list[float]) -> NoiseLevels:
    return NoiseLevels(torch.tensor(sigmas, dtype=torch.float64))


def _respaced(parent: Mapping[str, Any], times: list[int]) -> RespacedProcess:
    return RespacedProcess(process_from_dict(parent), torch.tensor(times))


# tables in place of the schedules that `PROCESSES` makes them of: a file's own need not follow any
_FROM_TABLES: dict[str, Callable[..., Process]] = {"betas": _chain, "sigmas": _levels, "respaced": _respaced}
# the tables' first entries are the data's
_TO_TABLES: dict[type[Process], Callable[[Any], dict[str, Any]]] = {
    DiscreteProcess: lambda p: {"name": "betas", "betas": p.betas[1:].tolist()},
    NoiseLevels: lambda p: {"name": "sigmas", "sigmas": p.sigmas[1:].tolist()},
    RespacedProcess: lambda p: {
        "name": "respaced",
        "parent": process_to_dict(p.parent),
        "times": p.times[1:].tolist(),
    },
}


def process_to_dict(process: Process) -> dict[str, Any]:
    """Return a process as plain values, with the key `name`; `process_from_dict` reads them back.

    A process of one's own can be saved where its class is in `PROCESSES` and keeps its options as attributes.

    Raises:
        InputError: its class is in no registry, or does not keep an option.

    Example:
        >>> process_to_dict(VE(0.01, 50.0))
        {'name': 've', 'sigma_min': 0.01, 'sigma_max': 50.0, 'num_scales': 1000}
    """
    if type(process) in _TO_TABLES:
        return _TO_TABLES[type(process)](process)
    return _to_dict(PROCESSES, process)


def process_from_dict(plain: Mapping[str, Any]) -> Process:
    """Build a process from what `process_to_dict` gave.

    Raises:
        InputError: the name or an option is unknown (the message lists the known ones), or a value is out of range.
    """
    if not isinstance(plain, Mapping):
        raise InputError(f"process must be its options by name, got {plain!r}")
    options = dict(plain)
    # chains by their tables only: a number of steps from a file could fill the memory
    classes = {name: part for name, part in PROCESSES.items() if isinstance(part, type)}
    known = Registry("process", {**classes, **_FROM_TABLES}, aliases=PROCESSES.aliases)
    return known.build(options.pop("name", None), **options)


def denoiser_to_dict(denoiser: NetDenoiser) -> dict[str, Any]:
    """Return a denoiser's settings without its net, as plain values; `denoiser_from_dict` reads them back.

    Raises:
        InputError: it is not a `NetDenoiser`, or its process or parametrization is in no registry.
    """
    if not isinstance(denoiser, NetDenoiser):
        raise InputError(f"denoiser must be a NetDenoiser to be saved, got a {type(denoiser).__name__}")
    return {
        "process": process_to_dict(denoiser.process),
        "predicts": _to_dict(PARAMETRIZATIONS, denoiser.parametrization),
        "time_input": denoiser.time_input,
        "variance": denoiser.variance,
    }


def denoiser_from_dict(net: nn.Module, plain: Mapping[str, Any]) -> NetDenoiser:
    """Build a denoiser of a net from what `denoiser_to_dict` gave.

    Raises:
        InputError: something is missing, unknown, or out of range.
    """
    keys = {"process", "predicts", "time_input", "variance"}
    if not isinstance(plain, Mapping) or set(plain) != keys or not isinstance(plain["predicts"], Mapping):
        raise InputError(f"denoiser must be a dict of {sorted(keys)}, got {plain!r}")
    predicts = dict(plain["predicts"])
    output = parametrization(predicts.pop("name", None), **predicts)
    return NetDenoiser(net, process_from_dict(plain["process"]), output, plain["time_input"], plain["variance"])


def _to_dict(registry: Registry[Any], part: Any) -> dict[str, Any]:
    """Return a part's name and its options, as the attributes of the same names hold them."""
    name, kind = registry.name_of(type(part)), type(part).__name__
    if name is None:
        raise InputError(f"{registry.kind} must be one of {', '.join(sorted(registry))} to be saved, got a {kind}")
    options = registry.options(name)
    if missing := [key for key in options if not hasattr(part, key)]:
        raise InputError(f"{registry.kind} {name!r} must keep {missing} as attributes to be saved")
    return {"name": name, **{key: getattr(part, key) for key in options}}
