"""The time input of a net: labels by name, and the nets that can read them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pcdiff.diffusion.processes.base import Process
from pcdiff.errors import InputError, UnknownName
from pcdiff.registry import Registry

LABELS = ("numbers", "positive", "levels")
"""What a net may state in an attribute `label`: that it reads any numbers (the default),
positive ones, whose logarithm it takes, or integers from 0, the indices of its `num_levels` noise levels."""


def log_ratio(process: Process, t: Tensor) -> Tensor:
    """Return log(alpha / sigma) `(B,)`; where no signal is left (rectified flow's T), that of 2^-24 of it.

    So little is left at the last time before T that float32 has, the last that is drawn in training.
    """
    alpha, sigma = process.scales(t)
    return (torch.where(alpha > 0, alpha, 2**-24 * sigma) / sigma).log()


class TimeInput(NamedTuple):
    """A label `(B,)` of times `(B,)`.

    Attributes:
        label: gives it.
        fits: which processes have it.
        positive: whether it is above 0 at every time with noise.
        levels: of which processes it is the index of a noise level.
    """

    label: Callable[[Process, Tensor], Tensor]
    fits: Callable[[Process], bool] = lambda process: True
    positive: bool = False
    levels: Callable[[Process], bool] = lambda process: False


TIME_INPUTS: Registry[TimeInput] = Registry(
    "time_input",
    {
        # beta_t, as DPM feeds its net (Luo & Hu, 2021)
        "beta": TimeInput(
            lambda process, t: process.beta(t), lambda process: hasattr(process, "beta"), positive=True
        ),
        "index": TimeInput(lambda process, t: t.float(), positive=True),
        "t": TimeInput(lambda process, t: t, positive=True),
        # log(alpha^2 / sigma^2) / 4
        "log_snr": TimeInput(lambda process, t: log_ratio(process, t) / 2),
        # ln(sigma) / 4 of the data's own scale, c_noise of Karras et al. (2022), table 1
        "edm": TimeInput(lambda process, t: -log_ratio(process, t) / 4, lambda process: process.T is not None),
        # score_sde's label of VP and sub-VP, whatever the number of scales (Song et al., 2021, its code)
        "999t": TimeInput(
            lambda process, t: 999 * t, lambda process: process.num_steps is None and process.T == 1, positive=True
        ),
        # the step counted from 0, as DDPM, ADM and score_sde's discrete VP count
        "step": TimeInput(
            lambda process, t: process.position(t),
            lambda process: process.num_scales is not None,
            levels=lambda process: process.num_steps is not None,
        ),
        # that step stretched to DDPM's thousand, ADM's `rescale_timesteps`
        "step1000": TimeInput(
            lambda process, t: process.position(t) * (1000 / process.num_scales),
            lambda process: process.num_scales is not None,
        ),
        # the noise level counted from the largest, as NCSN and score_sde's discrete VE count; EDM's times continue
        # past T and lie too close together there for the steps to distinguish them
        "level": TimeInput(
            lambda process, t: (process.num_scales - 1 - process.position(t)).round().long(),
            lambda process: process.num_scales is not None and math.isfinite(process.t_end),
            levels=lambda process: True,
        ),
        "sigma": TimeInput(lambda process, t: process.sigma(t), lambda process: process.exploding, positive=True),
        "log_sigma": TimeInput(lambda process, t: process.sigma(t).log(), lambda process: process.exploding),
    },
)


def _read_by(name: str, net: nn.Module, process: Process) -> bool:
    time_input, label = TIME_INPUTS[name], getattr(net, "label", "numbers")
    if label == "levels":
        return time_input.levels(process)
    return time_input.positive or label != "positive"


def check_time_input(name: str, process: Process, net: nn.Module | None = None) -> None:
    """Refuse a label that the process does not have, or that the net cannot read.

    Args:
        name: of the label.
        process: a process.
        net: the net that receives it; see `LABELS`.

    Raises:
        InputError: unknown or unfit (the message lists those that fit), or the net has too few levels.
    """
    fit = sorted(key for key, time_input in TIME_INPUTS.items() if time_input.fits(process))
    if name not in fit:
        raise UnknownName("time_input", name, fit, " for this process")
    read, kind = [key for key in fit if _read_by(key, net, process)], type(net).__name__
    if name not in read:
        reads = {"levels": "indices of noise levels", "positive": "positive labels"}[net.label]
        if not read:
            raise InputError(f"the net {kind} reads {reads}, which {type(process).__name__} does not have")
        raise UnknownName("time_input", name, read, f": the net {kind} reads {reads}")
    if getattr(net, "label", None) == "levels":
        trained, _ = process.trained_at(torch.ones(1, dtype=torch.long))
        if trained.num_scales > net.num_levels:
            raise InputError(
                f"the net {kind} has {net.num_levels} noise levels, too few for the process's "
                f"{trained.num_scales}; give both as many num_scales"
            )
