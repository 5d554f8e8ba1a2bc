"""One training run of clouds: every field is a flag."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from pcdiff.config.data import DataConfig
from pcdiff.config.legacy_layout import of_today
from pcdiff.config.model import ModelConfig, check_class_kind, check_sees_points, known, model_from_dict
from pcdiff.config.objective import CloudObjectiveConfig
from pcdiff.config.process import ProcessConfig
from pcdiff.config.sampling import SamplingConfig
from pcdiff.config.train import TrainConfig, check_train
from pcdiff.errors import InputError, OutOfRange
from pcdiff.runtime.dataclass_json import from_dict
from pcdiff.runtime.part_config import find
from pcdiff.runtime.ranges import check_ranges

_PLAIN = tyro.conf.arg(name="")  # its fields are flags without a prefix

PAPER_PROCESS = ProcessConfig(
    name="ddpm", schedule="linear", num_steps=100, beta_1=1e-4, beta_T=0.02, time_input="beta"
)
"""The chain of Luo & Hu's generator: its net predicts the noise and receives beta_t."""


@dataclass(frozen=True)
class RunConfig:
    """One training run: every field is a flag."""

    preset: str = "paper"
    """Defaults of all other flags: `paper` (DPM's hyper-parameters), `cpu` (40 minutes on two CPU cores), `quick`
    (minutes on two CPU cores) or `demo` (the same, smaller nets for slow cores); of direct models with a set
    transformer `gecco` (its recipe), `set-cpu`, `set-quick` and `set-gpu`, with a point-voxel net `pvd` and `tiger`
    (their recipes)."""
    out: Path | None = None
    """The run's folder; a new one under runs/ by default."""
    resume: Path | None = None
    """Resume the run in this folder, exactly where it stopped."""
    dry_run: bool = False
    """Print what differs from the preset, clouds found, sizes, memory and the time of a step, then exit; nothing is
    written."""
    show_config: bool = False
    """With --dry-run: print the whole resolved config."""
    seed: int = 2020
    """Seed of every random draw."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    imports: Annotated[tuple[Path, ...], tyro.conf.arg(name="import")] = ()
    """Python files that are run first, for parts of your own by name (docs/diffusion.md); the run remembers their
    names."""
    num_samples: int = 64
    """Clouds drawn into samples.npy at the end (clouds)."""
    sample_points: int = 2048
    """Points of each of those clouds; any number, whatever the training used (points)."""
    flexibility: float = 0.0
    """Noise of the sampling chain: 0 is the posterior's, 1 the forward kernel's standard deviation."""
    model: Annotated[ModelConfig, _PLAIN] = field(default_factory=ModelConfig)
    process: ProcessConfig = field(default=PAPER_PROCESS)
    objective: Annotated[CloudObjectiveConfig, _PLAIN] = field(default_factory=CloudObjectiveConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    data: Annotated[DataConfig, _PLAIN] = field(default_factory=DataConfig)
    train: Annotated[TrainConfig, _PLAIN] = field(default_factory=TrainConfig)


def run_from_dict(values: Any, source: str) -> RunConfig:
    """Rebuild a run's config from its JSON dict, those of version 0.1 included.

    Raises:
        InputError: a field or a part is unknown, or a value is of another type.
    """
    values = of_today(values)
    if not isinstance(values, dict) or "model" not in values:
        return from_dict(RunConfig, values, source)
    values = dict(values)
    model = model_from_dict(values.pop("model"), source)
    return replace(from_dict(RunConfig, values, source), model=model)


def check(config: RunConfig) -> None:
    """Refuse values that no run can have, before anything is made.

    Raises:
        InputError: names the first such field, what was expected and what came.
    """
    model, train, objective = config.model, config.train, config.objective
    check_ranges(vars(model), {"at least 1": "latent_dim class_dim num_given"})
    if model.kind == "completion":
        _check_completion(config)
    for prefix, part in _parts(config):
        check_ranges(vars(part), getattr(part, "RANGES", {}), prefix)
    check_ranges(vars(config.data), {"at least 1": "num_points"})
    ranges = {"at least 1": "num_samples sample_points", "in 0..2^63 - 1": "seed", "in [0, 1]": "flexibility"}
    check_ranges(vars(config), ranges)
    check_train(train)
    if "encoder" in model.parts and getattr(model.encoder_options, "widths", (1,)) == ():
        raise InputError("encoder.widths must name at least one layer, got none")
    check_class_kind(model)
    guidance = config.sampling.guidance
    if guidance not in (None, 1) and not (model.class_conditional and objective.label_dropout > 0):
        raise InputError(
            f"sampling.guidance {guidance:g} needs class_conditional and label_dropout above 0, got "
            f"{'no classes' if not model.class_conditional else 'label_dropout 0'}"
        )
    if model.kind == "latent" and model.prior == "coupling" and model.latent_dim < 2:
        raise OutOfRange("latent_dim", "at least 2 for a coupling flow", model.latent_dim)
    if train.batch_size < 2:
        raise OutOfRange("batch_size", "at least 2 for batch normalization", train.batch_size)
    if model.kind != "autoencoder" and train.val_every and train.val_clouds < 2:
        raise OutOfRange("val_clouds", "at least 2, since 1-NNA leaves one out", train.val_clouds)
    if config.data.num_points % objective.times_per_cloud:
        raise InputError(
            f"times_per_cloud must divide num_points = {config.data.num_points}, got {objective.times_per_cloud}"
        )
    if config.flexibility and config.process.name != "ddpm":
        raise InputError(f"flexibility is a DDPM chain's, got {config.flexibility} with {config.process.name}")


def _check_completion(config: RunConfig) -> None:
    from pcdiff.ops.normalization import PART_MODES, SHARED_MODES  # only here: `--help` needs no ops

    model, data = config.model, config.data
    check_sees_points(model.net, find("net", known("net"), model.net))
    check_ranges(vars(data.partial), data.partial.RANGES, "partial.")
    if not data.partial.removed or not all(0 < share < 1 for share in data.partial.removed):
        raise InputError(f"partial.removed must be shares in (0, 1), got {list(data.partial.removed)}")
    known_of_a_part = (*PART_MODES, *SHARED_MODES)
    if data.normalization not in known_of_a_part:
        raise InputError(
            f"normalization must be one of {', '.join(known_of_a_part)} for a completion model, got "
            f"{data.normalization}: a part of a cloud does not tell the whole one's"
        )
    for name, points in (
        ("num_points", data.num_points),
        ("sample_points", config.sample_points),
        ("val_points", config.train.val_points),
    ):
        if points <= model.num_given:
            raise InputError(f"{name} must be above num_given = {model.num_given}, got {points}")


def _parts(config: RunConfig) -> Iterator[tuple[str, Any]]:
    for part in config.model.parts:
        yield f"{part}.", getattr(config.model, f"{part}_options")
    yield "process.", config.process
    yield "", config.objective
