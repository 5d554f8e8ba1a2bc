"""The commands of `python -m image_pipeline`: one dataclass each, whose fields are its flags."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from image_pipeline.configs import SamplingConfig
from pcdiff.errors import InputError

_PLAIN = tyro.conf.arg(name="")  # its fields are flags without a prefix
Split = Literal["train", "test", "all"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """The flags of every command with a model."""

    run: Path
    """A trained run's folder, or one of its checkpoint files."""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """Which of the run's checkpoints; `auto` is best where there is one."""
    seed: int = 2020
    """Seed of every random draw."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Matrix-product precision: fp32, bf16, or auto: bf16 where it is native."""
    imports: Annotated[tuple[Path, ...], tyro.conf.arg(name="import")] = ()
    """Python files that are run first, for parts of your own by name (docs/diffusion.md)."""


@dataclass(frozen=True, kw_only=True)
class WritesImages(Command):
    """A command that makes images.

    Images are read from an image file, a folder or zip of them, a .npz (arr_0) or .npy of uint8 (n, H, W, C), or
    `digits`.
    """

    ending: ClassVar[str] = ".png"
    beside: ClassVar[tuple[str, ...]] = (".npz",)  # written beside --output

    output: Path
    """Write a grid to this .png file, and the images (.npz, arr_0 uint8 (n, H, W, C)) beside it."""
    sampling: Annotated[SamplingConfig, _PLAIN] = field(default_factory=SamplingConfig)


@dataclass(frozen=True, kw_only=True)
class Guidable(WritesImages):
    """A command whose images a classifier may guide."""

    classifier: Path | None = None
    """A classifier of noisy images: what train-classifier made (a folder or .safetensors), a .pt of ADM, with
    --classifier-config, or a .pt2 (torch.export) that maps images and the net's own time labels to logits. It
    guides instead of the net's own classes, and beside them where the net needs one."""
    classifier_config: Path | None = None
    """Settings of ADM's classifier, a JSON file."""
    classifier_scale: float = 1.0
    """Scale of the classifier's gradient."""


@dataclass(frozen=True, kw_only=True)
class Sample(Guidable):
    """Draw images."""

    num_samples: int = 64
    """Images to draw (images)."""
    classes: tuple[int, ...] = ()
    """Classes of the images, in turn; drawn evenly by default, where the model is conditioned on classes; with a
    classifier all of its, in turn."""
    trajectory: bool = False
    """Write the way from noise to data as a .gif too."""
    batch_size: int = 64
    """Images drawn at once; with the seed it decides them (images)."""


@dataclass(frozen=True, kw_only=True)
class ClassConditional(Guidable):
    """Draw images of every class, a row each, with classifier-free guidance, or guided by a classifier."""

    classes: tuple[int, ...] = ()
    """Which classes; all by default."""
    per_class: int = 10
    """Images of each class (images)."""


@dataclass(frozen=True, kw_only=True)
class ReadsImages(WritesImages):
    """A command that makes something of given images."""

    input: Path
    """The images, or what is known of them."""
    split: Split | None = None
    """Split of a data set; all of it by default."""
    num_images: int | None = None
    """The first so many; all by default, and all at once (images)."""


@dataclass(frozen=True, kw_only=True)
class Restoring(ReadsImages):
    """A command that keeps what is known of images and draws the rest.

    A run's own sampler is taken where it draws noise at every step; where it is deterministic, `ancestral` in 100
    steps even in log-SNR, which lets the known and the drawn part adapt to each other.
    """

    label: int | None = None
    """Class of the images, where the model is conditioned on classes; none by default."""
    settle: int = 0
    """Langevin steps at every time that keep to the known, for a rest that fits it better (steps)."""
    settle_snr: float | None = None
    """Their signal-to-noise ratio; 0.16 by default. --corrector takes the place of these steps."""


@dataclass(frozen=True, kw_only=True)
class Inpaint(Restoring):
    """Keep a part of images and draw the rest."""

    mask: str = "upper"
    """What is known: upper, lower, left, right or outside (the center is drawn), or a file: an image of the same
    size, white where known, or a .npy (H, W) of 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class Colorize(Restoring):
    """Draw colors for gray images."""


@dataclass(frozen=True, kw_only=True)
class Inverse(Restoring):
    """Solve a linear inverse problem: super-resolution, or compressed sensing.

    Images of the model's size are measured first, so that the result can be compared; smaller ones, `factor` times
    less a side, are taken as what is known.
    """

    problem: Literal["super-resolution", "compressed-sensing"] = "super-resolution"
    """`super-resolution` is given means over blocks, `compressed-sensing` random projections."""
    factor: int | None = None
    """Side of a block of super-resolution; 2 by default (pixels)."""
    measurements: int | None = None
    """Random projections of each image, of compressed sensing; 32 by default (numbers)."""
    strength: float = 1.0
    """How closely measurements are kept, in (0, 1]; less than 1 where they are noisy."""
    noise: float | None = None
    """Follow the measurements by their gradient, not by replacement; this is their error's standard deviation, in
    the model's range."""


