"""The configs of yang-song/score_sde_pytorch (Song et al., ICLR 2021) as facts: their names, their numbers.

Adam's eps of 1e-8 is torch's too. Its `noise_removal` returns the last step's mean, and so do the predictors here,
but for `none`, which leaves the last word to a corrector, and `adaptive_sde`. Where noise is left then, the
estimate of x_0 follows by default (`denoise`).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from image_pipeline.configs.config import (
    DataConfig,
    ImageRunConfig,
    ImageTrainConfig,
    ObjectiveConfig,
    ProcessConfig,
    SamplingConfig,
)
from image_pipeline.nets import DDPMConfig, DDPMppConfig, NCSNConfig, NCSNppConfig, NCSNv2Config

_UNCLIPPED = 1e9  # grad_clip -1


@dataclass(frozen=True)
class _DataSet:
    """What a folder of configs shares."""

    path: str
    size: int
    sigma_max: float
    snr: float
    batch_size: int = 128
    iterations: int = 1_300_000
    num_scales: int = 1000
    dropout: float = 0.1
    crop: int | None = None


_CIFAR10 = _DataSet("data/cifar-10-batches-py", 32, 50.0, 0.16)
_CELEBA = _DataSet("data/celeba", 64, 90.0, 0.17, crop=140)
_LSUN = {"batch_size": 64, "iterations": 2_400_000, "num_scales": 2000, "dropout": 0.0}
_BEDROOM = _DataSet("data/lsun/bedroom", 256, 378.0, 0.075, **_LSUN)
_CHURCH = _DataSet("data/lsun/church_outdoor", 256, 380.0, 0.075, **_LSUN)
_FFHQ_256 = _DataSet("data/ffhq", 256, 348.0, 0.075, **_LSUN)
_CELEBAHQ_256 = _DataSet("data/celebahq", 256, 348.0, 0.075, **_LSUN)
_LARGE = {**_LSUN, "batch_size": 8}
_FFHQ_1024 = _DataSet("data/ffhq", 1024, 1348.0, 0.15, **_LARGE)
_CELEBAHQ_1024 = _DataSet("data/celebahq", 1024, 1348.0, 0.15, **_LARGE)

# NCSN++ for 256 and for 1024 pixels
_HIGH = {"ch_mult": (1, 1, 2, 2, 2, 2, 2), "num_res_blocks": 2}
_HIGHEST = {"nf": 16, "ch_mult": (1, 2, 4, 8, 16, 32, 32, 32), "num_res_blocks": 1}
_SKIPS = {"progressive": "output_skip", "progressive_input": "input_skip"}


def score_sde_presets() -> dict[str, ImageRunConfig]:
    """Return score_sde's configs by their names there; `deep` has eight residual blocks at each size."""
    deep = {"num_res_blocks": 8}
    found = {
        **_ncsn("ve/cifar10_ncsn", _CIFAR10, num_scales=232, snr=0.176),
        **_ncsn("ve/celeba_ncsn", _CELEBA, num_scales=500, snr=0.128),
        "ve/cifar10_ncsnv2": _langevin(_CIFAR10, "ncsnv2", NCSNv2Config(), 50.0, 1e-4, 0.176, 5, 0.999),
        "ve/celeba_ncsnv2": _langevin(
            _CELEBA, "ncsnv2", NCSNv2Config(sigma_max=90.0, num_scales=500), 90.0, 1e-4, 0.128, 5, 0.999
        ),
        "ve/bedroom_ncsnv2": _langevin(
            replace(_BEDROOM, size=128, batch_size=128),
            "ncsnv2",
            NCSNv2Config(variant="deeper", sigma_max=190.0, num_scales=1086),
            190.0,
            1e-4,
            0.095,
            3,
            0.9999,
        ),
        "ve/cifar10_ddpm": _ve_levels(_CIFAR10, "ddpm", DDPMConfig(centered=False, scale_by_sigma=True)),
        "ve/cifar10_ncsnpp": _ve_levels(_CIFAR10, "ncsnpp", NCSNppConfig(embedding_type="positional")),
        "ve/celeba_ncsnpp": _ve_levels(
            _CELEBA, "ncsnpp", NCSNppConfig(embedding_type="positional", image_size=64, sigma_max=90.0)
        ),
        "ve/cifar10_ncsnpp_continuous": _ve(_CIFAR10),
        "ve/cifar10_ncsnpp_deep_continuous": _iterations(_ve(_CIFAR10, **deep), 950_000),
        "ve/bedroom_ncsnpp_continuous": _ve(_BEDROOM, **_HIGH, **_SKIPS),
        "ve/church_ncsnpp_continuous": _ve(_CHURCH, **_HIGH, **_SKIPS),
        "ve/ffhq_256_ncsnpp_continuous": _ve(_FFHQ_256, **_HIGH, **_SKIPS),
        "ve/celebahq_256_ncsnpp_continuous": _ve(_CELEBAHQ_256, **_HIGH, **_SKIPS),
        "ve/ffhq_ncsnpp_continuous": replace(_ve(_FFHQ_1024, 0.9999, **_HIGHEST, **_SKIPS), objective=_dsm("mean")),
        "ve/celebahq_ncsnpp_continuous": _ve(_CELEBAHQ_1024, 0.9999, **_HIGHEST, **_SKIPS),
        "vp/cifar10_ddpm": _chain(_CIFAR10, "ddpm", DDPMConfig()),
        "vp/cifar10_ddpmpp": _chain(_CIFAR10, "ddpmpp", DDPMppConfig()),
        "vp/cifar10_ncsnpp": _chain(_CIFAR10, "ncsnpp", _vp_ncsnpp(), "reverse_diffusion"),
        "vp/bedroom_ddpm": _ddpm_256(_BEDROOM),
        "vp/church_ddpm": _ddpm_256(_CHURCH),
        "vp/celebahq_256_ddpm": _ddpm_256(_CELEBAHQ_256),
    }
    for process in ("vp", "subvp"):
        nets = {
            "ddpm": DDPMConfig(),
            "ddpmpp": DDPMppConfig(),
            "ncsnpp": _vp_ncsnpp(),
            "ddpmpp_deep": DDPMppConfig(**deep),
            "ncsnpp_deep": replace(_vp_ncsnpp(), **deep),
        }
        for name, model in nets.items():
            config = _vp(_CIFAR10, process, name.removesuffix("_deep"), model)
            config = _iterations(config, 950_000) if name.endswith("_deep") else config
            found[f"{process}/cifar10_{name}_continuous"] = config
    short = {
        "celeba": "ve/celeba_ncsnpp",
        "celebahq_256": "ve/celebahq_256_ncsnpp_continuous",
        "ffhq_256": "ve/ffhq_256_ncsnpp_continuous",
        "ffhq_1024": "ve/ffhq_ncsnpp_continuous",
        "bedroom": "ve/bedroom_ncsnpp_continuous",
        "church": "ve/church_ncsnpp_continuous",
    }
    return {**found, **{name: found[full] for name, full in short.items()}}


