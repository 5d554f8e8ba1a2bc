"""EDM's recipes for CIFAR-10 (Karras et al., 2022, tables 6 and 7 and appendix F.2), as facts."""

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
from image_pipeline.nets import SongUNetConfig
from image_pipeline.nets.song_config import NUM_LABELS

_BATCH = 512
_MILLION = 1_000_000


def edm_presets() -> dict[str, ImageRunConfig]:
    """Return EDM's configs: two nets, without and with classes."""
    ddpmpp = SongUNetConfig(channel_mult=(2, 2, 2), dropout=0.13, augment_dim=NUM_LABELS)
    ncsnpp = replace(ddpmpp, noise_mult=2, embedding="fourier", encoder="residual", resample_filter=(1, 3, 3, 1))
    plain = {"edm/cifar10_ddpmpp": ddpmpp, "edm/cifar10_ncsnpp": ncsnpp}
    found = {name: _run(net) for name, net in plain.items()}
    return found | {f"{name}_conditional": _run(replace(net, num_classes=10)) for name, net in plain.items()}


def _run(net: SongUNetConfig) -> ImageRunConfig:
    return ImageRunConfig(
        net="song",
        model=net,
        data=DataConfig(
            dataset_path=Path("data/cifar-10-batches-py"), size=32, channels=3, augment=0.12, held_out=1000
        ),
        process=ProcessConfig(
            name="edm", sigma_min=0.002, sigma_max=80.0, predicts="edm", time_input="edm", sigma_data=0.5
        ),
        objective=ObjectiveConfig(
            objectives=("regression",), time_draw="log_normal", time_mean=-1.2, time_std=1.2, label_dropout=0.0
        ),
        sampling=SamplingConfig(sampler="heun", num_steps=18),
        train=ImageTrainConfig(
            max_iters=200 * _MILLION // _BATCH,
            batch_size=_BATCH,
            lr=1e-3,
            lr_schedule="constant",
            warmup_iters=10 * _MILLION // _BATCH,
            max_grad_norm=1e9,  # none
            ema_decay=0.5 ** (_BATCH / (0.5 * _MILLION)),  # half of it is gone after half a million images
            log_every=50,
            save_every=10_000,
            val_every=10_000,
        ),
    )