@dataclass(frozen=True, kw_only=True)
class Interpolate(WritesImages):
    """Go from images to others: both are inverted to noises, and what lies between is drawn from those."""

    a: Path
    """The first images."""
    b: Path
    """The last images, as many."""
    steps: int = 8
    """Images on the way, both ends included (images)."""
    label: int | None = None
    """Class that the net is conditioned on, where there are classes; none by default."""


@dataclass(frozen=True, kw_only=True)
class SDEdit(ReadsImages):
    """Noise images part of the way and draw from there: what is coarse stays, what is fine is new."""

    strength: float = 0.5
    """Share of the sampler's steps that is taken, in (0, 1]: the more, the less is left of the input."""
    label: int | None = None
    """Class that the net is conditioned on, where there are classes; none by default."""


@dataclass(frozen=True, kw_only=True)
class Likelihood(Command):
    """Score images by likelihood, in bits a dimension of 8-bit data: the probability flow's, or a bound."""

    ending: ClassVar[str] = ".json"

    input: Path | None = None
    """The images; by default the run's own data."""
    split: Split | None = None
    """Split of the run's own data; test by default."""
    num_images: int | None = None
    """The first so many; all by default (images)."""
    repeats: int = 1
    """Draws of the dequantization noise, averaged."""
    method: Literal["flow", "bound"] = "flow"
    """`flow` integrates the probability flow; `bound` is the variational bound of the chain, or of the SDE."""
    num_times: int | None = None
    """Times of the bound in continuous time; 32 by default (network evaluations)."""
    dequantization: Literal["uniform", "variational"] = "uniform"
    """Noise within the 256 values: uniform, or learned on the images first, by the bound in continuous time."""
    dequantization_steps: int | None = None
    """Steps that it is learned in, 32 images each; 300 by default (steps)."""
    trace: Literal["rademacher", "gaussian", "exact"] | None = None
    """How the flow's divergence is estimated, rademacher by default; exact is for small images."""
    labeled: bool = False
    """Condition the net on the images' classes."""
    label: int | None = None
    """Class of all the images of --input, where the net is conditioned on classes."""
    tolerance: float | None = None
    """Relative and absolute tolerance of the flow's solver; 1e-5 by default."""
    batch_size: int = 64
    """Images at a time (images)."""
    output: Path | None = None
    """Write the values of every image to this .json file."""


