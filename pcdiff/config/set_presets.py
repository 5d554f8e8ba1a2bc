"""The presets of direct models whose net is the set transformer."""

from dataclasses import replace

from pcdiff.config.data import DataConfig
from pcdiff.config.model import ModelConfig
from pcdiff.config.objective import CloudObjectiveConfig
from pcdiff.config.process import ProcessConfig
from pcdiff.config.run import RunConfig
from pcdiff.config.sampling import SamplingConfig
from pcdiff.config.train import TrainConfig
from pcdiff.nets import SetTransformerConfig


def _direct(net: SetTransformerConfig) -> ModelConfig:
    return ModelConfig(kind="direct", net="set_transformer", net_options=net)


# GECCO's recipe for one category of ShapeNet (Tyszkiewicz et al., ICCV 2023; its shapenet_airplane_unconditional
# configuration). Two things differ: it clips each number of a gradient at 1, here the gradient's norm is; and it
# multiplies in float16, which diverges in the end (its README), where bfloat16 does not.
GECCO = RunConfig(
    preset="gecco",
    model=_direct(SetTransformerConfig()),
    process=ProcessConfig(name="edm", sigma_max=165.0, predicts="edm", time_input="edm", sigma_data=1.0),
    objective=CloudObjectiveConfig(
        objectives=("edm",), weights=(100.0,), time_draw="log_uniform", stratified_times=True
    ),
    sampling=SamplingConfig(sampler="heun", num_steps=64, churn=0.5),
    data=DataConfig(normalization="global_per_axis"),
    train=TrainConfig(
        max_iters=250_000,
        batch_size=48,
        lr=1e-4,
        lr_schedule="constant",
        max_grad_norm=1.0,
        ema_decay=0.99,
        precision="bf16",
    ),
)

# Two CPU cores. The net is one of sets, so that it trains on few points of many clouds and draws any number; its
# sizes leave time for some hundred passes over a category. Noise levels are drawn as GECCO draws them, the rate
# falls to 0, and the weights are averaged.
CPU = RunConfig(
    preset="set-cpu",
    num_samples=64,
    model=_direct(
        SetTransformerConfig(width=128, depth=4, num_heads=4, num_inducers=32, mlp_ratio=2, activation="silu")
    ),
    process=ProcessConfig(name="edm", predicts="edm", time_input="edm", sigma_data=1.0),
    objective=CloudObjectiveConfig(objectives=("regression",), time_draw="log_uniform", stratified_times=True),
    sampling=SamplingConfig(sampler="heun", num_steps=32),
    data=DataConfig(num_points=256),
    train=TrainConfig(
        max_iters=5000,
        batch_size=32,
        lr=1e-3,
        end_lr=0.0,
        lr_schedule="cosine",
        lr_decay_start=0,
        lr_decay_end=5000,
        warmup_iters=50,
        ema_decay=0.998,
        precision="auto",
        compile=True,
        log_every=50,
        save_every=500,
        val_every=2500,
        val_clouds=100,
        val_points=512,
    ),
)

# The same in a few minutes.
QUICK = replace(
    CPU,
    preset="set-quick",
    num_samples=16,
    sample_points=1024,
    sampling=replace(CPU.sampling, num_steps=18),
    train=replace(
        CPU.train,
        max_iters=400,
        lr_decay_end=400,
        ema_decay=0.98,
        compile=False,
        log_every=20,
        save_every=200,
        val_every=400,
        val_clouds=64,
    ),
)

# One GPU, an hour or so: more of everything.
GPU = replace(
    CPU,
    preset="set-gpu",
    model=_direct(SetTransformerConfig(width=256, depth=6, num_heads=8, num_inducers=64, activation="silu")),
    data=replace(CPU.data, num_points=1024),
    train=replace(
        CPU.train,
        max_iters=100_000,
        batch_size=128,
        lr=3e-4,
        lr_decay_end=100_000,
        warmup_iters=1000,
        ema_decay=0.9995,
        precision="bf16",
        log_every=200,
        save_every=5000,
        val_every=20_000,
        val_points=2048,
    ),
)

SET_PRESETS = {config.preset: config for config in (GECCO, CPU, QUICK, GPU)}
