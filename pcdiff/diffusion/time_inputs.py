"""What a net is told about time: labels by name."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from pcdiff.diffusion.process import Process
from pcdiff.errors import InputError


class TimeInput(NamedTuple):
    """A label `(B,)` of times `(B,)`, and which processes have it."""

    label: Callable[[Process, Tensor], Tensor]
    fits: Callable[[Process], bool] = lambda process: True


TIME_INPUTS: dict[str, TimeInput] = {
    # beta_t, as DPM feeds its net (Luo & Hu, 2021)
    "beta": TimeInput(lambda process, t: process.beta(t), lambda process: hasattr(process, "beta")),
    "index": TimeInput(lambda process, t: t.float()),
    "t": TimeInput(lambda process, t: t),
    # log(alpha^2 / sigma^2) / 4
    "log_snr": TimeInput(lambda process, t: (process.alpha(t) / process.sigma(t)).log() / 2),
    # ln(sigma) / 4 of the data's own scale, c_noise of Karras et al. (2022), table 1
    "edm": TimeInput(
        lambda process, t: (process.sigma(t) / process.alpha(t)).log() / 4, lambda process: process.T is not None
    ),
    # score_sde's label of VP and sub-VP, whatever the number of scales (Song et al., 2021, its code)
    "999t": TimeInput(lambda process, t: 999 * t, lambda process: process.num_steps is None and process.T == 1),
    # the step counted from 0, as DDPM, ADM and score_sde's discrete VP count
    "step": TimeInput(lambda process, t: process.position(t), lambda process: process.num_scales is not None),
    # that step stretched to DDPM's thousand, ADM's `rescale_timesteps`
    "step1000": TimeInput(
        lambda process, t: process.position(t) * (1000 / process.num_scales),
        lambda process: process.num_scales is not None,
    ),
    # the noise level counted from the largest, as NCSN and score_sde's discrete VE count
    "level": TimeInput(
        lambda process, t: (process.num_scales - 1 - process.position(t)).round().long(),
        lambda process: process.num_scales is not None,
    ),
    "sigma": TimeInput(lambda process, t: process.sigma(t), lambda process: process.exploding),
    "log_sigma": TimeInput(lambda process, t: process.sigma(t).log(), lambda process: process.exploding),
}


def check_time_input(name: str, process: Process) -> None:
    """Refuse a label that the process does not have.

    Raises:
        InputError: unknown or unfit; the message lists those that fit.
    """
    known = sorted(key for key, time_input in TIME_INPUTS.items() if time_input.fits(process))
    if name not in known:
        raise InputError(f"time_input must be one of {known} for this process, got {name!r}")
