"""Configuration: frozen dataclasses whose fields are the scripts' flags, and the named presets.

Every default has its home here. A run saves the resolved dataclass as `config.json` and is rebuilt from it.
"""

import dataclasses
import json
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import tyro

from pcdiff.errors import InputError, short

T = TypeVar("T")


@dataclass(frozen=True)
class ModelConfig:
    """What is built: encoder, prior, denoising chain. The defaults are DPM's (field names as in the paper)."""

    kind: Literal["flow", "gaussian", "autoencoder"] = "flow"
    """Latent prior: `flow` (normalizing flow), `gaussian` (KL to N(0, I)), or `autoencoder` (plain code)."""
    latent_dim: int = 256
    """Size F of the shape latent."""
    encoder_widths: tuple[int, ...] = (128, 128, 256, 512)
    """Output widths of PointNet's pointwise layers."""
    encoder_head_widths: tuple[int, ...] = (256, 128)
    """Hidden widths of PointNet's heads for mean and log-variance."""
    flow: Literal["coupling", "cnf"] = "coupling"
    """The flow prior: `coupling` (affine coupling layers, the paper's) or `cnf` (continuous flow, an ODE)."""
    flow_depth: int = 14
    """Coupling layers of the flow prior (layers)."""
    flow_hidden_dim: int = 256
    """Hidden width of a coupling layer."""
    cnf_widths: tuple[int, ...] = (256, 256)
    """Hidden widths of the continuous flow's velocity."""
    cnf_time: float = 0.5
    """Time that the continuous flow runs from latent to base."""
    cnf_trace: Literal["rademacher", "gaussian", "exact"] = "rademacher"
    """Trace of the continuous flow in training: estimated with one probe of signs or normal numbers, or exact."""
    cnf_tolerance: float = 1e-5
    """Relative and absolute tolerance of the continuous flow's solver."""
    net_widths: tuple[int, ...] = (128, 256, 512, 256, 128)
    """Hidden widths of the pointwise denoising net."""
    residual: bool = True
    """Add the denoising net's input to its output."""
    frequencies: int = 0
    """Octaves of sines and cosines fed to the denoising net beside each coordinate; the paper has none."""
    time_input: Literal["beta", "index", "log_snr"] = "beta"
    """How the denoising net is told the time: beta_t (the paper), t, or the log signal-to-noise ratio over 4."""
    num_steps: int = 100
    """Length T of the diffusion chain (steps)."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the chain's variances grow."""
    beta_1: float = 1e-4
    """First variance of the linear schedule."""
    beta_T: float = 0.02
    """Last variance of the linear schedule."""


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


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    dataset_path: Path | None = None
    """`shapenet.hdf5`, or a ShapeNetCore.v2.PC15k folder; without it the built-in stand-in shapes are used."""
    categories: str = "airplane"
    """Category names, comma-separated, or `all`."""
    normalisation: str = "shape_unit"
    """Of every cloud: none, global_unit, shape_unit, shape_bbox, shape_half or shape_34; or global: one shift and
    scale for all clouds, as protocol pointflow needs it."""
    num_points: int = 2048
    """Points of a cloud in a training batch, drawn anew each time (points)."""
    rotate: bool = False
    """Turn every training cloud by a random angle about the up axis."""


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained."""

    max_iters: int = 400_000
    """Stop after this many optimiser steps (steps)."""
    budget_minutes: float | None = None
    """Make a whole training of this much wall clock, validation and samples included: the first steps are timed
    (in bf16 too with precision `auto`, compiled too with `compile`), and max_iters, schedule, warm-up and average
    are fitted to the time (minutes)."""
    plan: Annotated[str, tyro.conf.Suppress] = ""
    """What was planned for `budget_minutes`; written by the run."""
    max_minutes: float | None = None
    """Wall clock of the whole call, counted anew at each resume: the training ends in time for the last validation,
    samples and scores, and what does not fit is left out with a line (minutes); no limit by default."""
    patience: int = 0
    """Stop after this many validations in a row without a better score; 0 never does (validations)."""
    batch_size: int = 128
    """Clouds in a batch, over all processes (clouds)."""
    accumulate: int = 1
    """Parts that each process computes its share of a batch in, one after the other, to save memory (parts)."""
    lr: float = 2e-3
    """Adam's learning rate."""
    end_lr: float = 1e-4
    """Learning rate after its decay."""
    lr_schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls to end_lr; constant leaves it at lr."""
    lr_decay_start: int = 200_000
    """Step from which the learning rate falls (steps)."""
    lr_decay_end: int = 400_000
    """Step at which the learning rate reaches end_lr, where it stays (steps)."""
    warmup_iters: int = 0
    """Steps over which the learning rate rises linearly from 0 (steps)."""
    weight_decay: float = 0.0
    """Adam's L2 penalty."""
    max_grad_norm: float = 10.0
    """Gradient 2-norm above which gradients are scaled down."""
    ema_decay: float | None = None
    """Decay of the weights' moving average, used for sampling and scores; none by default."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """When a loss or gradient is not finite: `stop` and keep its batch, or `skip` the step and count it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Matrix-product precision; `auto` takes bf16 where the hardware multiplies it; fp16 scales the loss."""
    compile: bool = False
    """Compile encoder and denoising net with torch.compile (up to half a minute at the start)."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """What torch.compile aims at; `reduce-overhead` replays CUDA graphs, which pays for small batches on a GPU."""
    log_every: int = 100
    """Steps between TensorBoard scalars (steps)."""
    save_every: int = 5_000
    """Steps between checkpoints (steps)."""
    save_minutes: float | None = 30.0
    """Minutes between checkpoints, where that is sooner (minutes)."""
    keep: int = 2
    """How many of the last checkpoints stay, beside the best: a damaged one is passed over (checkpoints)."""
    val_every: int = 10_000
    """Steps between validations, which decide `best`; 0 turns them off (steps)."""
    val_clouds: int = 100
    """Clouds a validation draws or reconstructs, at most the split's size (clouds)."""
    val_points: int = 2048
    """Points compared in a validation, at most what the data has (points)."""


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


