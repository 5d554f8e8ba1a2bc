"""The presets of direct models whose net is the point-voxel one, and the chain that each category has in them."""

from dataclasses import replace

from pcdiff.config.data import DataConfig
from pcdiff.config.model import ModelConfig
from pcdiff.config.process import ProcessConfig
from pcdiff.config.run import RunConfig
from pcdiff.config.train import TrainConfig
from pcdiff.nets import PVCNNConfig

_CHAIN = ProcessConfig(
    name="ddpm", schedule="linear", num_steps=1000, beta_1=1e-4, beta_T=0.02, predicts="eps", time_input="step"
)
CHAINS = {
    "airplane": replace(_CHAIN, schedule="warm", beta_1=1e-5, beta_T=0.008, warm=0.1),
    "chair": _CHAIN,
    "car": _CHAIN,
}
"""The published chain of each category (PVD's code; TIGER's has the same)."""

TIGER_NET = PVCNNConfig(global_attention=False, branch_depth=8)
"""PVD's net without the attention over the coarsest points, and a transformer beside it."""

_EPOCHS = 10_000
_CLOUDS = {"airplane": 2832, "chair": 4612, "car": 2458}  # of ShapeNetCore.v2.PC15k's training split


def _train(category: str, batch_size: int) -> TrainConfig:
    epoch = _CLOUDS[category] // batch_size  # the last, smaller batch of an epoch is left out
    return TrainConfig(
        max_iters=_EPOCHS * epoch,
        batch_size=batch_size,
        lr=2e-4,
        end_lr=2e-4 * 0.998**_EPOCHS,
        lr_schedule="exponential",
        lr_decay_start=0,
        lr_decay_end=_EPOCHS * epoch,
        lr_decay_every=epoch,
        adam_beta1=0.5,
        max_grad_norm=1e9,  # gradients are not cut
        save_every=10_000,
        val_every=100_000,
        val_clouds=64,
    )


def _preset(name: str, net: PVCNNConfig, category: str, batch_size: int) -> RunConfig:
    return RunConfig(
        preset=name,
        num_samples=16,
        model=ModelConfig(kind="direct", net="pvcnn", net_options=net),
        process=CHAINS[category],
        data=DataConfig(categories=category, normalization="global"),
        train=_train(category, batch_size),
    )


# PVD's recipe (Zhou, Du & Wu, ICCV 2021; its train_generation.py). Two things differ: the points of a cloud are
# drawn without replacement; and the few draws at the chain's first step (one in T) get fresh noise, as all others
# do, where PVD keeps one noise a shape for the whole training. It draws a cloud's points anew each time, as is done
# here, so that the kept noise belongs to rows, not to points.
_PRESETS = {"pvd": (PVCNNConfig(), 16), "tiger": (TIGER_NET, 64)}

PVD_PRESETS = {name: _preset(name, net, "airplane", size) for name, (net, size) in _PRESETS.items()}


def of_categories(config: RunConfig, categories: str | None) -> RunConfig:
    """Return a preset as published for these categories: in `pvd` and `tiger` airplanes have their own chain.

    Args:
        config: a preset.
        categories: as in `DataConfig`; None leaves the preset's. Those that were not published, and several at
            once, have the chair's chain and length.
    """
    if config.preset not in _PRESETS or categories in (None, config.data.categories):
        return config
    net, size = _PRESETS[config.preset]
    assert categories is not None
    published = _preset(config.preset, net, categories if categories in CHAINS else "chair", size)
    return replace(published, data=replace(published.data, categories=categories))