@dataclass(frozen=True, kw_only=True)
class Loss(Command):
    """Compute the run's own training objective on a split of its data, of one checkpoint or of several.

    Times, noises and dropped labels are the same for every checkpoint. With --output it continues where it stopped.
    """

    ending: ClassVar[str] = ".json"

    split: Split = "test"
    """Split of the run's own data."""
    checkpoints: str | None = None
    """Of all checkpoints in the run's folder (all), or of those from one step to another (FIRST:LAST)."""
    num_images: int | None = None
    """The first so many; all by default (images)."""
    repeats: int = 4
    """Times and noises of every image, averaged."""
    batch_size: int = 64
    """Images at a time; with the seed it decides the draws (images)."""
    output: Path | None = None
    """Write the losses to this .json file."""
    max_minutes: float | None = None
    """Work for at most this long in this call, then stop (minutes)."""
    save_every: int = 1
    """Batches between saves (batches)."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score a run's samples, or any images, by FID, KID, Inception Score, precision and recall.

    Generation continues where it was stopped: the same command, or --resume, gives the same images and scores.
    """

    ending: ClassVar[str] = ".json"
    beside: ClassVar[tuple[str, ...]] = (".png",)

    run: Path | None = None
    """Generate with the model in this run's folder, and score that."""
    samples: Path | None = None
    """Score these images instead: a folder, a zip, a .npz (arr_0) or a .npy."""
    reference: Path | None = None
    """Images to compare with, a data set or arrays; by default the data that the run was trained on."""
    split: Split = "train"
    """Split of the reference."""
    statistics: Path | None = None
    """Compare with these statistics (.npz of mu and sigma) instead of images; they suffice for fid."""
    save_statistics: Path | None = None
    """Write the reference's statistics to this .npz file."""
    features: str = "inception"
    """Feature network: inception (needs its weights), random or pixels (stand-ins, comparable with nothing
    published), or a .pt2 file."""
    weights: Path | None = None
    """Inception's weights, where they are not in their usual place."""
    metrics: tuple[str, ...] = ("fid", "kid", "prc")
    """Scores by name: fid, kid, is, prc. Only fid and is take memory that does not grow with the images."""
    num_samples: int | None = None
    """Images to generate; by default as many as the reference has, at most 50,000 (images)."""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """Which of the run's checkpoints; `auto` is best where there is one."""
    checkpoints: str | None = None
    """Score all checkpoints in the run's folder (all), or those from one step to another (FIRST:LAST), each in a
    folder of its own under --out."""
    imports: Annotated[tuple[Path, ...], tyro.conf.arg(name="import")] = ()
    """Python files that are run first, for parts of your own by name (docs/diffusion.md)."""
    sampling: Annotated[SamplingConfig, _PLAIN] = field(default_factory=SamplingConfig)
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Matrix-product precision of the sampling."""
    batch_size: int = 64
    """Images at a time; with the seed it decides them (images)."""
    kid_subset_size: int = 1000
    """Images in each of KID's subsets, at most the smaller set's number (images)."""
    seed: int = 2020
    """Seed of every random draw."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    out: Path | None = None
    """Folder of results.json, results.png and samples.npy (uint8 (n, H, W, C)); the run's own by default."""
    output: Path | None = None
    """Write the scores to this .json file."""
    max_iters: int | None = None
    """Generate at most this many images in this call, then stop (images)."""
    max_minutes: float | None = None
    """Work for at most this long in this call, then stop (minutes)."""
    save_every: int = 1
    """Batches between saves (batches)."""
    resume: Path | None = None
    """Resume the stopped evaluation in this folder, with its flags."""


_TOGETHER = {
    "settle_snr": lambda c: None if c.settle else "--settle",
    "num_times": lambda c: None if c.method == "bound" else "--method bound",
    "dequantization_steps": lambda c: None if c.dequantization != "uniform" else "--dequantization variational",
    "trace": lambda c: None if c.method == "flow" else "--method flow",
    "tolerance": lambda c: None if c.method == "flow" else "--method flow",
    "factor": lambda c: None if c.problem == "super-resolution" else "--problem super-resolution",
    "measurements": lambda c: None if c.problem == "compressed-sensing" else "--problem compressed-sensing",
}
"""By flag, what it asks for beside it and the command lacks."""


def check(command: object) -> None:
    """Refuse flags that are out of range, before anything is read.

    Raises:
        InputError: names the flag, what was expected and what came.
    """
    output = getattr(command, "output", None)
    ending = getattr(command, "ending", None)
    if ending is not None and output is not None and output.suffix != ending:
        raise InputError(f"--output must end in {ending}, got {output}")
    if output is not None:
        endings = (output.suffix, *getattr(command, "beside", ()))
        written = [output.with_suffix(suffix).resolve() for suffix in endings]
        for name in ("input", "a", "b", "mask", "source", "samples", "reference"):
            value = getattr(command, name, None)
            if value is not None and Path(value).resolve() in written:
                raise InputError(f"--output {output} would write over --{name} {value}; give it another name")
    for name, lacks in _TOGETHER.items():
        if getattr(command, name, None) is not None and lacks(command) is not None:
            raise InputError(f"--{name.replace('_', '-')} does nothing without {lacks(command)}")
    counts = (
        "num_samples per_class num_images repeats batch_size factor measurements max_iters save_every size crop "
        "num_times dequantization_steps"
    )
    ranges = {
        "at least 1": (counts, lambda v: v >= 1),
        "at least 2": ("steps kid_subset_size", lambda v: v >= 2),
        "at least 0": ("settle", lambda v: v >= 0),
        "positive": ("settle_snr tolerance max_minutes noise", lambda v: v > 0),
        "in (0, 1]": ("strength", lambda v: 0 < v <= 1),
        "in 0..2^63 - 1": ("seed", lambda v: 0 <= v < 2**63),
    }
    for expected, (names, fits) in ranges.items():
        for name in names.split():
            value = getattr(command, name, None)
            if value is not None and not fits(value):
                raise InputError(f"--{name.replace('_', '-')} must be {expected}, got {value}")