def _vp_ncsnpp() -> NCSNppConfig:
    return NCSNppConfig(centered=True, embedding_type="positional", scale_by_sigma=False)


def _run(data: _DataSet, net: str, model: Any, data_range: str, ema: float | None, **parts: Any) -> ImageRunConfig:
    return ImageRunConfig(
        seed=42,
        net=net,
        model=model,
        data=DataConfig(
            dataset_path=Path(data.path),
            size=data.size,
            crop=data.crop,
            channels=3,
            labels="none",
            flip=True,
            data_range=data_range,
            held_out=1000,
        ),
        train=ImageTrainConfig(
            max_iters=data.iterations,
            batch_size=data.batch_size,
            lr=2e-4,
            lr_schedule="constant",
            warmup_iters=5000,
            max_grad_norm=1.0,
            ema_decay=ema,
            log_every=50,
            save_every=10_000,
            val_every=10_000,
        ),
        **parts,
    )


def _ve(data: _DataSet, ema: float = 0.999, **fields: Any) -> ImageRunConfig:
    """NCSN++ under the VE SDE, conditioned on the noise level itself."""
    ends = {"sigma_min": 0.01, "sigma_max": data.sigma_max, "num_scales": data.num_scales}
    return _run(
        data,
        "ncsnpp",
        NCSNppConfig(image_size=data.size, dropout=data.dropout, **ends, **fields),
        "unit",
        ema,
        process=ProcessConfig(name="ve", **ends, predicts="score", time_input="sigma"),
        objective=_dsm(),
        sampling=_corrected(data.snr),
    )