@dataclass(frozen=True)
class EvaluateConfig:
    """What is scored: a run, two sets of clouds, reconstructions, or results side by side.

    A set is a .npy, .npz, .h5, .pt, .ply, .off, .obj, .xyz or .pcd file (FILE.h5:name for one array of several), or
    a folder of them.
    """

    run: Path | None = None
    """Score the model in this run's folder: generate (or reconstruct) clouds, then compare with the split."""
    samples: Path | None = None
    """Score these generated clouds."""
    reference: Path | None = None
    """The clouds to compare --samples or --reconstructions with."""
    train: Path | None = None
    """The clouds the generator of --samples was trained on: its nearest ones are looked for, and a row of them is
    scored in the samples' place. A run's own are known."""
    reconstructions: Path | None = None
    """Score these clouds against the --reference clouds they stand for, in the order of both."""
    oracle: Path | None = None
    """Another sampling of the --reference shapes, for the row that no reconstruction beats; by default the
    reference's own points are halved."""
    compare: tuple[Path, ...] = ()
    """Print these results (JSON files) in one table; refused where they do not compare."""
    format: Literal["markdown", "latex", "csv"] = "markdown"
    """Format of --compare's table: `latex` and `csv` go to the output, to be kept in a file."""
    output: Path | None = None
    """Write the scores to this JSON file, and a table (.md) and a picture (.png) beside it."""
    out: Path | None = None
    """Folder of the results; the run's own by default."""
    protocol: str = "dpm"
    """Protocol of the comparison, by name: dpm, pointflow, pointflow-lion or raw. It fixes split, normalisation,
    points and distances."""
    preset: Literal["paper", "quick"] = "paper"
    """`paper` scores the whole split; `quick` at most 64 clouds, on the Chamfer distance only."""
    split: Literal["train", "val", "test"] | None = None
    """Split to compare a run with; the protocol's by default."""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """Which of the run's checkpoints; `auto` is best where there is one."""
    num_points: int | None = None
    """Points of a cloud that are compared; by default the protocol's number, at most what there is (points)."""
    point_rule: Literal["first", "random", "farthest"] | None = None
    """Which points of a larger cloud are taken; needed where a set's clouds differ in size."""
    num_samples: int | None = None
    """Clouds to score against as many references, the first of each; all by default (clouds)."""
    emd: Literal["auto", "yes", "no"] = "auto"
    """Exact earth mover's distance; `auto` where it takes less than about ten minutes on two cores."""
    floor: bool = True
    """Score training clouds in the samples' place too, where there are enough."""
    resamples: int = 1000
    """Resamples of the bootstrap intervals; 0 leaves the intervals out."""
    imports: Annotated[tuple[Path, ...], tyro.conf.arg(name="import")] = ()
    """Python files that are run first, for samplers of your own by name (docs/diffusion.md)."""
    sampler: str | None = None
    """How a run's clouds are drawn: ancestral (the whole chain, the default), ddim, dpmpp, unipc, heun, ode, ..."""
    num_steps: int | None = None
    """Steps from noise to data; the model's whole chain by default (steps)."""
    grid: str | None = None
    """Time grid: uniform, quadratic, log_snr, edm; the sampler's own by default."""
    flexibility: float | None = None
    """Noise of the ancestral sampler, 0 to 1; the run's own by default."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """Matrix-product precision of the sampling: fp32 (the default), bf16, or auto: bf16 where it is native."""
    truncate_std: float | None = None
    """Cut the latent's normal draw off at this many standard deviations; not cut by default."""
    categories: str | None = None
    """Category names, comma-separated, or `all`; the run's own by default."""
    dataset_path: Path | None = None
    """Data set to compare with; the run's own by default."""
    allow_other_dataset: bool = False
    """Compare a run even with a data set it was not trained on; the result says so."""
    seed: int | None = None
    """Seed of every random draw; the protocol's by default."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    max_iters: int | None = None
    """Generate at most this many clouds in this call, then stop; --resume goes on (clouds)."""
    max_minutes: float | None = None
    """Work for at most this long in this call, then stop; --resume goes on (minutes)."""
    save_every: int = 1
    """Blocks of work between saves: 32 generated clouds, or some hundred pairs compared (blocks)."""
    resume: Path | None = None
    """Go on with the stopped evaluation in this folder (--out, or the run's), with its flags."""


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
    _check_ranges(fields, ranges)
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


def check_train(config: TrainConfig) -> None:
    """Refuse values that no training can have, of clouds or of images.

    Raises:
        InputError: names the first such field, what was expected and what came.
    """
    at_least_one = "max_iters batch_size accumulate log_every save_every keep val_clouds val_points"
    not_negative = "warmup_iters weight_decay val_every patience lr_decay_start lr_decay_end end_lr"
    ranges: dict[str, tuple[str, Callable[[float], bool]]] = {
        "at least 1": (at_least_one, lambda v: v >= 1),
        "not negative": (not_negative, lambda v: v >= 0),
        "positive": ("lr max_grad_norm budget_minutes max_minutes save_minutes", lambda v: v > 0),
        "in (0, 1)": ("ema_decay", lambda v: 0 < v < 1),
    }
    _check_ranges(vars(config), ranges)


def check_evaluation(config: EvaluateConfig) -> None:
    """Refuse flags of `evaluate.py` that are out of range or contradict each other.

    Raises:
        InputError: names the flag, what was expected and what came.
    """
    jobs = {
        "--run": config.run,
        "--samples": config.samples,
        "--reconstructions": config.reconstructions,
        "--compare": config.compare or None,
    }
    asked = [flag for flag, value in jobs.items() if value is not None]
    if len(asked) > 1:
        raise InputError(f"give one of {', '.join(jobs)}, got {' and '.join(asked)}")
    if not asked and config.resume is None:
        raise InputError(
            "nothing to score: give --run RUN, --samples A --reference B, --reconstructions A --reference B, "
            "or --compare a.json b.json"
        )
    needs_reference = config.samples or config.reconstructions
    if needs_reference and config.reference is None:
        raise InputError(f"{asked[0]} needs --reference, the clouds to compare with")
    if config.reference and not needs_reference:
        raise InputError("--reference goes with --samples or --reconstructions; a run has its own split")
    if config.output is not None and config.output.suffix != ".json":
        raise InputError(f"--output must end in .json (a table and a picture go beside it), got {config.output}")
    for flag, value, goes_with, there in (
        ("--train", config.train, "--samples", config.samples),
        ("--oracle", config.oracle, "--reconstructions", config.reconstructions),
    ):
        if value and not there:
            raise InputError(f"{flag} goes with {goes_with} only")
    if config.format != "markdown" and not config.compare:
        raise InputError(f"--format {config.format} goes with --compare only")
    if jobs["--run"] is None and config.resume is None:
        for name in ("sampler", "num_steps", "grid", "flexibility", "precision", "truncate_std"):
            if getattr(config, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} goes with --run only")
    ranges: dict[str, tuple[str, Callable[[float], bool]]] = {
        "at least 1": ("num_points num_samples num_steps max_iters save_every", lambda v: v >= 1),
        "not negative": ("resamples", lambda v: v >= 0),
        "positive": ("max_minutes truncate_std", lambda v: v > 0),
        "in [0, 1]": ("flexibility", lambda v: 0 <= v <= 1),
        "in 0..2^63 - 1": ("seed", lambda v: 0 <= v < 2**63),
    }
    _check_ranges(vars(config), ranges)


def _check_ranges(fields: dict[str, Any], ranges: dict[str, tuple[str, Callable[[float], bool]]]) -> None:
    for expected, (names, fits) in ranges.items():
        for name in names.split():
            values = fields[name] if isinstance(fields[name], tuple) else (fields[name],)
            for value in values:
                if value is not None and not fits(value):
                    raise InputError(f"{name} must be {expected}, got {value}")


def to_json(config: Any) -> str:
    """Return a config dataclass as JSON text."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str) + "\n"


def differences(config: Any, default: Any) -> dict[str, Any]:
    """Return the fields in which a config differs from another of its class, by dotted name.

    Example:
        >>> differences(RunConfig(seed=1, data=DataConfig(rotate=True)), RunConfig())
        {'seed': 1, 'data.rotate': True}
    """
    found = {}
    for name, value in vars(config).items():
        other = getattr(default, name, None)
        if dataclasses.is_dataclass(value):
            found |= {f"{name}.{inner}": each for inner, each in differences(value, other).items()}
        elif value != other:
            found[name] = value
    return found


def from_dict(cls: type[T], values: dict[str, Any], source: str) -> T:
    """Rebuild a config dataclass from its JSON dict.

    Args:
        cls: the dataclass.
        values: what `to_json` wrote.
        source: where the values come from, for the error.

    Raises:
        InputError: a field is unknown, or its value is of another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{source}: expected the fields of {cls.__name__}, got {short(values)}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise InputError(f"{source}: unknown fields {unknown} for {cls.__name__}; known: {sorted(fields)}")
    rebuilt: dict[str, Any] = {}
    for name, value in values.items():
        kind = fields[name].type
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        if dataclasses.is_dataclass(kind):
            rebuilt[name] = from_dict(kind, value, source)
        elif not _fits(value, kind):
            expected = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
            raise InputError(f"{source}: {name} must be {expected}, got {short(value)}")
        elif kind in (Path, Path | None):
            rebuilt[name] = None if value is None else Path(value)
        elif kind == tuple[Path, ...]:
            rebuilt[name] = tuple(map(Path, value))
        elif isinstance(value, list):
            rebuilt[name] = tuple(value)
        else:
            rebuilt[name] = value
    return cls(**rebuilt)


def _fits(value: Any, kind: Any) -> bool:
    """Tell whether a JSON value can stand for a field of type `kind`."""
    if get_origin(kind) in (types.UnionType, Union):  # the latter where one of them is a Literal
        return any(_fits(value, k) for k in get_args(kind))
    if get_origin(kind) is Literal:
        return any(value == known and type(value) is type(known) for known in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(_fits(v, get_args(kind)[0]) for v in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, str if kind is Path else kind)
