"""Open the checkpoints of abarankab/DDPM: `GaussianDiffusion.state_dict()`, a UNet, its average and the chain."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from image_pipeline.interop.imported import Imported
from image_pipeline.interop.settings import Config, blaming, called, read_settings
from image_pipeline.interop.weights import fill, names_of, read_state_dict
from pcdiff.diffusion import DiscreteProcess, NetDenoiser
from pcdiff.errors import InputError
from pcdiff.nets import UNet, UNetConfig
from pcdiff.runtime.memory_limit import built_for, check_depth

PARTS = {
    "norm1": "norm_1",
    "conv1": "conv_1",
    "embed": "time_bias",
    "class_embed": "class_bias",
    "norm2": "norm_2",
    "conv2": "conv_2.1",
    "skip": "residual_connection",
    "qkv": "to_qkv",
    "proj": "to_out",
}
# what its UNet assumes
DEFAULTS = {
    "channel_mults": [1, 2, 4, 8],
    "num_res_blocks": 2,
    "time_emb_scale": 1.0,
    "num_classes": None,
    "dropout": 0.1,
    "attention_resolutions": [],
    "norm": "gn",
    "num_groups": 32,
    "initial_pad": 0,
    "activation": "silu",
}
NEEDED = ("img_channels", "base_channels", "time_emb_dim")
FIXED = {"norm": "gn"}


def load(path: str | Path, config: Config, ema: bool = True) -> Imported:
    """Rebuild a model with its chain.

    Args:
        path: the state dict (.pth).
        config: a dict, JSON or the path of a JSON file: `unet`, its UNet's arguments (`attention_resolutions` count
            levels), and `img_size`, the size of its images.
        ema: take the moving average of the weights, as its own sampling does, rather than the weights.

    Raises:
        InputError: the file is damaged or would run code, a setting is unknown or not supported, or a weight
            is left over or missing.
    """
    path = Path(path)
    settings = read_settings(config)
    stored = read_state_dict(path)
    with blaming(called(config)):
        net = built_for(stored, lambda: UNet(_unet_config(settings.get("unet"))))
    if "betas" not in stored:
        raise InputError(f"{path}: expected the state of a GaussianDiffusion, with its betas")
    prefix = "ema_model." if ema else "model."
    weights = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    with blaming(path):
        fill(net, names_of(net, _modules(net), PARTS), weights)
    # its chain adds noise of variance beta
    denoiser = NetDenoiser(net, DiscreteProcess(stored["betas"]), "eps", "step", "large")
    size, channels = settings.get("img_size"), net.config.in_channels
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    shape, name = (channels, height, width), f"abarankab {path.stem}"
    with blaming(called(config)):
        return Imported(denoiser.eval(), (-1.0, 1.0), shape, name, net.config.num_classes, ema=ema)


def _unet_config(unet: Any) -> UNetConfig:
    if not isinstance(unet, Mapping):
        raise InputError(f"unet must be its arguments by name, got {unet!r}")
    unknown, missing = sorted(set(unet) - set(DEFAULTS) - set(NEEDED)), sorted(set(NEEDED) - set(unet))
    if unknown or missing:
        raise InputError(f"unet has unknown arguments {unknown} and lacks {missing}")
    unet = DEFAULTS | dict(unet)
    for key, value in FIXED.items():
        if unet[key] != value:
            raise InputError(f"{key} must be {value!r}, got {unet[key]!r}")
    check_depth("channel_mults", unet["channel_mults"])
    levels = len(unet["channel_mults"])
    return UNetConfig(
        in_channels=unet["img_channels"],
        out_channels=unet["img_channels"],
        model_channels=unet["base_channels"],
        channel_mult=tuple(unet["channel_mults"]),
        num_res_blocks=unet["num_res_blocks"],
        attention_factors=tuple(2**level for level in range(levels) if level in unet["attention_resolutions"]),
        scale_shift_norm=False,
        num_classes=unet["num_classes"],
        class_bias=unet["num_classes"] is not None,
        pad=unet["initial_pad"],
        activation=unet["activation"],
        time_scale=unet["time_emb_scale"],
        time_embed_dim=unet["time_emb_dim"],
        sin_first=True,
        norm_groups=unet["num_groups"],
        dropout=unet["dropout"],
    )


def _modules(net: UNet) -> Iterator[tuple[str, str]]:
    yield from (("time_mlp.0", "time_mlp.1"), ("time_mlp.2", "time_mlp.3"), ("conv_in", "init_conv"))
    for way in ("down", "up"):
        index = 0
        for k, level in enumerate(getattr(net, way)):
            for i in range(len(level.blocks)):
                yield f"{way}.{k}.blocks.{i}", f"{way}s.{index}"
                yield f"{way}.{k}.attentions.{i}", f"{way}s.{index}.attention"
                index += 1
            if level.resample is not None:
                # the upsampling's first module repeats pixels
                theirs = "downsample" if way == "down" else "upsample.1"
                yield f"{way}.{k}.resample.conv", f"{way}s.{index}.{theirs}"
                index += 1
    yield from (
        ("middle.blocks.0", "mid.0"),
        ("middle.attentions.0", "mid.0.attention"),
        ("middle.blocks.1", "mid.1"),
    )
    yield from (("norm_out", "out_norm"), ("conv_out", "out_conv"))
