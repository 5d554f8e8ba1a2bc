"""How a training goes: steps, rates, precision, checkpoints, validation."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pcdiff.errors import InputError
from pcdiff.runtime.ranges import check_ranges


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained."""

    max_iters: int = 400_000
    """Stop after this many optimizer steps (steps)."""
    budget_minutes: float | None = None
    """Make a whole training of this much wall clock, validation and samples included: the first steps are timed
    (in bf16 too with precision `auto`, compiled too with `compile`), and max_iters, schedule, warm-up and average
    are fitted to the time (minutes)."""
    plan: Annotated[str, tyro.conf.Suppress] = ""
    """What was planned for `budget_minutes`; written by the run."""
    max_minutes: float | None = None
    """Wall clock of the whole call, counted from 0 at each resume: the training ends in time for the last
    validation, samples and scores, and what does not fit is left out with a line (minutes); no limit by default."""
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
    lr_schedule: Literal["linear", "cosine", "exponential", "constant"] = "linear"
    """How the learning rate falls to end_lr; exponential by the same factor each time, constant leaves it at lr."""
    lr_decay_start: int = 200_000
    """Step from which the learning rate falls (steps)."""
    lr_decay_end: int = 400_000
    """Step at which the learning rate reaches end_lr, where it stays (steps)."""
    lr_decay_every: int = 1
    """Steps between two changes of the falling rate, such as those of an epoch (steps)."""
    warmup_iters: int = 0
    """Steps over which the learning rate rises linearly from 0 (steps)."""
    adam_beta1: float = 0.9
    """Decay of Adam's mean of gradients."""
    adam_beta2: float = 0.999
    """Decay of Adam's mean of squared gradients."""
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
    """How many of the last checkpoints are kept, besides the best: a damaged one is skipped (checkpoints)."""
    val_every: int = 10_000
    """Steps between validations, which decide `best`; 0 turns them off (steps)."""
    val_clouds: int = 100
    """Clouds a validation draws or reconstructs, at most the split's size (clouds)."""
    val_points: int = 2048
    """Points compared in a validation, at most what the data has (points)."""


def check_train(config: TrainConfig) -> None:
    """Refuse values that no training can have, of clouds or of images.

    Raises:
        InputError: names the first such field, what was expected and what came.
    """
    check_ranges(
        vars(config),
        {
            "at least 1": "max_iters batch_size accumulate lr_decay_every log_every save_every keep val_clouds "
            "val_points",
            "at least 0": "warmup_iters weight_decay val_every patience lr_decay_start lr_decay_end end_lr",
            "above 0": "lr max_grad_norm budget_minutes max_minutes save_minutes",
            "in (0, 1)": "ema_decay",
            "in [0, 1)": "adam_beta1 adam_beta2",
        },
    )
    if config.lr_schedule == "exponential" and config.end_lr <= 0:
        raise InputError(f"end_lr must be above 0 with lr_schedule exponential, got {config.end_lr}")
