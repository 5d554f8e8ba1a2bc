"""The names that the authors' code gives the weights of NCSN and NCSNv2, in ermongroup's code and in score_sde."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from image_pipeline.interop.weights import Names
from image_pipeline.nets.ncsn import NCSN
from image_pipeline.nets.ncsnv2 import NCSNv2
from image_pipeline.nets.refinenet import ConvUnits

# NCSNv2's deepest net has one stage more than "deeper", and calls it 31
_STAGES = {4: ["1", "2", "3", "4"], 5: ["1", "2", "3", "4", "5"], 6: ["1", "2", "3", "31", "4", "5"]}
_REFINE = {4: ["1", "2", "3", "4"], 5: ["1", "2", "3", "4", "5"], 6: ["1", "2", "31", "3", "4", "5"]}


def refinenet_names(net: NCSN | NCSNv2) -> Names:
    """Return the file's name of every tensor in the net's state dict."""
    names: Names = {key: (key,) for key in net.state_dict() if "." not in key}
    for theirs, module, ours in _modules(net):
        names |= {f"{ours}.{key}": (f"{theirs}.{key}",) for key in module.state_dict()}
    return names


def _modules(net: NCSN | NCSNv2) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield the file's path of every layer and norm, the module, and the net's own path."""
    yield "begin_conv", net.stem, "stem"
    yield "normalizer", net.norm, "norm"
    yield "end_conv", net.head, "head"
    trunk: Any = net.trunk  # lists of modules, whose parts a type checker cannot type
    for k, (number, blocks) in enumerate(zip(_STAGES[len(trunk.stages)], trunk.stages, strict=True)):
        for b, block in enumerate(blocks):
            here, ours = f"res{number}.{b}", f"trunk.stages.{k}.{b}"
            pooled = ".conv" if block.halved else ""  # there a convolution and its pooling are one layer
            yield f"{here}.normalize1", block.norm1, f"{ours}.norm1"
            yield f"{here}.conv1", block.conv1, f"{ours}.conv1"
            yield f"{here}.normalize2", block.norm2, f"{ours}.norm2"
            yield f"{here}.conv2{pooled}", block.conv2, f"{ours}.conv2"
            yield f"{here}.shortcut{pooled}", block.shortcut, f"{ours}.shortcut"
    for k, (number, block) in enumerate(zip(_REFINE[len(trunk.refine)], trunk.refine, strict=True)):
        here, ours = f"refine{number}", f"trunk.refine.{k}"
        for i, units in enumerate(block.adapt):
            yield from _units(units, f"{here}.adapt_convs.{i}", f"{ours}.adapt.{i}")
        yield from _units(block.output, f"{here}.output_convs", f"{ours}.output")
        for part, their_part, layers in (("fusion", "msf", block.fusion), ("pooling", "crp", block.pooling)):
            if layers is None:
                continue
            for i, (norm, conv) in enumerate(zip(layers.norms, layers.convs, strict=True)):
                yield f"{here}.{their_part}.norms.{i}", norm, f"{ours}.{part}.norms.{i}"
                yield f"{here}.{their_part}.convs.{i}", conv, f"{ours}.{part}.convs.{i}"


def _units(units: ConvUnits, here: str, ours: str) -> Iterator[tuple[str, nn.Module, str]]:
    for i, (norm, conv) in enumerate(zip(units.norms, units.convs, strict=True)):
        place = f"{i // 2 + 1}_{i % 2 + 1}"
        yield f"{here}.{place}_norm", norm, f"{ours}.norms.{i}"
        yield f"{here}.{place}_conv", conv, f"{ours}.convs.{i}"