def _ve_levels(data: _DataSet, net: str, model: Any) -> ImageRunConfig:
    """Discrete training with VE: a list of levels, indexed from the largest."""
    ends = {"sigma_min": 0.01, "sigma_max": data.sigma_max, "num_scales": data.num_scales}
    process = ProcessConfig(name="ncsn", **ends, predicts="score", time_input="level")
    return _run(
        data,
        net,
        model,
        "unit",
        0.999,
        process=process,
        objective=_dsm(),
        sampling=_corrected(data.snr),
    )


def _langevin(
    data: _DataSet, net: str, model: Any, sigma_max: float, lr: float, snr: float, steps: int, ema: float | None
) -> ImageRunConfig:
    """NCSN and NCSNv2: a RefineNet, annealed Langevin dynamics, no warm-up and no clipping."""
    levels = {"sigma_min": 0.01, "sigma_max": sigma_max, "num_scales": model.num_scales}
    config = _run(
        data,
        net,
        model,
        "unit",
        ema,
        process=ProcessConfig(name="ncsn", **levels, predicts="score", time_input="level"),
        objective=_dsm(),
        sampling=SamplingConfig(sampler="none", corrector="ald", corrector_steps=steps, snr=snr),
    )
    return replace(config, train=replace(config.train, lr=lr, warmup_iters=0, max_grad_norm=_UNCLIPPED))


def _ncsn(name: str, data: _DataSet, num_scales: int, snr: float) -> dict[str, ImageRunConfig]:
    """NCSN, with the NCSNv2 techniques of a name's digits: 1, 2 and 4 are its noise levels, 5 is EMA."""
    found = {}
    for techniques in ("", "5", "124", "1245"):
        ema = 0.999 if "5" in techniques else None
        recipe = (num_scales, data.sigma_max, snr, 5) if "124" in techniques else (10, 1.0, 0.316, 100)
        count, sigma_max, ratio, steps = recipe
        config = _langevin(data, "ncsn", NCSNConfig(num_scales=count), sigma_max, 1e-3, ratio, steps, ema)
        found[f"{name}_{techniques}" if techniques else name] = config
    return found


def _vp(data: _DataSet, process: str, net: str, model: Any) -> ImageRunConfig:
    """Continuous VP or sub-VP."""
    rates = {"beta_min": 0.1, "beta_max": 20.0, "num_scales": 1000}
    return _run(
        data,
        net,
        model,
        "symmetric",
        0.9999,
        process=ProcessConfig(name=process, **rates, time_input="999t"),
        sampling=SamplingConfig(sampler="euler_maruyama", num_steps=1000),
    )


def _chain(data: _DataSet, net: str, model: Any, sampler: str = "ancestral") -> ImageRunConfig:
    """Discrete VP: DDPM's chain."""
    steps = {"schedule": "linear", "num_steps": 1000, "beta_1": 1e-4, "beta_T": 0.02}
    return _run(
        data,
        net,
        model,
        "symmetric",
        0.9999,
        process=ProcessConfig(name="ddpm", **steps, time_input="step"),
        sampling=SamplingConfig(sampler=sampler),
    )


def _ddpm_256(data: _DataSet) -> ImageRunConfig:
    model = DDPMConfig(image_size=256, ch_mult=(1, 1, 2, 2, 4, 4), dropout=0.0)
    config = _chain(data, "ddpm", model)
    return replace(config, train=replace(config.train, lr=2e-5))


def _dsm(reduction: str = "sum") -> ObjectiveConfig:
    """Half the sum over an image (score_sde's `reduce_mean` is false for VE, but for FFHQ at 1024), or its mean."""
    return ObjectiveConfig(objectives=("dsm",), weights=(0.5 if reduction == "sum" else 1.0,), reduction=reduction)


def _corrected(snr: float) -> SamplingConfig:
    return SamplingConfig(sampler="reverse_diffusion", corrector="langevin", corrector_steps=1, snr=snr)


def _iterations(config: ImageRunConfig, count: int) -> ImageRunConfig:
    return replace(config, train=replace(config.train, max_iters=count))
