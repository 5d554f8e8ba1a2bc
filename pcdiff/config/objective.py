"""What a training minimises."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised."""

    objective: Literal["simple", "elbo"] = "simple"
    """Reconstruction term: `simple` (mean squared noise error) or `elbo` (in nats; with kl_weight 1 the bound)."""
    kl_weight: float = 1e-3
    """Weight of prior and entropy beside the reconstruction term."""
    times_per_cloud: int = 1
    """Diffusion times drawn for each cloud; its points are shared out among them. Must divide num_points."""
    stratified_times: bool = False
    """Spread a batch's diffusion times evenly over the chain (each is still uniform)."""
