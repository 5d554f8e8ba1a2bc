"""The settings of guided-diffusion and improved-diffusion, as constructor arguments or as the scripts' flags."""

from collections.abc import Mapping
from typing import Any

from pcdiff.diffusion import DiscreteProcess, cosine_betas, linear_betas, spaced_times
from pcdiff.errors import InputError
from pcdiff.nets import ClassifierConfig, UNetConfig
from pcdiff.runtime.memory_limit import check_depth

# multiples of the width by image size (ADM's script_util)
CHANNEL_MULTS = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
}
_COMMON = (
    "image_size in_channels num_res_blocks dropout channel_mult num_heads num_head_channels num_heads_upsample "
    "attention_resolutions use_scale_shift_norm resblock_updown use_new_attention_order use_checkpoint use_fp16"
)
CONSTRUCTOR = set(f"{_COMMON} model_channels out_channels conv_resample dims num_classes".split())
SCRIPT = set(f"{_COMMON} num_channels class_cond".split())
DIFFUSION = set(
    "learn_sigma diffusion_steps noise_schedule timestep_respacing use_kl predict_xstart rescale_timesteps "
    "rescale_learned_sigmas sigma_small".split()
)
CLASSIFIER_SCRIPT = {
    "classifier_width": "model_channels",
    "classifier_depth": "num_res_blocks",
    "classifier_attention_resolutions": "attention_resolutions",
    "classifier_use_scale_shift_norm": "use_scale_shift_norm",
    "classifier_resblock_updown": "resblock_updown",
    "classifier_pool": "pool",
    "classifier_use_fp16": "use_fp16",
}
# ADM's classifier_defaults, and what its create_classifier fixes
CLASSIFIER_DEFAULTS = {
    "image_size": 64,
    "model_channels": 128,
    "num_res_blocks": 2,
    "attention_resolutions": "32,16,8",
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "pool": "attention",
    "num_head_channels": 64,
    "out_channels": 1000,
}


def known_only(config: Mapping[str, Any], known: set[str]) -> None:
    """Refuse settings that nobody here reads.

    Raises:
        InputError: lists them.
    """
    unknown = sorted(key for key in map(str, config) if key not in known and not key.startswith("_"))
    if unknown:
        raise InputError(f"unknown settings {unknown}; known are {sorted(known)}")


def is_script(config: Mapping[str, Any]) -> bool:
    """Return whether the settings are the scripts' flags, `num_channels` and so on."""
    return "model_channels" not in config


def unet_config(config: Mapping[str, Any], num_classes: int | None) -> UNetConfig:
    """Return the UNet that the settings describe.

    Args:
        config: constructor arguments or flags, with those of the diffusion among them or not.
        num_classes: number of classes of the weights, for flags, which have `class_cond` alone.

    Raises:
        InputError: a setting is unknown, missing, or does not fit another.
    """
    script = is_script(config)
    known_only(config, (SCRIPT if script else CONSTRUCTOR) | DIFFUSION)
    channels = config.get("in_channels", 3)
    if script:
        out_channels = channels * (2 if config.get("learn_sigma", False) else 1)
        classes = num_classes if config.get("class_cond", False) else None
        width, size = config.get("num_channels", 128), config.get("image_size", 64)
        # script defaults; the constructors' own are other ones
        settings = {
            "num_res_blocks": 2,
            "num_heads": 4,
            "attention_resolutions": "16,8",
            "use_scale_shift_norm": True,
        } | dict(config)
    else:
        out_channels, classes = _needed(config, "out_channels"), config.get("num_classes")
        width, size, settings = config["model_channels"], config.get("image_size"), config
        if "learn_sigma" in config and config["learn_sigma"] != (out_channels == 2 * channels):
            got = f"learn_sigma {config['learn_sigma']} with {channels} and {out_channels} channels"
            raise InputError(
                f"out_channels must be twice in_channels where learn_sigma is set, and only there; {got}"
            )
    return UNetConfig(
        in_channels=channels,
        out_channels=out_channels,
        model_channels=width,
        num_classes=classes,
        num_heads_upsample=_or_none(settings.get("num_heads_upsample")),
        upsample=_resampling(settings, "nearest"),
        **_shared(settings, size, as_sizes=script),
    )


