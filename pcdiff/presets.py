"""The named presets: defaults of all flags for the two training scripts."""

from collections.abc import Mapping
from dataclasses import replace

from pcdiff.config import DataConfig, ModelConfig, ObjectiveConfig, RunConfig, TrainConfig
from pcdiff.errors import InputError

_PAPER = RunConfig()

# What fits two CPU cores and a few minutes: fewer points a step, times shared out within a cloud, a moving average
# and a learning rate that ends low, so that a short run ends sharp.
_QUICK = RunConfig(
    preset="quick",
    num_samples=16,
    model=ModelConfig(latent_dim=128),
    objective=ObjectiveConfig(times_per_cloud=8, stratified_times=True),
    data=DataConfig(num_points=512),
    train=TrainConfig(
        max_iters=1500,
        batch_size=32,
        end_lr=1e-5,
        lr_decay_start=0,
        lr_decay_end=1500,
        warmup_iters=50,
        ema_decay=0.995,
        precision="auto",
        log_every=20,
        save_every=500,
        val_every=750,
        val_clouds=64,
    ),
)

GENERATOR_PRESETS: Mapping[str, RunConfig] = {"paper": _PAPER, "quick": _QUICK}

AUTOENCODER_PRESETS: Mapping[str, RunConfig] = {
    "paper": replace(
        _PAPER,
        model=ModelConfig(kind="autoencoder", num_steps=200, beta_T=0.05),
        train=replace(_PAPER.train, lr=1e-3, lr_decay_start=150_000, lr_decay_end=300_000),
    ),
    "quick": replace(
        _QUICK,
        model=replace(_QUICK.model, kind="autoencoder", beta_T=0.05),
        train=replace(_QUICK.train, lr=1e-3),
    ),
}


def preset(presets: Mapping[str, RunConfig], name: str) -> RunConfig:
    """Return a preset by name.

    Raises:
        InputError: the name is unknown; the message lists the known ones.
    """
    if name not in presets:
        raise InputError(f"--preset must be one of {sorted(presets)}, got {name!r}")
    return presets[name]
