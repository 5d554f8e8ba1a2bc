"""Open the network pickles of NVlabs/edm, `network-snapshot-*.pkl`, without running the code in them.

Both nets of Karras et al. (2022) are known, `DhariwalUNet` (ADM) and `SongUNet` (DDPM++, NCSN++), under the four
preconditionings of their table 1.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from image_pipeline.interop.imported import Imported
from image_pipeline.interop.persistence import Record, read
from image_pipeline.interop.settings import blaming
from image_pipeline.interop.weights import by_channel, fill, names_of
from image_pipeline.nets import build_model
from image_pipeline.nets.sigma_label import SigmaLabel
from image_pipeline.nets.song_config import SongUNetConfig
from image_pipeline.nets.song_unet import SongUNet
from pcdiff.diffusion import VE, VP, DiscreteProcess, EDMProcess, NetDenoiser, cosine_betas, parametrization
from pcdiff.errors import InputError
from pcdiff.nets import UNet, UNetConfig
from pcdiff.runtime.memory_limit import budget_for, built_for, check_depth

PARTS = {
    "norm1": "norm0",
    "conv1": "conv0",
    "embed": "affine",
    "norm2": "norm1",
    "conv2": "conv1",
    "skip": "skip",
    "norm": "norm2",
}


def load(path: str | Path) -> Imported:
    """Rebuild a network with its process and preconditioning.

    Sampling is conditioned on no augmentation. Class labels are indices; index `num_classes`, and none, stand for
    no class.

    Args:
        path: a pickle with the key `ema`, as training writes it, or of the network alone.

    Raises:
        InputError: the file is missing or damaged, would run code, or holds another kind of network; or a weight is
            left over or missing.

    Example:
        >>> model = load("edm-cifar10-32x32-uncond-vp.pkl")
        >>> sample(model.denoiser, (4, *model.image_shape), sampler="heun", num_steps=18, grid="edm")
    """
    path = Path(path)
    content = read(path)
    wrapped = content.get("ema") if isinstance(content, dict) else content
    if not isinstance(wrapped, Record) or wrapped.class_name not in PRECONDITIONINGS:
        got = wrapped.class_name if isinstance(wrapped, Record) else type(wrapped).__name__
        raise InputError(f"{path}: expected a network of {sorted(PRECONDITIONINGS)} under 'ema', got {got}")
    with blaming(
        path, KeyError, TypeError, ValueError, AttributeError, RecursionError, RuntimeError, ArithmeticError
    ):
        return _rebuild(wrapped, f"EDM {path.stem}", ema=wrapped is not content)


def _rebuild(wrapped: Record, name: str, ema: bool) -> Imported:
    inner = wrapped.child("model")
    if inner.class_name not in NETS:
        raise InputError(f"expected a net of {sorted(NETS)}, got {inner.class_name}")
    arguments = inner.arguments
    config, used = NETS[inner.class_name](dict(arguments))
    unknown = sorted(set(arguments) - used)
    if unknown:
        raise InputError(f"{inner.class_name} has unknown arguments {unknown}")
    stored, size = inner.tensors(), arguments["img_resolution"]
    net = built_for(stored, lambda: build_model(config))
    modules = _dhariwal_modules(net, size) if isinstance(net, UNet) else _song_modules(net, size)
    # without what follows from the config, and what our UNet never takes
    unused = ("resample_filter", "map_augment.weight") if isinstance(net, UNet) else ("resample_filter",)
    weights = {key: value for key, value in stored.items() if not key.endswith(unused)}
    if isinstance(net, UNet) and "map_label.weight" in weights:
        # one column a class, of one-hot labels, and zeros for none
        rows = weights["map_label.weight"].t()
        weights["map_label.weight"] = torch.cat([rows, torch.zeros_like(rows[:1])])
    fill(net, names_of(net, modules, PARTS), weights, by_channel)
    channels = arguments["in_channels"]
    with budget_for(stored):
        denoiser = PRECONDITIONINGS[wrapped.class_name](net, wrapped.state)
    return Imported(
        denoiser.eval(),
        (-1.0, 1.0),
        (channels, size, size),
        name,
        net.config.num_classes,
        ema=ema,
    )


def _factors(arguments: dict[str, Any], default: list[int], levels: int) -> tuple[int, ...]:
    check_depth("channel_mult", arguments.get("channel_mult"))
    size, wanted = arguments["img_resolution"], arguments.get("attn_resolutions", default)
    return tuple(2**level for level in range(levels) if size >> level in wanted)


_SHARED = set(
    "img_resolution in_channels out_channels label_dim augment_dim model_channels channel_mult channel_mult_emb "
    "num_blocks attn_resolutions dropout label_dropout".split()
)


def _dhariwal(arguments: dict[str, Any]) -> tuple[UNetConfig, set[str]]:
    width, mult = arguments.get("model_channels", 192), arguments.get("channel_mult", [1, 2, 3, 4])
    classes = arguments.get("label_dim", 0) or None
    config = UNetConfig(
        in_channels=arguments["in_channels"],
        out_channels=arguments["out_channels"],
        model_channels=width,
        channel_mult=tuple(mult),
        num_res_blocks=arguments.get("num_blocks", 3),
        attention_factors=_factors(arguments, [32, 16, 8], len(mult)),
        num_head_channels=64,
        downsample="resblock",
        upsample="resblock",
        num_classes=classes,
        null_class=classes is not None,
        time_embed_dim=width * arguments.get("channel_mult_emb", 4),
        norm_min_channels=4,
        dropout=arguments.get("dropout", 0.1),
    )
    return config, _SHARED


def _song(arguments: dict[str, Any]) -> tuple[SongUNetConfig, set[str]]:
    mult = arguments.get("channel_mult", [1, 2, 2, 2])
    config = SongUNetConfig(
        in_channels=arguments["in_channels"],
        out_channels=arguments["out_channels"],
        model_channels=arguments.get("model_channels", 128),
        channel_mult=tuple(mult),
        embed_mult=arguments.get("channel_mult_emb", 4),
        noise_mult=arguments.get("channel_mult_noise", 1),
        num_blocks=arguments.get("num_blocks", 4),
        attention_factors=_factors(arguments, [16], len(mult)),
        dropout=arguments.get("dropout", 0.1),
        embedding=arguments.get("embedding_type", "positional"),
        encoder=arguments.get("encoder_type", "standard"),
        decoder=arguments.get("decoder_type", "standard"),
        resample_filter=tuple(arguments.get("resample_filter", [1, 1])),
        num_classes=arguments.get("label_dim", 0) or None,
        augment_dim=arguments.get("augment_dim", 0),
    )
    own = {"embedding_type", "channel_mult_noise", "encoder_type", "decoder_type", "resample_filter"}
    return config, _SHARED | own


# from constructor arguments to our config, and the arguments that are known
NETS: dict[str, Callable[[dict[str, Any]], tuple[UNetConfig | SongUNetConfig, set[str]]]] = {
    "DhariwalUNet": _dhariwal,
    "SongUNet": _song,
}


def _attended(ours: str, attentions: str, theirs: str) -> Iterator[tuple[str, str]]:
    """Pair a block of theirs with a block of ours, and its attention, if it has one."""
    yield ours, theirs
    yield attentions, theirs


def _dhariwal_modules(net: UNet, size: int) -> Iterator[tuple[str, str]]:
    yield from (("time_mlp.0", "map_layer0"), ("time_mlp.2", "map_layer1"), ("class_embed", "map_label"))
    yield "conv_in", f"enc.{size}x{size}_conv"
    for k, level in enumerate(net.down):
        name = f"enc.{size >> k}x{size >> k}"
        for i in range(len(level.blocks)):
            yield from _attended(f"down.{k}.blocks.{i}", f"down.{k}.attentions.{i}", f"{name}_block{i}")
        smaller = size >> (k + 1)
        yield f"down.{k}.resample", f"enc.{smaller}x{smaller}_down"
    deepest = size >> (len(net.down) - 1)
    yield from _attended("middle.blocks.0", "middle.attentions.0", f"dec.{deepest}x{deepest}_in0")
    yield "middle.blocks.1", f"dec.{deepest}x{deepest}_in1"
    for k, level in enumerate(net.up):
        here, larger = deepest << k, deepest << (k + 1)
        for i in range(len(level.blocks)):
            yield from _attended(f"up.{k}.blocks.{i}", f"up.{k}.attentions.{i}", f"dec.{here}x{here}_block{i}")
        yield f"up.{k}.resample", f"dec.{larger}x{larger}_up"
    yield from (("norm_out", "out_norm"), ("conv_out", "out_conv"))


def _song_modules(net: SongUNet, size: int) -> Iterator[tuple[str, str]]:
    yield from (("features.frequencies", "map_noise.freqs"), ("class_embed", "map_label"))
    yield "augment_embed", "map_augment"
    yield from (("time_mlp.0", "map_layer0"), ("time_mlp.2", "map_layer1"), ("conv_in", f"enc.{size}x{size}_conv"))
    side = "aux_skip" if net.config.encoder == "skip" else "aux_residual"
    for k, level in enumerate(net.down):
        name = f"enc.{size >> k}x{size >> k}"
        yield from ((f"down.{k}.resample", f"{name}_down"), (f"down.{k}.side", f"{name}_{side}"))
        for i in range(len(level.blocks)):
            yield from _attended(f"down.{k}.blocks.{i}", f"down.{k}.attentions.{i}", f"{name}_block{i}")
    deepest = size >> (len(net.down) - 1)
    yield from _attended("middle.0", "middle_attention", f"dec.{deepest}x{deepest}_in0")
    yield "middle.1", f"dec.{deepest}x{deepest}_in1"
    for k, level in enumerate(net.up):
        name = f"dec.{deepest << k}x{deepest << k}"
        last = len(level.blocks) - 1
        yield f"up.{k}.resample", f"{name}_up"
        for i in range(len(level.blocks)):
            yield f"up.{k}.blocks.{i}", f"{name}_block{i}"
        yield f"up.{k}.attention", f"{name}_block{last}"
        yield from ((f"up.{k}.image_norm", f"{name}_aux_norm"), (f"up.{k}.image_conv", f"{name}_aux_conv"))


def _edm(net: nn.Module, state: dict[str, Any]) -> NetDenoiser:
    return NetDenoiser(net, EDMProcess(), parametrization("edm", sigma_data=state["sigma_data"]), "edm")


def _vp(net: nn.Module, state: dict[str, Any]) -> NetDenoiser:
    if state["M"] != 1000:
        raise InputError(f"VPPrecond must count 1000 steps, got M = {state['M']}")
    # D = x - sigma F(x / sqrt(1 + sigma^2)) is the noise that F finds in the shrunken x
    return NetDenoiser(net, VP(state["beta_min"], state["beta_min"] + state["beta_d"]), "eps", "999t")


def _ve(net: nn.Module, state: dict[str, Any]) -> NetDenoiser:
    # D = x + sigma F(x, log(sigma / 2)): F is the score times sigma
    return NetDenoiser(SigmaLabel(net, 0.5), VE(state["sigma_min"], state["sigma_max"]), "score", "sigma")


def _iddpm(net: nn.Module, state: dict[str, Any]) -> NetDenoiser:
    chain = DiscreteProcess(cosine_betas(state["M"], offset=state["C_2"], max_beta=1 - state["C_1"]))
    return NetDenoiser(net, chain, "eps", "step", "learned_range")


PRECONDITIONINGS: dict[str, Callable[[nn.Module, dict[str, Any]], NetDenoiser]] = {
    "EDMPrecond": _edm,
    "VPPrecond": _vp,
    "VEPrecond": _ve,
    "iDDPMPrecond": _iddpm,
}
