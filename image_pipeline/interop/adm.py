"""Open the checkpoints of openai/guided-diffusion ("ADM") and openai/improved-diffusion.

Their files are bare state dicts, `ema_0.9999_100000.pt` and the like. Heads, attention order and schedule leave no
trace in them, so the settings come beside: the constructor's arguments, or the flags the scripts were given.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from image_pipeline.interop import adm_config
from image_pipeline.interop.imported import Imported
from image_pipeline.interop.settings import Config, blaming, called, read_settings
from image_pipeline.interop.weights import by_head, fill, names_of, read_state_dict
from pcdiff.diffusion import NetDenoiser
from pcdiff.diffusion.denoisers.guidance import LogProb
from pcdiff.nets import EncoderClassifier, UNet
from pcdiff.nets.unet_encoder import UNetEncoder
from pcdiff.runtime.memory_limit import budget_for, built_for

PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "embed": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
    "proj": "proj_out",
}


def load(path: str | Path, config: Config) -> Imported:
    """Rebuild a UNet with its chain, label, and variance.

    Args:
        path: a state dict (.pt).
        config: a dict, JSON or the path of a JSON file: constructor arguments (`model_channels`,
            `attention_resolutions` as factors, ...) or the scripts' flags (`num_channels`, `attention_resolutions`
            as sizes, ...), and with either `diffusion_steps`, `noise_schedule`, `timestep_respacing`,
            `predict_xstart`, `sigma_small`, `rescale_timesteps`. Keys that start with `_` are passed over.
            `use_fp16` is not needed: weights come in float32, and `net.half_torso()` is the caller's to ask.

    Raises:
        InputError: the file is damaged or would run code, a setting is unknown or does not fit, or a weight is left
            over or missing.

    Example:
        >>> model = load("ema_0.9999_500000.pt", {"image_size": 64, "num_channels": 128, "learn_sigma": True})
        >>> sample(model.denoiser, (4, *model.image_shape), sampler="ddim", num_steps=50)
    """
    path = Path(path)
    settings = read_settings(config)
    weights = read_state_dict(path)
    labels = weights.get("label_emb.weight")
    with blaming(called(config), TypeError, ArithmeticError, RuntimeError), budget_for(weights):
        classes = None if labels is None else len(labels)
        net = built_for(weights, lambda: UNet(adm_config.unet_config(settings, classes)))
        learned = net.config.out_channels == 2 * net.config.in_channels
        denoiser = NetDenoiser(
            net,
            adm_config.process(settings),
            "x0" if settings.get("predict_xstart", False) else "eps",
            adm_config.time_input(settings),
            adm_config.variance(settings, learned),
        )
    _fill(net, weights, _unet_modules(net), settings, path)
    size = settings.get("image_size", 64 if adm_config.is_script(settings) else None)
    with blaming(called(config)):
        return Imported(
            denoiser.eval(),
            (-1.0, 1.0),
            (net.config.in_channels, size, size) if net.config.rank == 2 else None,
            f"ADM {path.stem}",
            net.config.num_classes,
            ema=path.name.startswith("ema_"),  # the file has no other sign of it
        )


def load_classifier(path: str | Path, config: Config) -> EncoderClassifier:
    """Rebuild a classifier of noisy images, `classifier(x, label) -> logits (B, classes)`.

    Args:
        path: a state dict (.pt).
        config: a dict, JSON or the path of a JSON file: constructor arguments of ADM's `EncoderUNetModel`, or the
            flags `classifier_width` and so on with `image_size`.

    Raises:
        InputError: see `load`.
    """
    path = Path(path)
    settings = read_settings(config)
    weights = read_state_dict(path)
    with blaming(called(config)):
        net = built_for(weights, lambda: EncoderClassifier(adm_config.classifier_config(settings)))
    _fill(net, weights, _classifier_modules(net), settings, path)
    return net.eval()


def classifier_log_prob(classifier: nn.Module, denoiser: NetDenoiser) -> LogProb:
    """Return log p(y | x_t) for `ClassifierGuidance`: the classifier takes the denoiser's time input.

    Args:
        classifier: `classifier(x, label) -> logits (B, classes)`.
        denoiser: of the model that is guided; both were trained on one chain.

    Example:
        >>> guided = ClassifierGuidance(denoiser, classifier_log_prob(classifier, denoiser), scale=1.0)
    """

    def log_prob(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        logits = classifier(x, denoiser.tau(t))
        return logits.log_softmax(dim=1).gather(1, cond[:, None])[:, 0]

    return log_prob


def _fill(
    net: UNetEncoder,
    weights: Mapping[str, Tensor],
    modules: Iterator[tuple[str, str]],
    settings: Mapping[str, Any],
    path: Path,
) -> None:
    order = None if settings.get("use_new_attention_order", False) else by_head
    with blaming(path):
        fill(net, names_of(net, modules, PARTS), weights, order)


def _encoder_modules(net: UNetEncoder) -> Iterator[tuple[str, str]]:
    yield from (("time_mlp.0", "time_embed.0"), ("time_mlp.2", "time_embed.2"), ("class_embed", "label_emb"))
    yield "conv_in", "input_blocks.0.0"
    index = 1
    for k, level in enumerate(net.down):
        for i in range(len(level.blocks)):
            yield f"down.{k}.blocks.{i}", f"input_blocks.{index}.0"
            yield f"down.{k}.attentions.{i}", f"input_blocks.{index}.1"
            index += 1
        if level.resample is not None:
            yield f"down.{k}.resample", f"input_blocks.{index}.0"
            yield f"down.{k}.resample.conv", f"input_blocks.{index}.0.op"
            index += 1
    yield from (
        ("middle.blocks.0", "middle_block.0"),
        ("middle.attentions.0", "middle_block.1"),
        ("middle.blocks.1", "middle_block.2"),
    )


def _unet_modules(net: UNet) -> Iterator[tuple[str, str]]:
    yield from _encoder_modules(net)
    index = 0
    for k, level in enumerate(net.up):
        for i in range(len(level.blocks)):
            yield f"up.{k}.blocks.{i}", f"output_blocks.{index}.0"
            yield f"up.{k}.attentions.{i}", f"output_blocks.{index}.1"
            index += 1
        if level.resample is not None:
            place = 2 if len(level.attentions) else 1
            yield f"up.{k}.resample", f"output_blocks.{index - 1}.{place}"
    yield from (("norm_out", "out.0"), ("conv_out", "out.2"))


def _classifier_modules(net: EncoderClassifier) -> Iterator[tuple[str, str]]:
    yield from _encoder_modules(net)
    match net.config.pool:
        case "attention":
            yield from (("norm_out", "out.0"), ("head", "out.2"))
            yield "head.positions", "out.2.positional_embedding"
            yield from (("head.qkv", "out.2.qkv_proj"), ("head.proj", "out.2.c_proj"))
        case "adaptive":
            yield from (("norm_out", "out.0"), ("head", "out.3"))
        case _:
            yield from ((f"head.{i}", f"out.{i}") for i in (0, 1, 2, 3))
