"""The names that score_sde gives the weights of its U-Nets: `all_modules.<i>`, in the order of building."""

from collections.abc import Iterator

from torch import nn

from image_pipeline.interop.weights import Names
from image_pipeline.nets.blocks import ResBlock
from image_pipeline.nets.embeddings import FourierFeatures
from image_pipeline.nets.levels import Combine, InputSkip, OutputSkip
from image_pipeline.nets.unet import ScoreUNet
from pcdiff.nets.attention import SelfAttention
from pcdiff.nets.resampling import Downsample, Upsample

# what score_sde counts as one module, with or without weights
_COUNTED = (
    nn.Linear,
    nn.Conv2d,
    nn.GroupNorm,
    FourierFeatures,
    ResBlock,
    SelfAttention,
    Downsample,
    Upsample,
    Combine,
)


def unet_names(net: ScoreUNet, biggan: bool) -> Names:
    """Return the file's name, or names, of every tensor in the net's state dict.

    Args:
        net: the net.
        biggan: its blocks are BigGAN's, whose shortcuts are convolutions and not "NIN".
    """
    names: Names = {"sigmas": ("sigmas",)} if hasattr(net, "sigmas") else {}
    for i, (path, module) in enumerate(_counted(net, "")):
        theirs = f"all_modules.{i}"
        for key in module.state_dict():
            names[f"{path}.{key}"] = tuple(f"{theirs}.{name}" for name in _inside(module, key, biggan))
    return names


def _counted(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that are counted, in the order of registration, and nothing within them."""
    for name, child in module.named_children():
        here = f"{path}.{name}" if path else name
        if isinstance(module, (InputSkip, OutputSkip)) and isinstance(child, (Downsample, Upsample)):
            continue  # shared by all levels there, and without a number
        if isinstance(child, _COUNTED):
            yield here, child
        else:
            yield from _counted(child, here)


def _inside(module: nn.Module, key: str, biggan: bool) -> tuple[str, ...]:
    layer, _, kind = key.rpartition(".")
    matrix = {"weight": "W", "bias": "b"}.get(kind)
    if isinstance(module, FourierFeatures):
        return ("W",)
    if isinstance(module, ResBlock):
        if layer == "shortcut" and not biggan:
            return (f"NIN_0.{matrix}",)
        names = {"norm1": "GroupNorm_0", "conv1": "Conv_0", "time": "Dense_0", "norm2": "GroupNorm_1"}
        return (f"{({**names, 'conv2': 'Conv_1', 'shortcut': 'Conv_2'})[layer]}.{kind}",)
    if isinstance(module, SelfAttention):
        if layer == "norm":
            return (f"GroupNorm_0.{kind}",)
        return (f"NIN_3.{matrix}",) if layer == "proj" else tuple(f"NIN_{j}.{matrix}" for j in range(3))
    if isinstance(module, (Downsample, Upsample)):
        return (f"{'Conv_0' if module.kernel is None else 'Conv2d_0'}.{kind}",)
    return (f"Conv_0.{kind}",) if isinstance(module, Combine) else (key,)
