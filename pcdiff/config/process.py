"""How noise is added, and what the net's output means: one set of options for points and pixels."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pcdiff.config.listed import listed


@dataclass(frozen=True)
class ProcessConfig:
    """Forward process, parametrization and time input; what a process does not take stays empty."""

    name: Annotated[str, listed("pcdiff.diffusion:PROCESSES")] = "vp"
    """Forward process, by name (docs/diffusion.md)."""
    beta_min: float | None = None
    """First rate of vp and subvp."""
    beta_max: float | None = None
    """Last rate of vp and subvp."""
    sigma_min: float | None = None
    """Smallest noise level of ve, ncsn and edm."""
    sigma_max: float | None = None
    """Largest noise level of ve, ncsn and edm."""
    num_scales: int | None = None
    """Steps that vp, subvp, ve and edm are discretized to; levels of ncsn."""
    schedule: Literal["linear", "cosine", "warm"] | None = None
    """How the variances of ddpm grow; warm: linearly over a share of the steps, then they stay."""
    num_steps: int | None = None
    """Steps of ddpm."""
    beta_1: float | None = None
    """First variance of ddpm."""
    beta_T: float | None = None
    """Last variance of ddpm."""
    warm: float | None = None
    """Share of ddpm's steps over which the variances of the schedule warm rise."""
    predicts: Annotated[str, listed("pcdiff.diffusion:PARAMETRIZATIONS")] = "eps"
    """What the net's output is: its parametrization."""
    time_input: Annotated[str, listed("pcdiff.diffusion:TIME_INPUTS")] = "log_snr"
    """Time label that the net receives."""
    sigma_data: float | None = None
    """Standard deviation of the data, for the parametrization edm."""

    RANGES: ClassVar[dict[str, str]] = {
        "at least 1": "num_scales num_steps",
        "at most 1,000,000": "num_scales num_steps",
        "in (0, 1)": "beta_1 beta_T",
        "in (0, 1]": "warm",
        "above 0": "sigma_data",
    }


PARAMETERS = ("name", "predicts", "time_input", "sigma_data")
"""The fields that are no options of the process itself."""
