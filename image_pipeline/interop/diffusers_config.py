"""`config.json` of diffusers' UNet2DModel and our configs, both ways."""

from collections.abc import Mapping
from typing import Any

from image_pipeline.nets.song_config import SongUNetConfig
from pcdiff.errors import InputError
from pcdiff.nets import UNetConfig
from pcdiff.runtime.memory_limit import check_depth

# what diffusers assumes where a config leaves it open
DEFAULTS = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
# the settings that nobody's checkpoints move
FIXED = {
    "mid_block_type": ("UNetMidBlock2D",),
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "class_embed_type": (None,),
}
PLAIN = {
    "down": ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up": ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}
SKIP = {"down": ("SkipDownBlock2D", "AttnSkipDownBlock2D"), "up": ("SkipUpBlock2D", "AttnSkipUpBlock2D")}
# what our nets of skip blocks must be, for diffusers has no other
SKIP_ONLY = {
    "in_channels": 3,
    "out_channels": 3,
    "noise_mult": 2,
    "embedding": "fourier",
    "encoder": "skip",
    "decoder": "skip",
    "resample_filter": (1, 3, 3, 1),
    "num_classes": None,
    "attention_norm_groups": 32,
}
_RESAMPLING = {"conv": "conv", "resnet": "resblock", None: "conv"}


def net_config(config: Mapping[str, Any]) -> UNetConfig | SongUNetConfig:
    """Return what a `config.json` describes.

    Raises:
        InputError: it is no UNet2DModel, or a setting is unknown or not supported.
    """
    name = config.get("_class_name")
    if name != "UNet2DModel":
        raise InputError(f"_class_name must be 'UNet2DModel', got {name!r}")
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    unknown = sorted(set(config) - set(DEFAULTS))
    if unknown:
        raise InputError(f"unknown settings {unknown}")
    config = DEFAULTS | config
    for key, known in FIXED.items():
        if config[key] not in known:
            raise InputError(f"{key} must be {known[0]!r}, got {config[key]!r}")
    widths, down, up = (tuple(config[key]) for key in ("block_out_channels", "down_block_types", "up_block_types"))
    check_depth("block_out_channels", widths)
    if not len(widths) == len(down) == len(up) or not widths:
        raise InputError(f"block_out_channels, down_block_types and up_block_types differ: {widths}, {down}, {up}")
    for family, build in ((PLAIN, _plain), (SKIP, _skip)):
        if set(down) <= set(family["down"]) and set(up) <= set(family["up"]):
            return build(config)
    known = [*PLAIN["down"], *PLAIN["up"]], [*SKIP["down"], *SKIP["up"]]
    raise InputError(f"block types must be all of {known[0]} or all of {known[1]}, got {down} and {up}")


def _attention(types: list[str]) -> tuple[int, ...]:
    return tuple(2**level for level, name in enumerate(types) if name.startswith("Attn"))


def _only(config: Mapping[str, Any], values: Mapping[str, Any], why: str) -> None:
    for key, value in values.items():
        if config[key] != value:
            raise InputError(f"{key} must be {value!r} {why}, got {config[key]!r}")


def _plain(config: Mapping[str, Any]) -> UNetConfig:
    plain = {"time_embedding_type": "positional", "mid_block_scale_factor": 1}
    _only(config, plain, "with these block types")
    down, up = list(config["down_block_types"]), list(config["up_block_types"])[::-1]
    if config["downsample_padding"] not in (0, 1):
        raise InputError(f"downsample_padding must be 0 or 1, got {config['downsample_padding']!r}")
    for key in ("downsample_type", "upsample_type"):
        if config[key] not in _RESAMPLING:
            raise InputError(f"{key} must be 'conv' or 'resnet', got {config[key]!r}")
    if config["resnet_time_scale_shift"] not in ("default", "scale_shift"):
        raise InputError(
            f"resnet_time_scale_shift must be 'default' or 'scale_shift', got {config['resnet_time_scale_shift']!r}"
        )
    scale_shift = config["resnet_time_scale_shift"] == "scale_shift"
    middle_groups = config["attn_norm_num_groups"]
    if middle_groups is None and scale_shift:
        middle_groups = 0  # UNetMidBlock2D then leaves the norm out
    widths, head_dim = config["block_out_channels"], config["attention_head_dim"]
    return UNetConfig(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        center_input=bool(config["center_input_sample"]),
        model_channels=widths[0],
        channel_mult=tuple(width / widths[0] for width in widths),
        num_res_blocks=config["layers_per_block"],
        attention_factors=_attention(down),
        up_attention_factors=None if _attention(up) == _attention(down) else _attention(up),
        num_head_channels=head_dim,
        scale_shift_norm=scale_shift,
        downsample=tuple(_resampling(name, config["downsample_type"]) for name in down),
        upsample=tuple(_resampling(name, config["upsample_type"]) for name in up),
        asymmetric_padding=config["downsample_padding"] == 0,
        num_classes=config["num_class_embeds"],
        time_embed_dim=config["time_embedding_dim"],
        sin_first=not config["flip_sin_to_cos"],
        freq_shift=config["freq_shift"],
        norm_groups=config["norm_num_groups"],
        norm_eps=config["norm_eps"],
        middle_norm_groups=middle_groups,
        dropout=config["dropout"],
    )


def _resampling(block: str, with_attention: str | None) -> str:
    if block.startswith("Attn"):
        return _RESAMPLING[with_attention]
    return "resblock" if block.startswith("Resnet") else "conv"


def _skip(config: Mapping[str, Any]) -> SongUNetConfig:
    # flip_sin_to_cos does not reach random frequencies: sines come first whatever its value
    needed = {
        "time_embedding_type": "fourier",
        "in_channels": 3,
        "out_channels": 3,
        "norm_num_groups": None,
        "attn_norm_num_groups": None,
        "resnet_time_scale_shift": "default",
        "num_class_embeds": None,
    }
    _only(config, needed, "with skip blocks")
    down, up = _attention(config["down_block_types"]), _attention(list(config["up_block_types"])[::-1])
    if down != up:
        raise InputError(f"skip blocks must have attention at the same levels down and up, got {down} and {up}")
    widths, embed_dim = config["block_out_channels"], config["time_embedding_dim"]
    embed_mult, rest = divmod(embed_dim or 4 * widths[0], widths[0])
    if rest:
        raise InputError(f"time_embedding_dim must be a multiple of {widths[0]}, got {embed_dim}")
    return SongUNetConfig(
        **SKIP_ONLY,
        center_input=bool(config["center_input_sample"]),
        model_channels=widths[0],
        channel_mult=tuple(width / widths[0] for width in widths),
        embed_mult=embed_mult,
        num_blocks=config["layers_per_block"],
        attention_factors=down,
        num_head_channels=config["attention_head_dim"],
        dropout=config["dropout"],
        norm_eps=config["norm_eps"],
        middle_divisor=config["mid_block_scale_factor"],
    )


def plain_json(config: UNetConfig, sample_size: int | None) -> dict[str, Any]:
    """Return the `config.json` of a UNet.

    Raises:
        InputError: diffusers cannot express it.
    """
    last = len(config.channels) - 1
    levels = range(last + 1)
    used_down = {config.downsample_at(k) for k in levels if config.attention_at(k) and k < last}
    used_up = {config.upsample_at(k) for k in levels if config.attention_at(k, up=True) and k > 0}
    refusals = {
        "rank must be 2": config.rank != 2,
        "activation must be 'silu'": config.activation != "silu",
        "pad must be 0": config.pad != 0,
        "time_scale must be 1": config.time_scale != 1,
        "class_bias must be false": config.class_bias,
        "channel_mult must start with 1": config.channels[0] != config.model_channels,
        "downsample must be 'conv' or 'resblock'": "pool" in map(config.downsample_at, levels),
        "upsample must be 'conv' or 'resblock'": "nearest" in map(config.upsample_at, levels),
        "levels with attention must all be left alike": len(used_down) > 1 or len(used_up) > 1,
        "middle_norm_groups must not be 0 without scale_shift_norm": (
            not config.scale_shift_norm and config.middle_norm_groups == 0
        ),
    }
    for reason, applies in refusals.items():
        if applies:
            raise InputError(f"diffusers cannot express this net: {reason}")
    down_type, up_type = ((kinds or {"conv"}).pop() for kinds in (used_down, used_up))
    names = {"conv": "conv", "resblock": "resnet"}

    def block(level: int, up: bool) -> str:
        kind = config.upsample_at(level) if up else config.downsample_at(level)
        way = "Up" if up else "Down"
        if config.attention_at(level, up):
            return f"Attn{way}Block2D"
        return f"Resnet{way}sampleBlock2D" if kind == "resblock" else f"{way}Block2D"

    return {
        **DEFAULTS,
        "sample_size": sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "center_input_sample": config.center_input,
        "time_embedding_dim": config.time_embed_dim,
        "freq_shift": config.freq_shift,
        "flip_sin_to_cos": not config.sin_first,
        "down_block_types": [block(level, up=False) for level in levels],
        "up_block_types": [block(level, up=True) for level in reversed(levels)],
        "block_out_channels": list(config.channels),
        "layers_per_block": config.num_res_blocks,
        "downsample_padding": 0 if config.asymmetric_padding else 1,
        "downsample_type": names[down_type],
        "upsample_type": names[up_type],
        "dropout": config.dropout,
        "attention_head_dim": _head_dim(config),
        "norm_num_groups": config.norm_groups,
        "attn_norm_num_groups": _middle_groups(config),
        "norm_eps": config.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift_norm else "default",
        "num_class_embeds": config.num_classes + config.null_class if config.num_classes else None,
    }


def _middle_groups(config: UNetConfig) -> int | None:
    if config.middle_norm_groups is None:
        # where the embedding scales and shifts, diffusers leaves this norm out unless its groups are given
        return config.norm_groups if config.scale_shift_norm else None
    return config.middle_norm_groups or None


def _head_dim(config: UNetConfig) -> int | None:
    if config.num_head_channels is not None:
        return config.num_head_channels
    last = len(config.channels) - 1
    heads = {(config.channels[last], config.heads(config.channels[last]))}
    for level, channels in enumerate(config.channels):
        for up in (False, True):
            if config.attention_at(level, up):
                heads.add((channels, config.heads(channels, up)))
    if all(count == 1 for _, count in heads):
        return None
    widths = {channels // count for channels, count in heads}
    if len(widths) > 1:
        raise InputError(f"diffusers cannot express this net: heads must have one width, got {sorted(widths)}")
    return widths.pop()


def skip_json(config: SongUNetConfig, sample_size: int | None) -> dict[str, Any]:
    """Return the `config.json` of a SongUNet.

    Raises:
        InputError: diffusers cannot express it.
    """
    for name, value in SKIP_ONLY.items():
        if getattr(config, name) != value:
            raise InputError(f"diffusers cannot express this net: {name} must be {value!r}")
    attends = [2**level in config.attention_factors for level in range(len(config.channels))]
    return {
        **DEFAULTS,
        "sample_size": sample_size,
        "center_input_sample": config.center_input,
        "time_embedding_type": "fourier",
        "time_embedding_dim": None if config.embed_mult == 4 else config.embed_dim,
        "down_block_types": [SKIP["down"][attention] for attention in attends],
        "up_block_types": [SKIP["up"][attention] for attention in reversed(attends)],
        "block_out_channels": list(config.channels),
        "layers_per_block": config.num_blocks,
        "mid_block_scale_factor": config.middle_divisor,
        "dropout": config.dropout,
        "attention_head_dim": config.num_head_channels,
        "norm_num_groups": None,
        "norm_eps": config.norm_eps,
    }
