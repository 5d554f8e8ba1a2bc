"""One training run of clouds: every field is a flag."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pcdiff.config.data import DataConfig
from pcdiff.config.model import ModelConfig
from pcdiff.config.objective import ObjectiveConfig
from pcdiff.config.ranges import check_ranges
from pcdiff.config.train import TrainConfig, check_train
from pcdiff.errors import InputError


@dataclass(frozen=True)
class RunConfig:
    """One training run: every field is a flag."""

    preset: str = "paper"
    """Defaults of all other flags: `paper` (DPM's hyper-parameters), `cpu` (40 minutes on two CPU cores), `quick`
    (minutes on two CPU cores) or `demo` (the same, smaller nets for slow cores)."""
    out: Path | None = None
    """The run's folder; a new one under runs/ by default."""
    resume: Path | None = None
    """Go on with the run in this folder, exactly where it stopped."""
    dry_run: bool = False
    """Print what differs from the preset, clouds found, sizes, memory and the time of a step, then exit; nothing is
    written."""
    show_config: bool = False
    """With --dry-run: print the whole resolved config."""
    seed: int = 2020
    """Seed of every random draw."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    num_samples: int = 64
    """Clouds drawn into samples.npy at the end (clouds)."""
    sample_points: int = 2048
    """Points of each of those clouds; any number, whatever the training used (points)."""
    flexibility: float = 0.0
    """Noise of the sampling chain: 0 is the posterior's, 1 the forward kernel's standard deviation."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def check(config: RunConfig) -> None:
    """Refuse values that no run can have, before anything is made.

    Raises:
        InputError: names the first such field, what was expected and what came.
    """
    fields = {
        name: value
        for part in (config, config.model, config.objective, config.data, config.train)
        for name, value in vars(part).items()
    }
    at_least_one = (
        "latent_dim encoder_widths encoder_head_widths flow_depth flow_hidden_dim cnf_widths net_widths num_steps "
        "times_per_cloud num_points num_samples sample_points"
    )
    ranges: dict[str, tuple[str, Callable[[float], bool]]] = {
        "at least 1": (at_least_one, lambda v: v >= 1),
        "not negative": ("kl_weight frequencies", lambda v: v >= 0),
        "in 0..2^63 - 1": ("seed", lambda v: 0 <= v < 2**63),
        "positive": ("cnf_time cnf_tolerance", lambda v: v > 0),
        "at most 1,000,000": ("num_steps", lambda v: v <= 1_000_000),
        "in (0, 1)": ("beta_1 beta_T", lambda v: 0 < v < 1),
        "in [0, 1]": ("flexibility", lambda v: 0 <= v <= 1),
    }
    check_ranges(fields, ranges)
    check_train(config.train)
    model, train = config.model, config.train
    if not model.encoder_widths:
        raise InputError("encoder_widths must name at least one layer, got none")
    if model.kind == "flow" and model.flow == "coupling" and model.latent_dim < 2:
        raise InputError(f"latent_dim must be at least 2 for a coupling flow, got {model.latent_dim}")
    if train.batch_size < 2:
        raise InputError(f"batch_size must be at least 2 for batch normalisation, got {train.batch_size}")
    if model.kind != "autoencoder" and train.val_every and train.val_clouds < 2:
        raise InputError(f"val_clouds must be at least 2, since 1-NNA leaves one out, got {train.val_clouds}")
    if config.data.num_points % config.objective.times_per_cloud:
        raise InputError(
            f"times_per_cloud must divide num_points = {config.data.num_points}, "
            f"got {config.objective.times_per_cloud}"
        )
