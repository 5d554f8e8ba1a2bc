"""What a training minimizes: one set of options for points and pixels."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pcdiff.config.listed import listed


@dataclass(frozen=True)
class ObjectiveConfig:
    """A weighted sum of objectives, averaged over times."""

    objectives: Annotated[tuple[str, ...], listed("pcdiff.diffusion:OBJECTIVES")] = ("simple",)
    """Objectives by name."""
    weights: tuple[float, ...] = (1.0,)
    """Their weights."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over a sample's numbers."""
    norm: Literal["l2", "l1"] = "l2"
    """Of the errors."""
    time_draw: Literal["uniform", "importance", "log_normal", "log_uniform"] = "uniform"
    """How training times are drawn."""
    time_mean: float = -1.2
    """Of log sigma, for log_normal."""
    time_std: float = 1.2
    """Of log sigma, for log_normal."""
    stratified_times: bool = False
    """Spread a batch's diffusion times evenly over the process (each is still uniform)."""
    label_dropout: float = 0.1
    """Share of labels that are dropped, where the net is conditioned on classes (classifier-free guidance)."""

    RANGES: ClassVar[dict[str, str]] = {
        "at least 0": "time_std kl_weight",
        "at least 1": "times_per_cloud",
        "in [0, 1)": "label_dropout",
    }


@dataclass(frozen=True)
class CloudObjectiveConfig(ObjectiveConfig):
    """What is minimized for clouds: the objectives, and the latent's divergence from its prior."""

    kl_weight: float = 1e-3
    """Weight of the prior and entropy terms, of a model with a latent variable."""
    times_per_cloud: int = 1
    """Diffusion times drawn for each cloud; its points are shared out among them. Must divide num_points, and
    above 1 the net must be pointwise."""
