"""One evaluation: every field is a flag of `evaluate.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pcdiff.errors import InputError
from pcdiff.runtime.ranges import check_ranges


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
    """The clouds the generator of --samples was trained on: each sample's nearest ones are
    found, and as many of them are scored in the samples' place. A run has its own."""
    reconstructions: Path | None = None
    """Score these clouds against the --reference clouds that they reconstruct, pair by pair."""
    oracle: Path | None = None
    """Another sampling of the --reference shapes, for the row of the best possible scores; by default the
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
    """Protocol of the comparison, by name: dpm, pointflow, pointflow-lion or raw. It fixes split, normalization,
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
    metrics: tuple[str, ...] | None = None
    """Scores of generated clouds: MMD, COV, 1-NNA, JSD, JSD-normalized, P-FID and P-IS (with point-e's
    classifier in PCDIFF_POINTNET), or your own (--import); all that need no file by default."""
    num_completions: int = 3
    """Completions of each partial cloud, of a run that completes (clouds)."""
    emd: Literal["auto", "yes", "no"] = "auto"
    """Exact earth mover's distance; `auto` where it takes less than about ten minutes on two cores."""
    floor: bool = True
    """Score training clouds in the samples' place too, where there are enough."""
    resamples: int = 1000
    """Resamples of the bootstrap intervals; 0 leaves the intervals out."""
    imports: Annotated[tuple[Path, ...], tyro.conf.arg(name="import")] = ()
    """Python files that are run first, for samplers, nets and metrics of your own by name (docs/diffusion.md)."""
    sampler: str | None = None
    """Sampler of a run's clouds: ancestral, kernel, score_ancestral, euler_maruyama, reverse_diffusion, srk,
    adaptive_sde, ddim, heun, edm, dpmpp, unipc, ode, none, or your own (--import); the run's own by default."""
    num_steps: int | None = None
    """Steps from noise to data; the run's own by default, or all of the process with --sampler (steps)."""
    grid: str | None = None
    """Time grid: uniform, quadratic, log_snr, edm, chain or ends; the sampler's own by default."""
    flexibility: float | None = None
    """Noise of the ancestral sampler, 0 to 1; the run's own by default."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """Matrix-product precision of the sampling: fp32 (the default), bf16, or auto: bf16 where it is native."""
    guidance: float | None = None
    """Scale of classifier-free guidance, of a class-conditional run; 1 is none. The run's own by default."""
    truncate_std: float | None = None
    """Cut the latent's normal draw off at this many standard deviations; not cut by default."""
    categories: str | None = None
    """Category names, comma-separated, or `all`; the run's own by default."""
    dataset_path: Path | None = None
    """Data set to compare with; the run's own by default."""
    allow_other_dataset: bool = False
    """Compare a run even with a data set it was not trained on; the result has a note of it."""
    seed: int | None = None
    """Seed of every random draw; the protocol's by default."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    max_iters: int | None = None
    """Generate at most this many clouds in this call, then stop; --resume continues (clouds)."""
    max_minutes: float | None = None
    """Work for at most this long in this call, then stop; --resume continues (minutes)."""
    save_every: int = 1
    """Blocks of work between saves: 32 generated clouds, or some hundred pairs compared (blocks)."""
    resume: Path | None = None
    """Resume the stopped evaluation in this folder (--out, or the run's), with its flags."""


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
    if config.metrics is not None and (config.reconstructions or config.compare):
        raise InputError("--metrics goes with --run or --samples only")
    if config.format != "markdown" and not config.compare:
        raise InputError(f"--format {config.format} goes with --compare only")
    if jobs["--run"] is None and config.resume is None:
        for name in ("sampler", "num_steps", "grid", "flexibility", "precision", "truncate_std", "guidance"):
            if getattr(config, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} goes with --run only")
    check_ranges(
        vars(config),
        {
            "at least 1": "num_points num_samples num_completions num_steps max_iters save_every",
            "at least 0": "resamples",
            "above 0": "max_minutes truncate_std",
            "in [0, 1]": "flexibility",
            "in 0..2^63 - 1": "seed",
        },
    )
