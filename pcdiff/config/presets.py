"""The named presets: defaults of all flags for the two training scripts."""

from collections.abc import Mapping
from dataclasses import replace

from pcdiff.config import CloudObjectiveConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from pcdiff.config.pvd_presets import PVD_PRESETS, of_categories
from pcdiff.config.run import PAPER_PROCESS
from pcdiff.config.set_presets import SET_PRESETS
from pcdiff.encoders import PointNetConfig
from pcdiff.errors import UnknownName
from pcdiff.flows import CouplingConfig
from pcdiff.nets import PointwiseConfig

_PAPER = RunConfig()

# Two CPU cores. Against the paper's recipe, what makes a short run end sharp: a chain that ends in pure noise
# (with beta_T = 0.02 and T = 100 a third of the signal's variance is left at T), a time input that separates the
# steps, octaves of the coordinates, more clouds of fewer points in a batch, several diffusion times in a
# cloud, a latent that may carry more, a learning rate that falls to the end, and averaged weights. bf16 where the
# processor multiplies it natively.
_CPU = RunConfig(
    preset="cpu",
    num_samples=64,
    model=ModelConfig(latent_dim=128, net_options=PointwiseConfig(frequencies=4)),
    process=replace(PAPER_PROCESS, time_input="log_snr", beta_T=0.07),
    objective=CloudObjectiveConfig(kl_weight=1e-4, times_per_cloud=8, stratified_times=True),
    data=DataConfig(num_points=256),
    train=TrainConfig(
        max_iters=13_500,
        batch_size=64,
        end_lr=1e-5,
        lr_decay_start=0,
        lr_decay_end=13_500,
        warmup_iters=50,
        ema_decay=0.999,
        precision="auto",
        compile=True,
        log_every=50,
        save_every=1000,
        val_every=6750,
        val_clouds=100,
        val_points=512,
    ),
)

# The same in a few minutes.
_QUICK = replace(
    _CPU,
    preset="quick",
    num_samples=16,
    sample_points=1024,
    train=replace(
        _CPU.train,
        max_iters=1000,
        lr_decay_end=1000,
        ema_decay=0.99,
        log_every=20,
        save_every=500,
        val_every=1000,
        val_clouds=64,
    ),
)

# The same again on a processor without AVX-512, where a step of the nets above takes a second: nets of a seventh of
# the arithmetic make more of a few minutes. More clouds of fewer points in a batch gave the better samples at equal
# steps. Compiling would not pay for itself in so short a time.
_DEMO = replace(
    _QUICK,
    preset="demo",
    model=replace(
        _QUICK.model,
        latent_dim=64,
        encoder_options=PointNetConfig(widths=(64, 64, 128, 256), head_widths=(128, 64)),
        prior_options=CouplingConfig(depth=8, hidden_dim=128),
        net_options=PointwiseConfig(widths=(64, 128, 256, 128, 64), frequencies=4),
    ),
    objective=replace(_QUICK.objective, times_per_cloud=4),
    data=replace(_QUICK.data, num_points=128),
    train=replace(_QUICK.train, compile=False),
)

GENERATOR_PRESETS: Mapping[str, RunConfig] = {
    "paper": _PAPER,
    "cpu": _CPU,
    "quick": _QUICK,
    "demo": _DEMO,
    **SET_PRESETS,
    **PVD_PRESETS,
}


def generator_preset(name: str) -> RunConfig:
    """Return a preset of generators by name; `pcdiff.build_model` builds its model.

    Raises:
        InputError: the name is unknown; the message lists the known ones.

    Example:
        >>> generator_preset("paper").model.latent_dim
        256
    """
    return preset(GENERATOR_PRESETS, name)


def _autoencoder(config: RunConfig) -> RunConfig:
    # A code is read off whole clouds: more points of fewer clouds than a generator's posterior needs.
    return replace(
        config,
        model=replace(config.model, kind="autoencoder"),
        data=replace(config.data, num_points=512),
        train=replace(config.train, lr=1e-3, batch_size=32),
    )


AUTOENCODER_PRESETS: Mapping[str, RunConfig] = {
    "paper": replace(
        _PAPER,
        model=ModelConfig(kind="autoencoder"),
        process=replace(PAPER_PROCESS, num_steps=200, beta_T=0.05),
        train=replace(_PAPER.train, lr=1e-3, max_iters=300_000, lr_decay_start=150_000, lr_decay_end=300_000),
    ),
    "cpu": _autoencoder(_CPU),
    "quick": _autoencoder(_QUICK),
    "demo": _autoencoder(_DEMO),
}


def preset(presets: Mapping[str, RunConfig], name: str, categories: str | None = None) -> RunConfig:
    """Return a preset by name.

    Args:
        presets: all of them.
        name: the preset's.
        categories: what it is for, where that makes a difference (`pcdiff.config.pvd_presets.of_categories`).

    Raises:
        InputError: the name is unknown; the message lists the known ones.
    """
    if name not in presets:
        raise UnknownName("--preset", name, sorted(presets))
    return of_categories(presets[name], categories)
