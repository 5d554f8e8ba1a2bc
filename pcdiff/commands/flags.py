"""The commands that use a trained model on files: one dataclass each, whose fields are its flags."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pcdiff.errors import InputError, OutOfRange


@dataclass(frozen=True, kw_only=True)
class Command:
    """Flags of every command.

    Clouds are read from .npy, .npz, .h5, .pt, .ply, .off, .obj, .xyz or .pcd files (FILE.h5:name for one array of
    several) or folders of them.
    """

    run: Path
    """A trained run's folder, or one of its checkpoint files; or another project's, of DPM or GECCO."""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """Which of the run's checkpoints; `auto` is best where there is one."""
    seed: int = 2020
    """Seed of every random draw."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    mean: tuple[float, float, float] | None = None
    """Mean of the training clouds, for the normalizations global and global_per_axis; the run's own by default."""
    std: float | tuple[float, float, float] | None = None
    """Standard deviation of the training clouds, for a global normalization (of global_per_axis three); the run's
    own by default."""


@dataclass(frozen=True, kw_only=True)
class ReadsClouds(Command):
    """A command that reads clouds."""

    classes: tuple[str, ...] = ()
    """Classes of the clouds that are read, of a class-conditional run, by name: one for all, or one for each; by
    default no class."""

    input_points: int | None = None
    """Points of every cloud that are read; all by default (points)."""
    point_rule: Literal["first", "random", "farthest"] | None = None
    """Which points of a larger cloud are read; needed where clouds of one set differ in size."""


@dataclass(frozen=True, kw_only=True)
class WritesClouds(Command):
    """A command that draws clouds."""

    output: Path
    """Write the clouds to this .npy file, and a picture (.png) beside it."""
    num_points: int | None = None
    """Points of each cloud drawn; any number, the run's own (or that of the input) by default (points)."""
    imports: Annotated[tuple[Path, ...], tyro.conf.arg(name="import")] = ()
    """Python files that are run first, for samplers and nets of your own by name (docs/diffusion.md)."""
    sampler: str | None = None
    """Sampler: ancestral, kernel, score_ancestral, euler_maruyama, reverse_diffusion, srk, adaptive_sde, ddim,
    heun, edm, dpmpp, unipc, ode, none, or your own (--import); the run's own by default (docs/training.md)."""
    num_steps: int | None = None
    """Steps from noise to data; the run's own by default, or all of the process with --sampler (steps)."""
    grid: str | None = None
    """Time grid: uniform, quadratic, log_snr, edm, chain or ends; the sampler's own by default."""
    flexibility: float | None = None
    """Noise of the ancestral sampler, 0 to 1; the run's own by default."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """Matrix-product precision: fp32 (the default), bf16, or auto: bf16 where it is native."""
    guidance: float | None = None
    """Scale of classifier-free guidance toward --classes, of a class-conditional run; 1 is none. The run's own by
    default."""


@dataclass(frozen=True, kw_only=True)
class Sample(WritesClouds):
    """Draw clouds from a generator, any number with any number of points."""

    classes: tuple[str, ...] = ()
    """Classes of the clouds by name, in turn, of a class-conditional run; by default in proportion to the clouds
    that it was trained on."""
    num_samples: int = 16
    """Clouds to draw (clouds)."""
    truncate_std: float | None = None
    """Cut the latent's normal draw off at this many standard deviations; not cut by default."""


@dataclass(frozen=True, kw_only=True)
class Reconstruct(WritesClouds, ReadsClouds):
    """Encode clouds and decode them again."""

    input: Path
    """The clouds."""


@dataclass(frozen=True, kw_only=True)
class Upsample(WritesClouds, ReadsClouds):
    """Decode clouds with more points, or draw more points of the same shapes.

    A model with codes decodes those of the given clouds. One without, whose net has inducers, keeps the given
    points and draws further ones.
    """

    input: Path
    """The clouds."""
    num_points: int = field()  # no default
    """Points of each cloud drawn (points)."""