def classifier_config(config: Mapping[str, Any]) -> ClassifierConfig:
    """Return the classifier that the settings describe.

    Args:
        config: constructor arguments of ADM's encoder, or the flags `classifier_...`.

    Raises:
        InputError: a setting is unknown, missing, or does not fit another.
    """
    script = is_script(config)
    if script:
        known_only(config, {"image_size", *CLASSIFIER_SCRIPT})
        config = CLASSIFIER_DEFAULTS | {CLASSIFIER_SCRIPT.get(key, key): value for key, value in config.items()}
    else:
        known_only(config, (CONSTRUCTOR - {"num_classes"}) | {"pool"})
    return ClassifierConfig(
        in_channels=config.get("in_channels", 3),
        out_channels=_needed(config, "out_channels"),
        model_channels=config["model_channels"],
        pool=config.get("pool", "adaptive"),
        image_size=_needed(config, "image_size"),
        **_shared(config, config.get("image_size"), as_sizes=script),
    )


def _shared(config: Mapping[str, Any], size: int | None, as_sizes: bool) -> dict[str, Any]:
    mult = config.get("channel_mult") or (CHANNEL_MULTS.get(size) if as_sizes else (1, 2, 4, 8))
    if mult is None:
        raise InputError(f"channel_mult is needed for image_size {size}; known sizes are {sorted(CHANNEL_MULTS)}")
    check_depth("channel_mult", mult)
    mult = _numbers(mult, "channel_mult", float)
    attention = _numbers(_needed(config, "attention_resolutions"), "attention_resolutions", int)
    factors = {size // resolution if as_sizes and resolution else resolution for resolution in attention}
    if config.get("dims", 2) not in (1, 2):  # in three, ADM halves only two of them
        raise InputError(f"dims must be 1 or 2, got {config['dims']}")
    return {
        "rank": config.get("dims", 2),
        "channel_mult": mult,
        "num_res_blocks": _needed(config, "num_res_blocks"),
        # one that no level reaches is passed over, as ADM does
        "attention_factors": tuple(sorted(factors & {2**level for level in range(len(mult))})),
        "num_heads": config.get("num_heads", 1),
        "num_head_channels": _or_none(config.get("num_head_channels")),
        "scale_shift_norm": bool(config.get("use_scale_shift_norm", False)),
        "downsample": _resampling(config, "pool"),
        "dropout": config.get("dropout", 0.0),
        "checkpoint": bool(config.get("use_checkpoint", False)),
    }


def _needed(config: Mapping[str, Any], name: str) -> Any:
    if config.get(name) is None:
        raise InputError(f"{name} is needed")
    return config[name]


def _or_none(value: int | None) -> int | None:
    return None if value == -1 else value


def _resampling(config: Mapping[str, Any], plain: str) -> str:
    if config.get("resblock_updown", False):
        return "resblock"
    return "conv" if config.get("conv_resample", True) else plain


def _numbers(value: Any, name: str, kind: type) -> tuple:
    try:
        parts = value.split(",") if isinstance(value, str) else list(value)
        numbers = tuple(kind(part) for part in parts)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers, a list or with commas between, got {value!r}") from None
    return tuple(int(n) if n == int(n) else n for n in numbers)


def process(config: Mapping[str, Any]) -> DiscreteProcess:
    """Return the chain that the settings describe: ADM's schedules, respaced where asked.

    Raises:
        InputError: an unknown schedule or spacing.
    """
    steps = config.get("diffusion_steps", 1000)
    schedule = config.get("noise_schedule", "linear")
    if not isinstance(steps, int) or steps < 1:
        raise InputError(f"diffusion_steps must be a positive integer, got {steps!r}")
    if schedule == "linear":  # DDPM's ends belong to a thousand steps
        chain = DiscreteProcess(linear_betas(steps, 1e-4 * 1000 / steps, 0.02 * 1000 / steps))
    elif schedule == "cosine":
        chain = DiscreteProcess(cosine_betas(steps))
    else:
        raise InputError(f"noise_schedule must be 'linear' or 'cosine', got {schedule!r}")
    spacing = config.get("timestep_respacing")
    if isinstance(spacing, list):
        spacing = ",".join(map(str, spacing))
    return chain.respaced(spaced_times(steps, str(spacing))) if spacing else chain


def time_input(config: Mapping[str, Any]) -> str:
    """Return how the net takes the step: as it is, or stretched to a thousand.

    The default differs: guided-diffusion does not stretch, improved-diffusion does. With a thousand steps both say
    the same.

    Raises:
        InputError: `rescale_timesteps` is not given and it matters.
    """
    rescale = config.get("rescale_timesteps")
    if rescale is None and config.get("diffusion_steps", 1000) != 1000:
        raise InputError(
            "rescale_timesteps is needed unless diffusion_steps is 1000: "
            "improved-diffusion's default is true, guided-diffusion's false"
        )
    return "step1000" if rescale else "step"


def variance(config: Mapping[str, Any], learned: bool) -> str:
    """Return the reverse steps' variance, a key of `pcdiff.diffusion.VARIANCES`."""
    if learned:
        return "learned_range"
    return "small" if config.get("sigma_small", False) else "large"
