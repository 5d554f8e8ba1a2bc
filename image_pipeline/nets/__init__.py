"""Image nets by name: `net(x, t, cond=None)` gives a tensor like the images `x (B, C, H, W)`, with labels `t (B,)`.

A net is a class whose `Config` is a frozen dataclass of plain values; a new one is a file and a line in `MODELS`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from image_pipeline.nets.ddpm import DDPM, DDPMConfig
from image_pipeline.nets.ncsn import NCSN, NCSNConfig
from image_pipeline.nets.ncsnpp import DDPMpp, DDPMppConfig, NCSNpp
from image_pipeline.nets.ncsnv2 import NCSNv2, NCSNv2Config
from image_pipeline.nets.song_unet import SongUNet, SongUNetConfig
from image_pipeline.nets.unet import NCSNppConfig
from pcdiff.config import from_dict
from pcdiff.errors import InputError, UnknownName
from pcdiff.nets import UNet, UNetConfig

MODELS: dict[str, Any] = {  # classes of nets, each with its `Config`
    "ncsn": NCSN,
    "ncsnv2": NCSNv2,
    "ddpm": DDPM,
    "ddpmpp": DDPMpp,
    "ncsnpp": NCSNpp,
    "song": SongUNet,
    "unet": UNet,
}


def build_model(config: str | Mapping[str, Any] | Any, **fields: Any) -> nn.Module:
    """Build a net from its name, its plain config, or its config dataclass.

    Args:
        config: a key of `MODELS`, for its defaults; what `plain_config` gave, JSON with the key `name`; or one of
            the config dataclasses.
        **fields: fields of the config that differ.

    Raises:
        InputError: the name or a field is unknown (the message lists the known ones), or a value does not fit.

    Example:
        >>> build_model("ncsnpp", nf=32, num_res_blocks=2)
        >>> build_model({"name": "ddpm", "nf": 64, "ch_mult": [1, 2]})
    """
    if isinstance(config, str):
        config = {"name": config}
    elif dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = plain_config(config)
    elif not isinstance(config, Mapping):
        raise InputError(f"config must be a name, a dict or a config dataclass, got a {type(config).__name__}")
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in {**config, **fields}.items()}
    name = values.pop("name", None)
    if name not in MODELS:
        raise UnknownName("name", name, sorted(MODELS))
    kind = MODELS[name]
    return kind(from_dict(kind.Config, values, f"config of {name}"))


def plain_config(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain values for JSON, with the key `name`; `build_model` reads it back.

    Raises:
        InputError: it is not the config of a net in `MODELS`.
    """
    for name, kind in MODELS.items():
        if type(config) is kind.Config:
            values = dataclasses.asdict(config)
            return {"name": name, **{key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}}
    known = sorted(kind.Config.__name__ for kind in MODELS.values())
    raise InputError(f"config must be one of {known}, got a {type(config).__name__}")


__all__ = [
    "DDPM",
    "MODELS",
    "NCSN",
    "DDPMConfig",
    "DDPMpp",
    "DDPMppConfig",
    "NCSNConfig",
    "NCSNpp",
    "NCSNppConfig",
    "NCSNv2",
    "NCSNv2Config",
    "SongUNet",
    "SongUNetConfig",
    "UNet",
    "UNetConfig",
    "build_model",
    "plain_config",
]
