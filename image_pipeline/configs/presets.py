"""Presets by name: the field's recipes (score_sde's and EDM's), and what a laptop can train."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from image_pipeline.configs.config import (
    DataConfig,
    ImageRunConfig,
    ImageTrainConfig,
    ObjectiveConfig,
    ProcessConfig,
    SamplingConfig,
)
from image_pipeline.configs.edm import edm_presets
from image_pipeline.configs.score_sde import score_sde_presets
from image_pipeline.nets import DDPMppConfig
from pcdiff.errors import UnknownName

# Minutes on two CPU cores, on scikit-learn's 8 x 8 digits. EDM's process and preconditioning (Karras et al., 2022)
# with the digits' own standard deviation; a falling rate and averaged weights end a short training sharp.
_DIGITS = ImageRunConfig(
    preset="digits/quick",
    threads=1,  # a second one finds little to do in so small an image, and waiting for it costs more
    process=ProcessConfig(
        name="edm", sigma_min=0.002, sigma_max=20.0, predicts="edm", time_input="edm", sigma_data=0.75
    ),
    objective=ObjectiveConfig(objectives=("regression",), time_draw="log_normal", time_mean=-0.8, time_std=1.2),
    sampling=SamplingConfig(sampler="heun", num_steps=18, guidance=2.0),
    train=ImageTrainConfig(
        max_iters=3000,
        batch_size=64,
        lr=1e-3,
        end_lr=1e-5,
        lr_schedule="cosine",
        lr_decay_start=0,
        lr_decay_end=3000,
        warmup_iters=100,
        max_grad_norm=1.0,
        ema_decay=0.999,
        log_every=50,
        save_every=1000,
        val_every=1000,
    ),
)

# DDPM++ on MNIST brought to 32 x 32, a GPU's hour.
_MNIST = ImageRunConfig(
    preset="mnist",
    net="ddpmpp",
    model=DDPMppConfig(num_channels=1, nf=64, num_res_blocks=2),
    data=DataConfig(dataset_path=Path("data/mnist"), size=32, held_out=1000),
    process=ProcessConfig(name="vp", beta_min=0.1, beta_max=20.0, num_scales=1000, time_input="999t"),
    sampling=SamplingConfig(sampler="euler_maruyama", num_steps=1000),
    train=ImageTrainConfig(
        max_iters=50_000,
        batch_size=128,
        lr=2e-4,
        lr_schedule="constant",
        warmup_iters=1000,
        max_grad_norm=1.0,
        ema_decay=0.999,
        save_every=5000,
        val_every=5000,
    ),
)

PRESETS: Mapping[str, ImageRunConfig] = {
    "digits/quick": _DIGITS,
    "mnist": _MNIST,
    **{name: replace(config, preset=name) for name, config in (score_sde_presets() | edm_presets()).items()},
}


def preset(name: str) -> ImageRunConfig:
    """Return a preset by name.

    Raises:
        InputError: the name is unknown; the message lists the known ones.
    """
    if name not in PRESETS:
        raise UnknownName("--preset", name, sorted(PRESETS))
    return PRESETS[name]
