"""How samples are drawn: one set of options for points and pixels."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pcdiff.config.listed import listed


@dataclass(frozen=True)
class SamplingConfig:
    """How samples are drawn; None takes the run's own, and behind that the sampler's."""

    sampler: Annotated[str | None, listed("pcdiff.diffusion:PREDICTORS")] = None
    """Sampler (predictor), by name (docs/diffusion.md)."""
    num_steps: int | None = None
    """Steps from noise to data; all that the process has by default (steps)."""
    grid: Annotated[str | None, listed("pcdiff.diffusion:GRIDS")] = None
    """Time grid; the sampler's own by default, or else the process's."""
    order: int | None = None
    """Order of dpmpp and unipc: 1, 2 or 3."""
    eta: float | None = None
    """Noise of ddim and dpmpp: 0 is none, 1 as much as the reverse process has."""
    churn: float | None = None
    """Noise that heun and edm add on their way, S_churn of Karras et al. (2022)."""
    churn_min: float | None = None
    """Lowest noise level that gets churn, S_tmin."""
    churn_max: float | None = None
    """Highest noise level that gets churn, S_tmax."""
    churn_noise: float | None = None
    """Standard deviation of churn's noise, S_noise."""
    rtol: float | None = None
    """Relative tolerance of ode and adaptive_sde."""
    atol: float | None = None
    """Absolute tolerance of ode and adaptive_sde."""
    flow: bool | None = None
    """Follow the probability flow, not the SDE, with euler_maruyama and reverse_diffusion: nothing is drawn."""
    variable: Literal["sigma", "t"] | None = None
    """What heun and edm step in: the noise level, or the process's own time (rectified_flow needs t)."""
    corrector: Annotated[str | None, listed("pcdiff.diffusion:CORRECTORS")] = None
    """Corrector at every time; none by default."""
    corrector_steps: int | None = None
    """Its steps at every time (steps)."""
    snr: float | None = None
    """Signal-to-noise ratio of langevin and ald."""
    step_size: float | None = None
    """Step size of ncsn and ncsnv2."""
    denoise: bool | None = None
    """End with the estimate of the clean sample, for one evaluation more; by default where noise is left."""
    guidance: float | None = None
    """Scale of classifier-free guidance, where the net is conditioned on classes; 1 is none."""