@dataclass(frozen=True, kw_only=True)
class Complete(WritesClouds, ReadsClouds):
    """Keep the points of partial clouds and draw the rest.

    A completion model is trained for it, with clouds normalized by their given points or (none, global) in
    the training clouds' unit, which is then the input's too. Any other model is held to the given points, see
    --method; where such a run's normalization is of each cloud by itself, a part is normalized as if it were the
    whole: the result fits best where the part extends as far as the whole.
    """

    input: Path
    """The partial clouds."""
    num_completions: int = 1
    """Completions of each cloud, which follow one another in the output (clouds)."""
    method: Literal["trained", "constraint", "inducers"] | None = None
    """How: `trained`, by a completion model; of any other model by a `constraint`, or by the states of `inducers`,
    where its net has some, which see the given points alone. By default trained or constraint."""
    truth: Path | None = None
    """The whole clouds: score the completions against them, into a .json file beside the output."""


@dataclass(frozen=True, kw_only=True)
class Interpolate(WritesClouds, ReadsClouds):
    """Decode the codes between two clouds (or between the clouds of two files, pair by pair)."""

    a: Path
    """The first cloud."""
    b: Path
    """The last cloud."""
    steps: int = 8
    """Clouds from a to b, the reconstructions of both included (clouds)."""
    path: Literal["linear", "spherical"] = "linear"
    """`linear` in the code, or `spherical` in the base of a generator's prior."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic(WritesClouds, ReadsClouds):
    """Decode the codes a - b + c of three clouds (or of the clouds of three files, triple by triple)."""

    a: Path
    """The cloud with the feature."""
    b: Path
    """The cloud without the feature."""
    c: Path
    """The cloud that the feature is added to."""


@dataclass(frozen=True, kw_only=True)
class Invert(ReadsClouds):
    """Find the code and noise of clouds, decode them again, and report the round-trip error."""

    input: Path
    """The clouds."""
    output: Path
    """Write the decoded clouds to this .npy file, a picture (.png) and code and noise (.npz) beside it."""
    sampler: str = "ddim"
    """Deterministic sampler, run backwards and forwards: ddim, heun, dpmpp, unipc or ode."""
    num_steps: int | None = None
    """Steps of either direction; the model's whole chain by default (steps)."""
    grid: str | None = None
    """Time grid: uniform, quadratic, log_snr, edm, chain or ends; the sampler's own by default."""


@dataclass(frozen=True, kw_only=True)
class LogLikelihood(ReadsClouds):
    """Score clouds by log p(x | z), their points' log-likelihood given their code, by the probability flow.

    In the model's normalization; log p(z), the code's under a generator's prior, is given with it.
    """

    input: Path
    """The clouds."""
    output: Path | None = None
    """Write the values of every cloud to this .json file."""
    trace: Literal["pointwise", "rademacher", "gaussian"] = "pointwise"
    """Trace: exact for pointwise nets, or estimated with random signs or normal numbers."""


COMMANDS: dict[str, type[Command]] = {
    "sample": Sample,
    "reconstruct": Reconstruct,
    "interpolate": Interpolate,
    "arithmetic": Arithmetic,
    "invert": Invert,
    "upsample": Upsample,
    "complete": Complete,
    "log-likelihood": LogLikelihood,
}


def check(command: Command) -> None:
    """Refuse flags that are out of range, before anything is read.

    Raises:
        InputError: names the flag, what was expected and what came.
    """
    suffix = ".json" if isinstance(command, LogLikelihood) else ".npy"
    output = getattr(command, "output", None)
    if output is not None and output.suffix != suffix:
        raise InputError(f"--output must end in {suffix}, got {output}")
    ranges = {
        "at least 1": ("num_points", "num_samples", "num_steps", "input_points", "num_completions"),
        "at least 2": ("steps",),
    }
    for expected, names in ranges.items():
        for name in names:
            value = getattr(command, name, None)
            if value is not None and value < int(expected[-1]):
                raise InputError(f"--{name.replace('_', '-')} must be {expected}, got {value}")
    std = command.std if isinstance(command.std, tuple | list) else (command.std,)
    if not all(each is None or each > 0 for each in std):
        raise OutOfRange("--std", "positive", command.std)
    if not 0 <= command.seed < 2**63:
        raise OutOfRange("--seed", "in 0..2^63 - 1", command.seed)
    flexibility = getattr(command, "flexibility", None)
    if flexibility is not None and not 0 <= flexibility <= 1:
        raise OutOfRange("--flexibility", "in [0, 1]", flexibility)
